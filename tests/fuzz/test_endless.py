"""A fuzzer ends an input that has no end, and says so. usage: test_endless.py PROGRAM"""
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop()
FINE, ENDLESS, ENDLESS_AND_DEAF = (f"{kind:02x}" + "00" * 23 for kind in range(3))


class Endless(unittest.TestCase):
    def run_of(self, *records):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "inputs.txt"
            path.write_text("\n\n".join(records) + "\n")
            return subprocess.run([PROGRAM, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                                  timeout=60)

    def ended(self, record):
        run = self.run_of(FINE, record)
        self.assertEqual(run.returncode, -signal.SIGABRT)
        self.assertIn("this input has no end", run.stderr)
        self.assertIn("input 2,", run.stdout)
        return run.stderr

    def test_one_that_has_an_end(self):
        self.assertEqual(self.run_of(FINE, FINE).returncode, 0)

    def test_one_that_has_none(self):
        self.assertNotIn("takes no signals", self.ended(ENDLESS))

    def test_one_that_takes_no_signals(self):
        self.assertIn("takes no signals", self.ended(ENDLESS_AND_DEAF))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
