#!/usr/bin/env python3
"""Campaigns of quire-sim: they go on where they were killed, find every seed that fails, and add up.

Usage: test_campaign.py QUIRE_SIM_WITH_MUTANTS
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAM = sys.argv.pop(1)
CAMPAIGN = pathlib.Path(__file__).resolve().parents[2] / "tools/campaign.py"
# campaign.py, which is killed in the N-th of its calls of one function, half of which is done.
DIES = """
import os, pathlib, runpy, signal, sys
script, name, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = {"write_text": pathlib.Path, "replace": os}[name]
whole = getattr(owner, name)

def dies(first, second, **options):
    global left
    left -= 1
    if not left:
        if name == "write_text":
            whole(first, second[:len(second) // 2], **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(first, second, **options)

setattr(owner, name, dies)
sys.path.insert(0, os.path.dirname(script))
sys.argv = [script, *sys.argv[4:]]
runpy.run_path(script, run_name="__main__")
"""
BUG = ("--mutant", "noexec_unseen")  # some seeds of a hundred fail


def campaign(*arguments):
    done = subprocess.run([sys.executable, CAMPAIGN, *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=280, check=False)
    return done.returncode, done.stdout, done.stderr


class Campaigns(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = pathlib.Path(place.name)

    def run_one(self, name, first, seeds, *options):
        path = self.folder / name
        status, text, errors = campaign(PROGRAM, "--from", first, "--seeds", seeds, "--json", path, *options)
        return status, text, errors, json.loads(path.read_text()) if path.exists() else None

    def test_passes(self):
        status, text, errors, told = self.run_one("a", 1, 300)
        self.assertEqual((status, errors), (0, ""))
        self.assertRegex(text, r"^commit \S+: 300 seeds, 0 violations\n$")
        self.assertEqual((told["from"], told["seeds"], told["done"], told["violations"]), (1, 300, 300, []))

    def test_goes_on_after_a_violation(self):
        """Each seed that fails alone is one of the campaign's."""
        status, text, _, told = self.run_one("a", 1, 40, *BUG)
        failed = [seed for seed in range(1, 41)
                  if subprocess.run([PROGRAM, "--from", str(seed), "--seeds", "1", "--shrink", "0", *BUG],
                                    stdout=subprocess.DEVNULL, check=False).returncode]
        self.assertEqual(status, 1)
        self.assertGreater(len(failed), 1)
        self.assertEqual([violation["seed"] for violation in told["violations"]], failed)
        for seed in failed:
            self.assertRegex(text, rf"(?m)^  seed {seed}: \w")

    def test_killed(self):
        path, done = self.folder / "a", 8000
        arguments = [sys.executable, CAMPAIGN, PROGRAM, "--seeds", "8000", "--json", path]
        # On a busy machine the campaign may get all the time, and come to its end before the kill.
        for _ in range(10):
            if done < 8000:
                break
            path.unlink(missing_ok=True)
            with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
                end = time.monotonic() + 120
                while not path.exists() and time.monotonic() < end:
                    time.sleep(0.02)
                child.kill()
            done = json.loads(path.read_text())["done"]
        self.assertIn(done, (2000, 4000, 6000))
        status, text, _, told = self.run_one("a", 1, 8000)
        self.assertEqual(status, 0)
        self.assertIn(f"going on after {done:,} seeds\n", text)
        self.assertEqual(told["done"], 8000)

    def test_merges(self):
        """Seeds of two files count once; one that fails is listed once."""
        whole = self.run_one("whole", 1, 40, *BUG)[3]
        self.run_one("first", 1, 25, *BUG)
        self.run_one("second", 21, 20, *BUG)
        status, text, _ = campaign("--merge", self.folder / "second", self.folder / "first")
        self.assertEqual(status, 1)
        self.assertRegex(text, rf"^commit \S+ --mutant noexec_unseen: 40 seeds, {len(whole['violations'])} violations\n")
        self.assertEqual(text, campaign("--merge", self.folder / "whole")[1])
        self.run_one("other", 1, 30)
        self.assertEqual(len([line for line in campaign("--merge", self.folder / "whole", self.folder / "other")[1]
                              .splitlines() if line.startswith("commit")]), 2)
        half = json.loads((self.folder / "other").read_text()) | {"done": 10}
        (self.folder / "half").write_text(json.dumps(half))
        self.assertEqual(campaign("--merge", self.folder / "half")[0], 0)
        self.assertRegex(campaign("--merge", self.folder / "half")[1], "10 seeds, 0 violations, 20 seeds still to run\n$")

    def test_killed_at_any_time(self):
        """A kill in the middle of a write, and between it and the next, leaves a file that goes on."""
        whole = self.run_one("whole", 1, 40, *BUG)[3]
        names = ("write_text", "replace")
        for writes in range(1, 4):
            for name in names:
                path = self.folder / f"{writes}{name}"
                subprocess.run([sys.executable, "-c", DIES, CAMPAIGN, name, str(writes), PROGRAM, "--from", "1", "--seeds", "40",
                                "--json", path, *BUG], stdout=subprocess.DEVNULL, check=False)
                before = json.loads(path.read_text())["done"] if path.exists() else 0
                self.assertEqual(before, ([0] + [seed["seed"] for seed in whole["violations"]])[writes - 1])
                self.assertEqual(self.run_one(path.name, 1, 40, *BUG)[3], whole)

    def test_refused(self):
        good = self.run_one("good", 1, 10)[3]
        gone = {"seed": 1, "failure": "f"}
        for change, why in (("a letter", ":1: "), ("{\n1", ":2: "), ({"format": "x"}, ":1: not a campaign"), ({"done": 11}, ":7: more is done"),
                            ({"seeds": "10"}, ":6: 'seeds' is missing"), ({"options": [1]}, ":4: an option"),
                            ({"from": -1}, ":5: no seed"), ({"violations": [gone, {"seed": 1}]}, ":13: a violation without a seed"),
                            ({"violations": [gone, 1]}, "a violation without a seed"),
                            ({"violations": [gone | {"failure": "{"}, gone | {"seed": 11}]}, ":13: seed 11 is none"),
                            ({"commit": "x"}, "of another campaign: its commit is x"), ({"from": 2}, "its from is 2")):
            (self.folder / "bad").write_text(change if isinstance(change, str) else json.dumps(good | change, indent=1))
            status, _, errors, _ = self.run_bad()
            self.assertEqual(status, 2, change)
            self.assertIn(why, errors)
        self.assertEqual(campaign("--merge", self.folder / "none")[0], 2)
        self.assertIn("--merge takes the files", campaign("--merge")[2])
        self.assertEqual(self.run_one("new", 1, 10, "--nonsense")[0], 2)
        self.assertFalse((self.folder / "new").exists())

    def run_bad(self):
        """The file keeps what it has."""
        before = (self.folder / "bad").read_bytes()
        status, text, errors = campaign(PROGRAM, "--from", 1, "--seeds", 10, "--json", self.folder / "bad")
        self.assertEqual((self.folder / "bad").read_bytes(), before)
        return status, text, errors, None


if __name__ == "__main__":
    unittest.main()
