"""Tests of ./dev mutate: what it changes, that each change does what it says, and how a campaign judges."""
import argparse
import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import mutate  # noqa: E402
import mutate_run  # noqa: E402
import mutate_source  # noqa: E402
import progress  # noqa: E402

SOURCE = """\
#include <stdio.h>
#include <stdlib.h>
#define CHECK(x) ((void)(x))
#define MUTANT(name) 0
#define likely(x) __builtin_expect(!!(x), 1)
#define NAMED 3
struct bits { unsigned int low : 4; };

static int note(int x)
{
	return printf("%d ", x);
}

static int f(int a, struct bits *b)
{
	static const int table[2] = {5, 6};
	CHECK(a < 100);
	if (a > 4)
		return -1;
	if (likely(a == 2 && b->low <= 9u))
		note(a);
	if (MUTANT(early))
		note(77);
	if (a > 6 && MUTANT(late))
		note(78);
	else
		(void)b;
	a += MUTANT(other) ? 79 : 0;
	switch (a) {
	case 1:
		note(table[0]);
		break;
	default:
		break;
	}
	while (a < NAMED)
		a++;
	return a ? a : 9;
}

static int g(int ret)
{
	if (ret < 0)
		return ret;
	return 8;
}

static int h(int a)
{
	int b;

	b = 1;
	if (a == 1 + b)
		return 1;
	return b - 1;
}

int main(int argc, char **argv)
{
	struct bits b = {.low = 9};

	printf("%d %d", f(atoi(argv[1]), &b), g(atoi(argv[1])));
	return 0;
}
"""


class Mutants(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.place.name)
        (folder / "src/base").mkdir(parents=True)
        (folder / "src/base/mutate_site.h").write_text((TREE / "tools/mutate_site.h").read_text())
        (folder / "plain.c").write_text(SOURCE)
        cls.mutants, text = mutate_source.mutate(folder / "plain.c", ["-std=gnu11"], 100)
        (folder / "mutated.c").write_text(text)
        cls.program = str(folder / "program")
        subprocess.run(["clang", "-w", "-D_GNU_SOURCE", f"-I{folder}", str(folder / "mutated.c"), "-o",
                        cls.program], check=True)

    @classmethod
    def tearDownClass(cls):
        cls.place.cleanup()

    def number(self, line, kind, what):
        """Of the mutant in the line that begins so."""
        at = next(n for n, text in enumerate(SOURCE.splitlines(), 1) if text.strip().startswith(line))
        found = [n for n, m in enumerate(self.mutants, 100) if (m.line, m.kind, m.what) == (at, kind, what)]
        self.assertEqual(len(found), 1, (at, kind, what, [m for m in self.mutants if m.line == at]))
        return found[0]

    def run_with(self, number, argument, **env):
        env = {**os.environ, "QUIRE_MUTANT": str(number), **env}
        return subprocess.run([self.program, str(argument)], env=env, stdout=subprocess.PIPE, text=True, timeout=10,
                              check=False).stdout

    def test_none(self):
        for argument, said in ((0, "3 8"), (1, "5 3 8"), (2, "2 3 8"), (5, "-1 8"), (-2, "3 -2")):
            self.assertEqual(self.run_with(-1, argument), said)

    def test_each_does_what_it_says(self):
        for line, kind, what, argument, said in (
                ("if (a > 4)", "condition negated", "a > 4", 0, "-1 8"),
                ("if (a > 4)", "comparison shifted", ">= in a > 4", 4, "-1 8"),
                ("if (a > 4)", "constant shifted", "4 + 1", 5, "5 8"),
                ("if (a > 4)", "constant shifted", "4 - 1", 4, "-1 8"),
                ("return -1;", "return dropped", "return -1", 5, "5 8"),
                ("return -1;", "constant shifted", "1 + 1", 5, "-2 8"),
                ("if (likely", "condition negated", "a == 2", 3, "3 3 8"),
                ("if (likely", "comparison shifted", "< in b->low <= 9u", 2, "3 8"),
                ("if (likely", "condition negated", "b->low <= 9u", 2, "3 8"),
                ("note(a);", "statement removed", "note(a)", 2, "3 8"),
                ("break;", "statement removed", "break", 1, "5 3 8"),
                ("while (a < NAMED)", "comparison shifted", "<= in a < NAMED", 0, "4 8"),
                ("return a ? a : 9", "condition negated", "a", 0, "9 8"),
                ("return a ? a : 9", "constant shifted", "9 + 1", 0, "3 8"),
                ("return ret;", "error dropped", "return 0 for ret", -2, "3 0"),
                ("return ret;", "return dropped", "return ret", -2, "3 8"),
                ("return 8;", "constant shifted", "8 - 1", 0, "3 7")):
            with self.subTest(f"{line} {what}"):
                if line == "break;":
                    number = next(n for n, m in enumerate(self.mutants, 100) if m.what == "break")
                else:
                    number = self.number(line, kind, what)
                self.assertEqual(self.run_with(number, argument), said)

    def test_left_out(self):
        """Assertions, what only a named bug runs, what must be constant, and the last return."""
        lines = {SOURCE.splitlines()[mutant.line - 1].strip() for mutant in self.mutants}
        for line in ("CHECK(a < 100);", "if (MUTANT(early))", "note(77);", "case 1:",
                     "if (a > 6 && MUTANT(late))", "note(78);", "(void)b;",
                     "static const int table[2] = {5, 6};", "#define NAMED 3"):
            self.assertNotIn(line, lines)
        self.assertFalse([m for m in self.mutants if m.kind == "return dropped" and m.what == "return 8"])

    def test_truth_values(self):
        """A 1 that is all of a value is not made 2, which is as true; it is made 0, and any other 1 both."""
        for line, changes in (("b = 1;", {"1 - 1"}), ("return 1;", {"1 - 1"}), ("return b - 1;", {"1 + 1", "1 - 1"}),
                              ("if (a == 1 + b)", {"1 + 1", "1 - 1"})):
            self.assertEqual({m.what for m in self.mutants if m.text == line and m.kind == "constant shifted"}, changes)

    def reached(self, argument):
        path = pathlib.Path(self.place.name) / "reached"
        path.write_bytes(bytes(mutate_run.REACHED_BYTES))
        self.run_with(-1, argument, QUIRE_MUTANT_REACHED=str(path))
        return mutate_run.reached_in(path)

    def test_tells_what_it_reached(self):
        reached, visits = self.reached(5)
        self.assertEqual(reached[self.number("return -1;", "return dropped", "return -1")], 1)
        self.assertEqual(reached[self.number("note(a);", "statement removed", "note(a)")], 0)
        self.assertEqual(visits, 1)
        self.assertEqual(self.reached(0)[1], 4)  # the condition of the loop

    def test_what_makes_no_difference_is_not_reached(self):
        """A comparison shifted by one: where both sides are equal alone. An error dropped: where there is one."""
        shifted = self.number("if (a > 4)", "comparison shifted", ">= in a > 4")
        dropped = self.number("return ret;", "error dropped", "return 0 for ret")
        self.assertEqual([self.reached(argument)[0][shifted] for argument in (3, 4, 5)], [0, 1, 0])
        self.assertEqual([self.reached(argument)[0][dropped] for argument in (0, -2)], [0, 1])

    def test_without_end(self):
        """A run that comes to one place more often than it may says so."""
        said = self.run_with(self.number("a++;", "statement removed", "a++"), 0, QUIRE_MUTANT_VISITS="1000")
        self.assertEqual(said, "")
        self.assertEqual(self.run_with(-1, 0, QUIRE_MUTANT_VISITS="5"), "3 8")
        self.assertEqual(self.run_with(-1, 0, QUIRE_MUTANT_VISITS="4"), "")

    def test_bad_source(self):
        path = pathlib.Path(self.place.name) / "bad.c"
        path.write_text("int f(void)\n{\n\treturn x;\n}\n")
        with self.assertRaisesRegex(mutate_source.BadSource, r"bad\.c:3: .*undeclared"):
            mutate_source.mutate(path, [])


class Campaign(unittest.TestCase):
    """How it judges, with tests that are scripts."""

    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.place.name)
        for name, seconds in (("LEAST_SECONDS", 1), ("TIMES_AS_LONG", 1), ("LOOK_SECONDS", 0.1)):
            patch = unittest.mock.patch.object(mutate_run, name, seconds)
            patch.start()
            self.addCleanup(patch.stop)
        self.addCleanup(self.place.cleanup)

    def judge(self, scripts, reached=range(9)):
        """Of the programs, each a script, and each reaches all of the sites."""
        records = []
        for name, script in scripts.items():
            path = self.folder / name
            path.write_text(f"#!/bin/bash\necho {name} >> ran\n{script}\n")
            path.chmod(0o755)
            records.append({"name": name, "cmd": [str(path)], "workdir": str(self.folder), "env": {}, "pieces": False})
        programs = mutate_run.Programs(records, self.folder, 1)
        for pieces in programs.pieces.values():
            for piece in pieces:
                piece.reached = bytes(number in reached for number in range(9))
        (self.folder / "ran").unlink(missing_ok=True)
        return mutate_run.Judge(programs, self.folder / "passed.tsv")

    def ran(self):
        path = self.folder / "ran"
        names = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return names

    def test_outcomes(self):
        judge = self.judge({"one": 'case "$QUIRE_MUTANT" in 1) exit 3;; 2) while :; do :; done;; '
                            '4) echo "[  FAILED  ] x"; sleep 100;; 6) echo; echo "[  ENDLESS ]"; exit 97;; esac'}, (1, 2, 3, 4, 6))
        self.assertEqual([judge.judge(number, str(number), "tlb")[0] for number in (1, 2, 3, 4, 5, 6)],
                         [mutate.KILLED, mutate.LATE, mutate.SURVIVED, mutate.KILLED, mutate.UNREACHED,
                          mutate.WITHOUT_END])

    def test_asleep(self):
        """Threads that wait for one another have no end, whatever the program's name; one that waits for the clock has."""
        program = self.folder / "asleep.py"
        for script, is_endless in (("import threading; open('/proc/self/comm', 'wb').write(b'\\xff)'); "
                                    "x = threading.Lock(); x.acquire(); x.acquire()", True),
                                   ("import time; time.sleep(2)", False)):
            program.write_text(script)
            record = {"cmd": [sys.executable, str(program)], "workdir": str(self.folder), "env": {}}
            run = mutate_run.Run(record, 5, {})
            self.assertEqual((run.is_endless, run.is_late, run.has_failed), (is_endless, False, False))

    def test_a_test_that_fails_by_itself(self):
        self.assertEqual(self.judge({"one": "exit 1"}).programs.broken, ["one"])

    def test_says_where_it_is(self):
        judge, file = self.judge({"one": "sleep 2"}), mutate.sources()[0]
        mutant = mutate_source.Mutant(7, 1, "condition negated", "x")
        said, killed = io.StringIO(), mutate.Killed(self.folder / "killed.tsv")
        other = mutate_source.Mutant(8, 1, "condition negated", "x")
        with contextlib.redirect_stderr(said), unittest.mock.patch.object(progress, "LINE_S", 0.1):
            outcomes = mutate.campaign(argparse.Namespace(jobs=1), [(file, 1, mutant), (file, 2, other)], judge,
                                       killed)
        self.assertEqual(len(outcomes[mutate.SURVIVED]), 2)
        self.assertRegex(said.getvalue(), "mutate: 1 of 2 mutants, .* left")

    def test_an_interrupted_campaign_goes_on(self):
        """What a mutant passed is not run again; a test that is another is, and one that noticed it comes first."""
        scripts = {"one": "true", "two": "true"}
        self.assertEqual(self.judge(scripts).judge(1, "m", "tlb")[0], mutate.SURVIVED)
        self.assertEqual(sorted(self.ran()), ["one", "two"])
        self.assertEqual(self.judge(scripts).judge(1, "m", "tlb")[0], mutate.SURVIVED)
        self.assertEqual(self.ran(), [])
        scripts["two"] = '[ "$QUIRE_MUTANT" = "" ]'
        judge = self.judge(scripts)
        self.assertEqual(judge.judge(1, "m", "tlb"), (mutate.KILLED, "two"))
        self.assertEqual(self.ran(), ["two"])
        judge.judge(2, "n", "tlb")
        self.assertEqual(self.ran(), ["two"])
        path = self.folder / "passed.tsv"
        path.write_text(path.read_text() + "half a li")
        with self.assertRaisesRegex(ValueError, r"passed\.tsv:3: not four fields"):
            self.judge(scripts)

    def test_second_round(self):
        """What survived meets the longer tests, as far as its time goes; what was noticed does not."""
        file = mutate.sources()[0]
        wanted = [(file, number, mutate_source.Mutant(number, 1, "condition negated", "x")) for number in (1, 2, 3)]
        scripts = {"short": '[ "$QUIRE_MUTANT" != 1 ]',
                   "long": 'n=0; while [ $((n++)) -lt 60000 ]; do :; done; [ "$QUIRE_MUTANT" != 2 ]'}
        for most, noticed in ((100, 2), (0, 1)):
            judge = self.judge(scripts)
            pieces = judge.programs.pieces.pop("long")
            killed = mutate.Killed(self.folder / f"killed{most}.tsv")
            with unittest.mock.patch.object(judge.programs, "lengthen",
                                            lambda _: judge.programs.pieces.update(long=pieces)), \
                    unittest.mock.patch.object(mutate_run, "LONGER_SECONDS", most):
                outcomes = mutate.two_rounds(argparse.Namespace(jobs=1, longest=0.1, then=5), wanted, judge, killed)
            self.assertEqual([len(outcomes[each]) for each in (mutate.KILLED, mutate.SURVIVED)],
                             [noticed, 3 - noticed])
            self.assertEqual(self.ran().count("long"), 2 if most else 0)
            (self.folder / "passed.tsv").unlink()

    def test_longer_tests_are_left_out(self):
        judge = self.judge({"one": "true", "two": "n=0; while [ $((n++)) -lt 200000 ]; do :; done"})
        programs = judge.programs
        programs.lengthen(0.0001)
        self.assertEqual(programs.left_out, ["one", "two"])
        programs.lengthen(5)
        self.assertEqual((programs.left_out, len(programs.pieces["two"])), ([], 1))

    def test_killed_hold(self):
        path = self.folder / "killed.tsv"
        file = mutate.sources()[0]
        mutate.Killed(path).add(file, "a", mutate.KILLED, "one")
        again = mutate.Killed(path)
        self.assertEqual(again.find(file, "a"), (mutate.KILLED, "one"))
        # Another file, another text: it is run again.
        self.assertIsNone(again.find(mutate.sources()[1], "a"))
        path.write_text(path.read_text() + "half a li")
        with self.assertRaisesRegex(ValueError, r"killed\.tsv:2: not four fields"):
            mutate.Killed(path)

    def test_equivalent(self):
        """They are counted apart, and each row is of a change that there is."""
        path = self.folder / "equivalent.tsv"
        mutant = mutate_source.Mutant(7, 1, "condition negated", "x", "f", "if (x)")
        path.write_text("src/a.c\tf\tif (x)\tcondition negated\tx\twhy\n")
        equivalent, said = mutate.Equivalent(path), io.StringIO()
        equivalent.check({"src/a.c": [(3, mutant)]})
        outcomes = {outcome: [] for outcome in (mutate.KILLED, mutate.WITHOUT_END, mutate.SURVIVED, mutate.LATE,
                                                mutate.UNREACHED)}
        outcomes[mutate.KILLED] = outcomes[mutate.WITHOUT_END] = [("key", "src/b.c", mutant)]
        outcomes[mutate.SURVIVED] = [("one", "src/a.c", mutant), ("two", "src/b.c", mutant)]
        with contextlib.redirect_stdout(said):
            self.assertEqual(mutate.tell(outcomes, equivalent), 50)
        self.assertTrue(said.getvalue().endswith("1 survived:\n  two\n"
                                                 "2 of 4 killed (1 of them without end), 1 equivalent\n"))
        with self.assertRaisesRegex(ValueError, r"equivalent\.tsv:1: src/a\.c has no such change"):
            equivalent.check({"src/a.c": []})
        path.write_text("src/a.c\tf\n")
        with self.assertRaisesRegex(ValueError, r"equivalent\.tsv:1: not six fields"):
            mutate.Equivalent(path)

    def test_sample(self):
        """It begins as a smaller one does, and other lines move none of it."""
        def lines(first, last):
            return [(number, mutate_source.Mutant(number, 1, "condition negated", "x", "f", f"if ({number})"))
                    for number in range(first, last)]

        def keys(count, seed, found):
            options = mutate.parse(["--sample", str(count), "--seed", str(seed), str(TREE / "src/tlb/flush.c")])
            return [mutant.text for _, _, mutant in mutate.chosen(options, {"src/tlb/flush.c": found})]

        five = keys(5, 3, lines(0, 50))
        self.assertEqual(len(five), 5)
        self.assertEqual(keys(9, 3, lines(0, 50))[:5], five)
        self.assertNotEqual(keys(5, 4, lines(0, 50)), five)
        more = keys(9, 3, lines(0, 60))
        kept = [text for text in more if int(text[4:-1]) < 50]
        self.assertEqual(kept, keys(9, 3, lines(0, 50))[:len(kept)])

    def test_a_second_round_is_longer(self):
        """One that is not would be none, and nothing would say so."""
        self.assertEqual(mutate.parse(["--longest", "5", "--then", "10"]).then, 10)
        self.assertEqual(mutate.parse([]).then, 0)
        for words in (["--then", "10"], ["--longest", "5", "--then", "5"], ["--then", "-1"]):
            with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
                mutate.parse(words)
            self.assertIn("--then", said.getvalue())

    def test_none_under_the_memory_model(self):
        """Each program with the model is in no campaign: the counters of mutants would be its data races."""
        found = []
        for path in ("cli/sim/meson.build", "tests/sim/order/meson.build"):
            text = (TREE / path).read_text()
            models = re.findall(r"(?m)^ *(\w+) = executable\([^)]*?order_lib\]", text)
            self.assertTrue(models, path)
            found += [name for name, what in re.findall(r"test\('([\w-]+)', (\w+)", text) if what in models]
        self.assertEqual(found, ["simulations-order", "order-litmus", "order-pairs"])
        for name in found:
            self.assertTrue(name.startswith(mutate.LEFT_OUT), name)


if __name__ == "__main__":
    unittest.main()
