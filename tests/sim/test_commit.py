#!/usr/bin/env python3
"""What quire-sim says it was built of: the commit of the tree's, whatever is around the build.

Usage: test_commit.py QUIRE_SIM
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1)
SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "cli/sim/commit.sh"


class Commit(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.tree = pathlib.Path(place.name) / "tree"
        self.git("init", "-q", self.tree, cwd=place.name)
        (self.tree / "part").mkdir()
        (self.tree / "part/file").write_text("a\n")
        self.git("add", ".")
        self.git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "a file")
        self.commit = self.git("rev-parse", "HEAD").strip()[:12]

    def git(self, *arguments, cwd=None):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.run(["git", *arguments], cwd=cwd or self.tree, env=clean, stdout=subprocess.PIPE, text=True,
                              check=True).stdout

    def said(self, folder=None, **variables):
        done = subprocess.run([SCRIPT, folder or self.tree], env=os.environ | variables, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def test_clean_or_changed(self):
        self.assertEqual(self.said(), self.commit)
        (self.tree / "build").mkdir()
        (self.tree / "build/product").write_text("b\n")
        self.assertEqual(self.said(), self.commit)
        (self.tree / "part/file").write_text("c\n")
        self.assertEqual(self.said(), self.commit + "-dirty")
        self.git("add", ".")
        self.assertEqual(self.said(), self.commit + "-dirty")

    def test_tagged(self):
        self.git("-c", "user.name=a", "-c", "user.email=a@b", "tag", "-a", "-m", "a tag", "v1")
        self.assertEqual(self.said(), self.commit)

    def test_in_a_hook(self):
        """A hook's variables mean another folder as the tree's top, in which every file is missing."""
        self.assertEqual(self.said(GIT_DIR=str(self.tree / ".git"), GIT_PREFIX="part/"), self.commit)

    def test_no_tree(self):
        self.assertIsNone(self.said(self.tree / "part"))
        self.git("init", "-q", self.tree / "empty")
        self.assertIsNone(self.said(self.tree / "empty"))

    def test_program(self):
        """A commit, or a version where it was built of an archive: never a part of one alone."""
        told = subprocess.run([PROGRAM, "--commit"], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertRegex(told, re.compile(r"^([0-9a-f]{12,40}(-dirty)?|\d+\.\d+\.\d+)\n$"))
        # With --order another program runs the seeds: it says its own.
        order = pathlib.Path(PROGRAM + "-order")
        if order.exists():
            self.assertEqual(subprocess.run([PROGRAM, "--order", "--commit"], stdout=subprocess.PIPE, check=True).stdout,
                             subprocess.run([order, "--commit"], stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    unittest.main()
