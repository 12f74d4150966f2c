"""Tests of ./dev mutate: what it changes, that each change does what it says, and how a campaign judges."""
import argparse
import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import mutate  # noqa: E402
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
                     "static const int table[2] = {5, 6};", "#define NAMED 3"):
            self.assertNotIn(line, lines)
        self.assertFalse([m for m in self.mutants if m.kind == "return dropped" and m.what == "return 8"])

    def test_tells_what_it_reached(self):
        path = pathlib.Path(self.place.name) / "reached"
        path.write_bytes(bytes(mutate.SITES_MAX))
        self.run_with(-1, 5, QUIRE_MUTANT_REACHED=str(path))
        reached = path.read_bytes()
        self.assertEqual(reached[self.number("return -1;", "return dropped", "return -1")], 1)
        self.assertEqual(reached[self.number("note(a);", "statement removed", "note(a)")], 0)

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
        self.saved = mutate.FOLDER, mutate.LEAST_SECONDS
        mutate.FOLDER, mutate.LEAST_SECONDS = self.folder, 1
        (self.folder / "build").mkdir()

    def tearDown(self):
        mutate.FOLDER, mutate.LEAST_SECONDS = self.saved
        self.place.cleanup()

    def baseline(self, script, reached=(1, 2, 3)):
        path = self.folder / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        record = {"name": "one", "cmd": [str(path)], "workdir": None, "env": {}}
        baseline = mutate.Baseline([record], 1)
        baseline.reached = {"one": bytes(number in reached for number in range(9))}
        return baseline

    def test_outcomes(self):
        baseline = self.baseline('case "$QUIRE_MUTANT" in 1) exit 3;; 2) while :; do :; done;; '
                                 '4) echo "[  FAILED  ] x"; sleep 100;; esac', (1, 2, 3, 4))
        self.assertEqual([baseline.judge(number)[0] for number in (1, 2, 3, 4, 5)],
                         [mutate.KILLED, mutate.LATE, mutate.SURVIVED, mutate.KILLED, mutate.UNREACHED])

    def test_a_test_that_fails_by_itself(self):
        self.assertEqual(self.baseline("exit 1").broken, ["one"])

    def test_says_where_it_is(self):
        baseline, file = self.baseline("sleep 1"), mutate.sources()[0]
        mutant = mutate_source.Mutant(7, 1, "condition negated", "x")
        said, results = io.StringIO(), mutate.Results(self.folder / "results.tsv", 1)
        with contextlib.redirect_stderr(said), unittest.mock.patch.object(progress, "LINE_S", 0.1):
            outcomes = mutate.campaign(argparse.Namespace(jobs=1), [(file, 1, mutant), (file, 2, mutant)], baseline,
                                       results)
        self.assertEqual(len(outcomes[mutate.SURVIVED]), 2)
        self.assertRegex(said.getvalue(), "mutate: 1 of 2 mutants, .* left")

    def test_results_hold(self):
        path = self.folder / "results.tsv"
        file = mutate.sources()[0]
        results = mutate.Results(path, 1)
        results.add(file, "a", mutate.KILLED, "one")
        results.add(file, "b", mutate.SURVIVED, "")
        again = mutate.Results(path, 1)
        self.assertEqual(again.find(file, "a"), (mutate.KILLED, "one"))
        self.assertEqual(again.find(file, "b"), (mutate.SURVIVED, ""))
        # Longer tests may kill what survived.
        longer = mutate.Results(path, 2)
        self.assertEqual(longer.find(file, "a"), (mutate.KILLED, "one"))
        self.assertIsNone(longer.find(file, "b"))
        # Another file, another text: a killed one is run again.
        self.assertIsNone(again.find(mutate.sources()[1], "a"))
        path.write_text(path.read_text() + "half a li")
        with self.assertRaisesRegex(ValueError, r"results\.tsv:3: not four fields"):
            mutate.Results(path, 1)

    def test_sample(self):
        options = mutate.parse(["--sample", "5", "--seed", "3", str(TREE / "src/tlb/flush.c")])
        found = {"src/tlb/flush.c": [(number, None) for number in range(50)]}
        chosen = mutate.chosen(options, found)
        self.assertEqual((len(chosen), chosen), (5, mutate.chosen(options, found)))
        options.seed = 4
        self.assertNotEqual(chosen, mutate.chosen(options, found))


if __name__ == "__main__":
    unittest.main()
