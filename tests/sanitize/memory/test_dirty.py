"""'quire run --sanitize=dirty' on a VMM that copies its guest's memory and forgets what its own devices
wrote: that is reported, with the call that wrote where there is one. Its mended twin is not, nor are
those of whose copy too little is seen.

usage: test_dirty.py QUIRE CLIENT STATIC_CLIENT
"""
import sys
import unittest

import detecting

QUIRE, CLIENT, STATIC = sys.argv[1:4]
# An alias is a second slot of the same memory.
FAULTY = ("forgotten", "sent", "alias")
QUIET = ("told", "told-sent", "aborted", "display", "instructions", "alias-aborted")
LOGS = ("bitmap", "ring")
READ, STORED = ["0x30000", "0x31000"], ["0x31000", "0x32000"]


def run(*words, client=CLIENT):
    return detecting.run(QUIRE, "dirty", client, *words)


class Copies(unittest.TestCase):
    def check_found(self, found, text):
        by_call, by_store = sorted(found, key=lambda finding: finding["guest"])
        self.assertEqual((by_call["guest"], by_store["guest"]), (READ, STORED), text)
        functions = [frame.get("function") for frame in by_call["changed"]["frames"]]
        self.assertIn("device_reads", functions[:2], text)
        self.assertNotIn("changed", by_store, text)
        for finding in found:
            functions = [frame.get("function") for frame in finding["used"]["frames"]]
            self.assertTrue({"harvest_slot", "harvest_ring"} & set(functions[:2]), text)

    def test_faulty(self):
        for log in LOGS:
            for how in FAULTY:
                for end in ([], ["off"]):
                    with self.subTest(how=how, log=log, end=end):
                        status, text, found = run(how, log, *end)
                        self.assertEqual((status, len(found)), (detecting.FOUND, 2), text)
                        self.check_found(found, text)

    def test_quiet(self):
        for log in LOGS:
            for how in QUIET:
                with self.subTest(how=how, log=log):
                    self.assertEqual(run(how, log, "off"), (0, "", []))

    def test_static(self):
        for how in FAULTY:
            with self.subTest(how=how):
                status, text, found = run(how, client=STATIC)
                self.assertEqual(status, detecting.FOUND, text)
                self.assertEqual(sorted(finding["guest"] for finding in found), [READ, STORED], text)
                self.assertEqual(sum("changed" in finding for finding in found), 1, text)
        for how in QUIET:
            with self.subTest(how=how):
                self.assertEqual(run(how, client=STATIC), (0, "", []))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
