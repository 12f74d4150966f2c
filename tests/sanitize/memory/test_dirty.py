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
LOGS = ("bitmap", "ring", "manual", "initially-set")
READ, STORED = ["0x30000", "0x31000"], ["0x31000", "0x32000"]


# Ways in which the kernel writes to memory for a device.
WAYS = ("readv", "preadv", "vmsplice", "process_vm_writev", "getrandom", "io_submit", "io_submit parts", "recv", "recvmsg",
        "recvmmsg", "UFFDIO_COPY", "UFFDIO_MOVE")
# Ways that no call of the program's on the slot's own addresses shows.
UNSEEN = ("alias", "alias read", "file", "process", "io_uring", "other VM", "other VM, logged")
# A host without userfaultfd, UFFDIO_MOVE or io_uring.
SKIPPED = 77
BY_CALL = ("1 page of a logged slot changed after the program had a system call write there, and the program did not copy it, "
           "though it copied all that KVM's log named; what KVM's log does not name, the program must note itself")


def run(how, log="bitmap", way="read", end=(), client=CLIENT):
    return detecting.run(QUIRE, "dirty", client, how, log, way, *end)


class Copies(unittest.TestCase):
    def check_found(self, found, text):
        by_call, by_store = sorted(found, key=lambda finding: finding["guest"])
        self.assertEqual((by_call["guest"], by_store["guest"]), (READ, STORED), text)
        functions = [frame.get("function") for frame in by_call["changed"]["frames"]]
        # Of a way that is a function of its own, it is called by that.
        self.assertIn("device_reads", functions[:5], text)
        self.assertEqual(by_call["what"], BY_CALL)
        self.assertIn("changed by what its log does not name", by_store["what"])
        self.assertNotIn("changed", by_store, text)
        for finding in found:
            functions = [frame.get("function") for frame in finding["used"]["frames"]]
            self.assertTrue({"harvest_slot", "harvest_ring"} & set(functions[:2]), text)

    def test_faulty(self):
        for log in LOGS:
            for how in FAULTY:
                for end in ([], ["off"]):
                    with self.subTest(how=how, log=log, end=end):
                        status, text, found = run(how, log, end=end)
                        self.assertEqual((status, len(found)), (detecting.FOUND, 2), text)
                        self.check_found(found, text)

    def test_quiet(self):
        for log in LOGS:
            for how in QUIET:
                with self.subTest(how=how, log=log):
                    self.assertEqual(run(how, log, end=["off"]), (0, "", []))

    def test_cleared_late(self):
        """What the guest wrote between the copy and the clear is lost: that is not said to be the program's."""
        for log in ("manual", "initially-set"):
            with self.subTest(log=log):
                status, text, found = run("late", log)
                self.assertEqual((status, len(found)), (detecting.FOUND, 1), text)
                self.assertIn("16 pages of a logged slot changed when the program had copied them", found[0]["what"])
                self.assertEqual(found[0]["guest"], ["0x10000", "0x20000"])
                functions = [frame.get("function") for frame in found[0]["changed"]["frames"]]
                self.assertIn("clear_slot", functions[:2], text)

    def test_ways(self):
        """Each call is named that wrote; on the engine a call's own function of libc may hide its caller."""
        for way in WAYS:
            for client in (CLIENT, STATIC):
                with self.subTest(way=way, client=client):
                    status, text, found = run("forgotten", way=way, client=client)
                    if status == SKIPPED:
                        self.skipTest(f"no {way} here")
                    self.assertEqual((status, len(found)), (detecting.FOUND, 2), text)
                    if client == CLIENT:
                        self.check_found(found, text)
                    else:
                        self.assertEqual(sum("changed" in finding for finding in found), 1, text)
                    self.assertEqual(run("told", way=way, client=client), (0, "", []))

    def test_unseen(self):
        """What wrote is not known, and nothing is said of it: both pages are one finding."""
        for way in UNSEEN:
            for client in (CLIENT, STATIC):
                with self.subTest(way=way, client=client):
                    status, text, found = run("forgotten", way=way, client=client)
                    if status == SKIPPED:
                        self.skipTest(f"no {way} here")
                    self.assertEqual((status, len(found)), (detecting.FOUND, 1), text)
                    self.assertIn("2 pages of a logged slot changed by what its log does not name, and the program did not copy "
                                  "them", found[0]["what"])
                    self.assertIn("what wrote there was not seen", found[0]["mapped"])
                    self.assertEqual(found[0]["guest"], [READ[0], STORED[1]])
                    self.assertNotIn("changed", found[0], text)
                    self.assertEqual(run("told", way=way, client=client), (0, "", []))

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
