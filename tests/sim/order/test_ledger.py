#!/usr/bin/env python3
"""The list of orders comes from the source, and each stands in one list, once."""
import contextlib
import io
import pathlib
import tempfile
import unittest
from unittest import mock

import ledger
import order

SOURCE = """\
/* atomic_fence() */
enum outcome take(u32 *word,
		  u32 *other)
{
	if (!atomic_load_acquire_u32(word) || atomic_load_acquire_u32(word))
		return NONE;
	return atomic_load_acquire_ptr(&other) && atomic_cmpxchg_u32(word, other, 1);
}

static inline void put(u32 *word)
{
	atomic_fence();
	atomic_store_release_u32(word, atomic_exchange_u32(other, atomic_load_relaxed_u32(word)));
}
"""
NAMES = {
    ("take", "acquire", 5): "src/a.c take acquire 1",
    ("take", "acquire", 7): "src/a.c take acquire 2",
    ("take", "rmw", 7): "src/a.c take rmw 1",
    ("put", "fence", 12): "src/a.c put fence 1",
    ("put", "release", 13): "src/a.c put release 1",
    ("put", "rmw", 13): "src/a.c put rmw 1",
}
SITES = ["src/a.c take acquire 1", "src/a.c take rmw 1"]


class Names(unittest.TestCase):
    def test_functions_and_kinds(self):
        self.assertEqual(ledger.sites_of_text("src/a.c", SOURCE), (NAMES, []))

    def test_nothing_is_left_out(self):
        """An operation that the list would not have is refused: in a macro, or without the name of its order."""
        for text, said in (("#define TAKE(p) \\\n\tatomic_exchange_u32(p, 1)\n", "outside of a function"),
                           ("void f(int *p)\n{\n\t__atomic_store_n(p, 1, __ATOMIC_RELEASE);\n}\n", "__ATOMIC_RELEASE"),
                           ("void f(int *p)\n{\n\t__sync_synchronize();\n}\n", "__sync_synchronize")):
            names, wrong = ledger.sites_of_text("src/a.c", text)
            self.assertEqual((names, len(wrong)), ({}, 1), text)
            self.assertIn(said, wrong[0])
        self.assertEqual(ledger.sites_of_text("src/a.c", "void f(int *p)\n{\n\t__atomic_store_n(p, 1, __ATOMIC_RELAXED);\n}\n"),
                         ({}, []))

    def test_places_of_code(self):
        """By line where debug information has it, else by function where that has one such site."""
        known = order.Sites({("src/a.c", *place): name for place, name in NAMES.items()})
        for frames, kind, name in (
                ([("atomic_load_acquire_u32", "/b/../src/base/atomic.h:121"), ("take", "/b/../src/a.c:5"),
                  ("other", "/b/../src/c.c:9")], "acquire", "src/a.c take acquire 1"),
                # Inlined into a function of another name, which a lost scope leaves.
                ([("caller", "/b/../src/a.c:7")], "acquire", "src/a.c take acquire 2"),
                ([("put", "/b/../src/base/atomic.h:121")], "release", "src/a.c put release 1"),
                # One piece of code of two sites; of none; of a test's.
                ([("take", "/b/../src/base/atomic.h:121")], "acquire", None),
                ([("take", "/b/../src/a.c:?")], "acquire", None),
                ([("body", "/b/../tests/sim/a.c:5"), ("take", "/b/../src/a.c:5")], "acquire", None)):
            self.assertEqual(known.name(frames, kind), name, frames)
        with self.assertRaises(KeyError):
            known.name([("take", "/b/../src/a.c:6")], "acquire")


class Lists(unittest.TestCase):
    def check(self, **lists):
        counts, wrong = ledger.check(SITES, {f"{name}.txt": text for name, text in lists.items()})
        self.assertEqual(list(counts), [f"{name}.txt" for name in lists])
        return wrong

    def test_each_stands_once(self):
        caught, argued = "# head\n" + SITES[0] + ": a pair\n", "= why\n" + SITES[1] + "\n"
        self.assertEqual(self.check(caught=caught, argued=argued, seeds=""), [])
        self.assertEqual(self.check(caught=caught, argued=""), [SITES[1] + ": stands in none of caught.txt, argued.txt"])
        self.assertEqual(self.check(caught=caught, argued=argued, seeds=SITES[0] + ": 7"),
                         [f"seeds.txt: {SITES[0]}: stands in caught.txt, too"])
        self.assertEqual(self.check(caught=caught, argued=argued, seeds="src/a.c gone fence 1: 7\n"),
                         ["seeds.txt: src/a.c gone fence 1: src/ has no such site"])

    def test_lines(self):
        """A pair or a seed for what is caught, a reason for what is argued, nothing else."""
        for name, line in (("caught", SITES[0]), ("seeds", SITES[0]), ("argued", "= why\n" + SITES[0] + ": a pair"),
                           ("argued", SITES[0]), ("seeds", "take acquire: 7")):
            self.assertEqual(len(self.check(**{name: line})), 1 + len(SITES), line)


class Prose(unittest.TestCase):
    def test_numbers(self):
        counts = {"caught.txt": 4, "seeds.txt": 1, "argued.txt": 2}
        text = "- The library has %d atomic operations with an order (fence). %d are known to be needed: a\n  pair. The other %d stay."
        self.assertEqual(ledger.check_prose(text % (7, 5, 2), counts), [])
        for numbers in ((8, 5, 2), (7, 4, 2), (7, 5, 3)):
            self.assertEqual(len(ledger.check_prose(text % numbers, counts)), 1)
        self.assertEqual(len(ledger.check_prose("", counts)), 1)

    def test_none_is_argued(self):
        counts = {"caught.txt": 4, "seeds.txt": 1, "argued.txt": 0}
        text = "- The library has %d atomic operations with an order (fence). Each is known to be needed: a\n  pair."
        self.assertEqual(ledger.check_prose(text % 5, counts), [])
        for wrong in (text % 6, text % 5 + " The other 2 stay.", (text % 5).replace("Each is", "3 are")):
            self.assertEqual(len(ledger.check_prose(wrong, counts)), 1, wrong)


class Outcomes(unittest.TestCase):
    def test_out_of_time_is_not_noticed(self):
        for by in (order.TIMED_OUT, order.SURVIVED):
            self.assertFalse(order.notices(order.Outcome(by, 0)))
        limit, order.LIMIT_SECONDS = order.LIMIT_SECONDS, 1
        try:
            self.assertEqual(order.run("sh", "-c", "while :; do :; done")[0], order.TIMED_OUT)
        finally:
            order.LIMIT_SECONDS = limit
        self.assertEqual(order.run("sh", "-c", "echo one; exit 1"), (1, "one\n"))

    def test_what_is_caught_is_counted(self):
        """What was argued and is noticed after all is an error (--survives)."""
        outcomes = {1: order.Outcome("a pair", 1234), 2: order.Outcome(order.SURVIVED, 0), 3: order.Outcome(order.TIMED_OUT, 0)}
        with contextlib.redirect_stdout(io.StringIO()) as told:
            caught = order.weaken_all({str(at): at for at in outcomes}, lambda at, by: outcomes[at], order.Book())
        self.assertEqual(caught, 1)
        self.assertEqual(told.getvalue(), "1: a pair\t# after 1,234\n2: SURVIVED\n3: TIMED OUT\n"
                                          "# 1 of 3 caught, 1 timed out, 0 not tried\n")

    def test_executions(self):
        """Those of the pair that notices alone, with fewer choices and then with more."""
        text = ("pair a mutex\n  39 runs\npair mutex\n  7 runs\npair mutex\n  data race: here\n  data race: here\n"
                "  failed after 12 runs, result 3, plan 1->1\n")
        self.assertEqual([order.executions(text, pair) for pair in ("mutex", "a mutex", "utex")], [19, 39, 0])

    def test_late_is_a_failure(self):
        """After 20,000 executions, wherever it is looked for; what each took is kept."""
        with tempfile.TemporaryDirectory() as place:
            listed, record = pathlib.Path(place) / "caught.txt", pathlib.Path(place) / "record"
            listed.write_text("one: a pair\ntwo: a pair\n")
            for count, status in ((20000, 0), (20001, 1)):
                outcomes = {1: order.Outcome("a pair", 3), 2: order.Outcome("a pair", count)}
                with mock.patch.object(order, "sites_of", lambda *_: {"one": 1, "two": 2}), \
                        mock.patch.object(order, "run", lambda *_: (0, "")), \
                        mock.patch.object(order, "judge_of", lambda _, found=outcomes: lambda at, by: found[at]), \
                        mock.patch.object(order.ledger, "sites_of_tree", lambda: ({1: "one", 2: "two"}, [])), \
                        contextlib.redirect_stdout(io.StringIO()) as told:
                    self.assertEqual(order.main(["program", "--replay", str(listed), "--record", str(record)]), status)
                    self.assertEqual(order.main(["program"]), status)
                self.assertEqual(record.read_text(), f"one\t3\ntwo\t{count}\n")
                self.assertEqual(told.getvalue().count("more than 20,000"), 2 * status)
                self.assertIn(f"at most {count:,} (two)", told.getvalue())

    def test_what_nothing_runs_is_said(self):
        with tempfile.TemporaryDirectory() as place:
            argued, program = pathlib.Path(place) / "argued.txt", pathlib.Path(place) / "program"
            argued.write_text("# head\n\n= why\nsrc/a.c one rmw 1\nsrc/a.c two rmw 1\n")
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
            with mock.patch.object(order, "sites_of", lambda *_: {"src/a.c two rmw 1": []}), \
                    contextlib.redirect_stdout(io.StringIO()) as told:
                self.assertEqual(order.main([str(program), "--survives", str(argued)]), 0)
        self.assertEqual(told.getvalue(), "src/a.c one rmw 1: NOT TRIED\nsrc/a.c two rmw 1: SURVIVED\n"
                                          "# 0 of 1 caught, 0 timed out, 1 not tried\n# none was noticed\n")


if __name__ == "__main__":
    unittest.main()
