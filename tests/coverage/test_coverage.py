"""The counting of tools/coverage.py: lines of several objects, folders, the gate."""
import contextlib
import io
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import coverage  # noqa: E402 (its folder is known now)


def record(*lines):
    """gcov's record of one file in one object, of (line, count, counts of its branches)."""
    return {"file": "x.c", "lines": [
        {"line_number": number, "count": count, "function_name": "f",
         "branches": [{"count": way} for way in ways]} for number, count, ways in lines]}


def source(*records):
    made = coverage.Source()
    for one in records:
        made.add(one)
    return made


class Counting(unittest.TestCase):
    def test_a_line_counts_when_one_object_runs_it(self):
        both = source(record((3, 1, [1, 0]), (4, 0, [])), record((3, 0, [0, 2]), (5, 7, [])))
        self.assertEqual(both.missing(), [4])
        self.assertEqual(coverage.share(both.lines.values()), (2, 3, 200 / 3))
        self.assertEqual(coverage.share(both.branches.values()), (2, 2, 100.0))

    def test_nothing_is_all_of_nothing(self):
        self.assertEqual(coverage.share([]), (0, 0, 100.0))

    def test_names(self):
        place = {"current_working_directory": str(coverage.TREE / "build-coverage")}
        for path, name in (("../frontend/state/msr.c", "frontend/state/msr.c"),
                           ("../tests/rules/check.c", None), ("/usr/include/stdio.h", None),
                           ("../frontend/file/../irq/pic.h", "frontend/irq/pic.h")):
            self.assertEqual(coverage.source_name({"file": path}, place), name)

    def test_gate(self):
        good = source(record(*[(number, 1, []) for number in range(19)], (19, 0, [])))
        bad = source(record((1, 1, []), (2, 0, [])))
        for preload, fails in ((good, False), (bad, True)):
            sources = {"frontend/a.c": good, "boundary/b.c": good, "preload/c.c": preload}
            with contextlib.redirect_stderr(io.StringIO()) as said:
                self.assertEqual(coverage.below_gate(sources), fails)
            self.assertEqual("preload/" in said.getvalue(), fails)


if __name__ == "__main__":
    unittest.main()
