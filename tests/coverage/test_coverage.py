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


class Branches(unittest.TestCase):
    def test_what_is_inlined_is_there_once(self):
        def inlined(*ways):
            return {**record((3, 1, ways)), "functions": [{"name": "f", "start_line": 10, "end_line": 20}]}

        # A caller that has it twice, and one that has it once.
        twice = source(inlined(1, 0, 0, 0), inlined(2, 0))
        self.assertEqual(twice.untaken(), {3: 1})
        self.assertEqual(source(inlined(1, 0, 0, 5), inlined(2, 0)).untaken(), {})

    def test_functions_of_one_line_are_apart(self):
        own = {"functions": [{"name": name, "start_line": 3, "end_line": 3} for name in "fg"]}
        f, g = record((3, 1, [1, 0])), record((3, 1, [1, 1]))
        g["lines"][0]["function_name"] = "g"
        self.assertEqual(source({**f, **own}, {**g, **own}).untaken(), {3: 1})

    def test_assertions_are_no_branches(self):
        text = "a;\nCHECK(b &&\n      (c || d));\nif (BROKEN(e))\n\treturn;\nRECHECK(f);\nCHECKED(g);\n"
        self.assertEqual(coverage.assertion_lines(text), {2, 3, 4})
        made = coverage.Source(coverage.assertion_lines(text))
        made.add(record((1, 1, [1, 0]), (2, 1, [1, 0]), (3, 1, [0, 0])))
        self.assertEqual(made.untaken(), {1: 1})
        self.assertEqual(len(made.lines), 3)


class Explained(unittest.TestCase):
    FILE = "src/a.c"

    def check(self, text):
        sources = {self.FILE: source(record((1, 5, [5, 0]), (2, 5, [5, 5])))}
        return coverage.check_explained(sources, coverage.read_explained(text), lambda name: "if (a)\nif (b)\n")

    def test_a_right_list(self):
        self.assertEqual(self.check("# comment\n\n= No host does it.\nsrc/a.c\t1\tif (a)\n"), (1, [], []))

    def test_what_is_wrong(self):
        for line, said in (("src/a.c\t1\tif (c)", "no such line"), ("src/gone.c\t1\tif (a)", "no such line"),
                           ("src/a.c\t1\tif (a)\nsrc/a.c\t1\tif (a)", "twice")):
            _, wrong, taken = self.check(f"= Why.\n{line}\n")
            self.assertEqual((len(wrong), taken), (1, []), line)
            self.assertIn(said, wrong[0])
        self.assertIn("without a reason", self.check("src/a.c\t1\tif (a)\n")[1][0])

    def test_what_is_taken_after_all(self):
        for line, said in (("src/a.c\t2\tif (a)", "1 ways"), ("src/a.c\t1\tif (b)", "0 ways")):
            _, wrong, taken = self.check(f"= Why.\n{line}\n")
            self.assertEqual((wrong, len(taken)), ([], 1), line)
            self.assertIn(said, taken[0])

    def test_what_real_threads_take_now_and_then(self):
        self.assertEqual(self.check("= Why.\nsrc/a.c\t<1\tif (b)\n"), (0, [], []))

    def test_what_is_neither_taken_nor_explained(self):
        sources = {self.FILE: source(record((1, 5, [5, 0, 0]), (2, 5, [5, 5]), (3, 5, [5, 0]))),
                   "vcpu/b.c": source(record((1, 1, [1, 0])))}

        def left(text):
            return list(coverage.unexplained(sources, list(coverage.read_explained(text)),
                                             lambda name: "if (a)\nif (b)\n\tif (a)\n"))

        self.assertEqual(left(""), [("src/a.c:1", 2, "if (a)"), ("src/a.c:3", 1, "if (a)")])
        self.assertEqual(left("= Why.\nsrc/a.c\t1\tif (a)\n"), [("src/a.c:1", 1, "if (a)"), ("src/a.c:3", 1, "if (a)")])
        # What is taken at random is explained where it is not taken; a line that is there twice has the ways of both.
        self.assertEqual(left("= Why.\nsrc/a.c\t<3\tif (a)\nsrc/a.c\t<1\tif (b)\n"), [])

    def test_the_gate_has_an_end(self):
        entries = list(coverage.read_explained((coverage.TREE / coverage.EXPLAINED).read_text()))
        taken = source(record(*[(number, 1, [1, 1]) for number in range(1, 600)]))

        most = coverage.UNEXPLAINED_MAX
        for count, has_passed in ((0, True), (most, True), (most + 1, False)):
            # No entry of the list has these lines.
            bare = source(record((1, 1, [0] * count + [1])))
            sources = {**{name: taken for _, name, _, _, _ in entries}, "src/libquire.map": bare}
            with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
                self.assertEqual(coverage.show_explained(sources, True), has_passed, count)
            self.assertEqual(f"src/libquire.map:1: {count}: " in said.getvalue(), count > 0)
            self.assertEqual(f"{count} branches of src/ are neither" in said.getvalue(), not has_passed)

    def test_the_gate_only_prints_what_is_taken(self):
        entries = list(coverage.read_explained((coverage.TREE / coverage.EXPLAINED).read_text()))
        all_taken = source(record(*[(number, 1, [1, 1]) for number in range(1, 600)]))
        sources = {name: all_taken for _, name, _, _, _ in entries}
        for is_gate in (False, True):
            with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
                self.assertEqual(coverage.show_explained(sources, is_gate), is_gate)
            self.assertEqual(said.getvalue().count("ways out are never taken"),
                             sum(1 for entry in entries if entry[4]))
            # A file that is gone fails with both.
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                self.assertFalse(coverage.show_explained({}, is_gate))

    def test_the_list_of_this_tree(self):
        for reason, name, text, ways, _ in coverage.read_explained((coverage.TREE / coverage.EXPLAINED).read_text()):
            self.assertTrue(reason.endswith("."), reason)
            self.assertGreater(ways, 0)
            lines = [line.strip() for line in (coverage.TREE / name).read_text().splitlines()]
            self.assertIn(text, lines, name)


class Quick(unittest.TestCase):
    def test_tests_of_gigabytes_run_in_one_format(self):
        for name in coverage.ONE_FORMAT:
            self.assertFalse(name.startswith(coverage.LEFT_OUT + coverage.QUICK_LEFT_OUT), name)
            before = {"name": name, "env": {"A": "1"}}
            self.assertEqual(coverage.in_one_format(before)["env"], {"A": "1", "QUIRE_FORMATS": "1"})
            self.assertEqual(before["env"], {"A": "1"})
        other = {"name": "gmem-huge", "env": {}}
        self.assertEqual(coverage.in_one_format(other), other)


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
        good = source(record(*[(number, 1, [1, 1]) for number in range(19)], (19, 0, [1, 0])))
        bad_lines = source(record((1, 1, []), (2, 0, [])))
        bad_branches = source(record((1, 1, [1, 0])))
        gates = {"src": (95, 95), "boundary": (95, 95), "preload": (95, 95)}
        for preload, said_of in ((good, ""), (bad_lines, "preload/ has 50.0 % of its lines"),
                                 (bad_branches, "preload/ has 50.0 % of its branches")):
            sources = {"src/a.c": good, "boundary/b.c": good, "preload/c.c": preload}
            with contextlib.redirect_stderr(io.StringIO()) as said:
                self.assertEqual(coverage.below_gate(sources, gates), bool(said_of))
            self.assertIn(said_of, said.getvalue())
            self.assertLessEqual(said.getvalue().count("\n"), 1)

    def test_gates_have_folders(self):
        for gates in (coverage.GATES, coverage.QUICK_GATES):
            self.assertLessEqual(set(gates), set(coverage.FOLDERS))


if __name__ == "__main__":
    unittest.main()
