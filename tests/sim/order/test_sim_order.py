#!/usr/bin/env python3
"""quire-sim under the memory model: a lock without its order is a data race, told with both accesses; the plan repeats it.

Usage: test_sim_order.py QUIRE_SIM
"""
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

import order

PROGRAM = sys.argv.pop(1)
MODEL = PROGRAM + "-order"
LOCK = "src/base/lock.c mutex_release rmw 1"


def run(program, *arguments):
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=200, check=False)
    return done.returncode, done.stdout, done.stderr


class Order(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        _, listing, _ = run(MODEL, "--order", "--seeds", "100", "--sites")
        cls.sites = order.sites_of(MODEL, listing)

    def weak(self):
        return [word for address in self.sites[LOCK] for word in ("--weaken", hex(address))]

    def test_sites(self):
        """More than the pairs reach by themselves would be: locks, tables, slots, logs."""
        for part in ("src/base/", "src/tdp/", "src/vm/", "src/dirty/", "src/tlb/"):
            self.assertTrue([name for name in self.sites if name.startswith(part)], part)

    def test_race(self):
        status, text, errors = run(MODEL, "--order", "--shrink", "60", *self.weak())
        self.assertEqual((status, errors), (1, ""))
        failures = re.findall(r"^# failed: (.*)$", text, re.M)
        self.assertEqual(len(failures), 1)
        self.assertRegex(failures[0], "^data race: code at 0x[0-9a-f]+ (reads|writes) [0-9]+ bytes that code at ")
        self.assertRegex(text, r"(?m)^order \d+$")
        self.assertRegex(text, r"# the two accesses, this one and that of thread \d:\n"
                               r"(#       \w+ \S+/[\w/]+\.[ch]:\d+\n){2}")
        self.assertRegex(text, r"# stack at the last point before the other access:\n#       \w+ \w+/")
        self.assertLessEqual(len(re.findall(r"^thread \d", text, re.M)), 8)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "plan")
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            again, told, _ = run(MODEL, "--replay", path, *self.weak())
            self.assertEqual((again, re.findall(r"^# failed: (.*)$", told, re.M)), (1, failures))
            # The plan says that it wants the model: the other program finds it.
            self.assertEqual(run(PROGRAM, "--replay", path)[:2], (0, "the plan passed\n"))

    def test_replay(self):
        """Where the library has changed, another seed notices; the test says which, or that none does."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "program")
            path.write_text("#!/bin/sh\ncase \" $* \" in\n*' --seeds 9 '*) echo '# seed 5 failed: a race'; exit 1 ;;\nesac\n")
            path.chmod(0o755)
            listed = pathlib.Path(folder, "seeds.txt")
            listed.write_text("a site: 3\n")
            for seeds, said, wrong in ((9, "a site: 3 does not notice, 5 does\n", 0), (8, "a site: 3 does not notice, SURVIVED\n", 1)):
                judge = order.judge_of(argparse.Namespace(program=path, seeds=seeds))
                with contextlib.redirect_stdout(io.StringIO()) as told:
                    self.assertEqual(order.replay({"a site": [16]}, listed, judge, order.Book()), wrong)
                self.assertEqual(told.getvalue(), said)

    def test_off(self):
        """Without the model a relaxed order is none the weaker."""
        self.assertEqual(run(MODEL, "--seeds", "50", *self.weak())[:2], (0, "50 simulations passed\n"))
        self.assertEqual(run(PROGRAM, "--order", "--seeds", "50")[:2], (0, "50 simulations passed\n"))

    def test_refused(self):
        for arguments in (["--weaken", "here"], ["--order=1"]):
            self.assertEqual(run(MODEL, *arguments)[0], 2)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "plan")
            for text in ("order 0\n", "order one\n", "order 3 4\n"):
                with open(path, "w", encoding="utf-8") as file:
                    file.write("quire-sim plan 1\n" + text)
                status, _, errors = run(MODEL, "--replay", path)
                self.assertEqual(status, 2)
                self.assertRegex(errors, "plan:2: not (an order|a line of a plan)")


if __name__ == "__main__":
    unittest.main()
