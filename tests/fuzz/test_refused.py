"""A fuzzer without libFuzzer refuses a file that has no inputs, and says its line. usage: test_refused.py PROGRAM"""
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop()
RECORD = "00" * 24


class Refused(unittest.TestCase):
    def refused(self, text, line, why):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "inputs.txt"
            path.write_bytes(text)
            run = subprocess.run([PROGRAM, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(run.returncode, 2)
            self.assertIn(f"{path}:{line}: {why}", run.stderr)

    def test_what_is_no_record(self):
        self.refused(f"# first\n{RECORD}\n{RECORD[2:]}\n".encode(), 3, "not a record")
        self.refused(f"{RECORD}\n{RECORD}00\n".encode(), 2, "more than a record")
        self.refused(f"{RECORD}\n{'+1' * 24}\n".encode(), 2, "not a record")
        self.refused(b"\x7fELF\x02\x01\n", 1, "not a record")

    def test_what_has_no_input(self):
        self.refused(b"", 0, "there is no input")
        self.refused(b"# nothing\n\n", 2, "there is no input")

    def test_an_input_without_end(self):
        self.refused(f"{RECORD}\n".encode() * 200, 65, "an input has more records")

    def test_a_file_that_is_not_there(self):
        run = subprocess.run([PROGRAM, "/nonexistent"], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(run.returncode, 2)
        self.assertIn("/nonexistent: No such file", run.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
