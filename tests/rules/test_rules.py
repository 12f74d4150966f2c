"""The check of tests/rules.tsv finds what is wrong with a table."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools/rules.py"
GOOD = "# ids: U-001 G-002\nU-001\tone rule\ttests/a.c:holds\nG-002\tanother\tnone: only the kernel itself could\n"


class Rules(unittest.TestCase):
    """A small tree with a table."""

    def check(self, table):
        """What the tool says of it."""
        with tempfile.TemporaryDirectory() as folder:
            tests = pathlib.Path(folder, "tests")
            tests.mkdir()
            (tests / "rules.tsv").write_text(table)
            (tests / "a.c").write_text("static void holds(void)\n{\n}\nstatic void unused(void)\n{\n}\n"
                                       "struct check_test tests[] = {TEST(holds)};\n")
            return subprocess.run([sys.executable, TOOL, "--root", folder], text=True, check=False,
                                  stdout=subprocess.PIPE)

    def expect(self, table, what):
        """The tool refuses the table and says so."""
        done = self.check(table)
        self.assertEqual(done.returncode, 1)
        self.assertIn(what, done.stdout)

    def test_good(self):
        """Nothing to say."""
        self.assertEqual(self.check(GOOD).returncode, 0)

    def test_missing_row(self):
        """An id of the list without a row."""
        self.expect(GOOD.replace("G-002", "G-002 U-003", 1), "no row for U-003")

    def test_unlisted_row(self):
        """A row that the list does not know, and one that is there twice."""
        self.expect(GOOD + "U-009\tx\ttests/a.c:holds\n", "U-009 is not in the list")
        self.expect(GOOD + "U-001\tx\ttests/a.c:holds\n", "U-001 is in line 2, too")

    def test_missing_test(self):
        """A test that is not there, one that no suite runs, and a file that is not there."""
        self.expect(GOOD.replace(":holds", ":held"), "tests/a.c has no test held")
        self.expect(GOOD.replace(":holds", ":unused"), "tests/a.c has no test unused")
        self.expect(GOOD.replace("a.c:", "b.c:"), "no file tests/b.c")

    def test_bad_rows(self):
        """No rule, no reason, no columns, no list."""
        self.expect(GOOD.replace("one rule", " "), "no rule")
        self.expect(GOOD.replace("only the kernel itself could", "no"), "no reason")
        self.expect(GOOD + "U-001 one\n", "not a row")
        self.expect("", "no line '# ids:'")


if __name__ == "__main__":
    unittest.main()
