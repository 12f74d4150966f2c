#!/usr/bin/env python3
"""./dev from another folder: a FILE is the caller's, not one of the tree that happens to have the name."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
ECHO = "#!/usr/bin/env python3\nimport sys\nprint('\\n'.join(sys.argv[1:]))\n"
TOOLS = ("campaign", "checks", "fuzz", "bench", "package", "docs", "conformance", "run_vmms", "coverage")


class DevTest(unittest.TestCase):
    def setUp(self):
        """A tree that is built, whose tools say what they are told."""
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = pathlib.Path(place.name).resolve()
        self.tree, self.elsewhere, commands = (self.folder / name for name in ("tree", "else where", "bin"))
        for folder in (self.tree / "tools", self.tree / "build", self.elsewhere, commands):
            folder.mkdir(parents=True)
        shutil.copy(TREE / "dev", self.tree)
        for name in TOOLS:
            (self.tree / "tools" / f"{name}.py").write_text(ECHO)
        (self.tree / "tools/progress.py").write_text("import os, sys\nwords = sys.argv[sys.argv.index('--') + 1:]\n"
                                                     "os.execvp(words[0], words)\n")
        (self.tree / "build/build.ninja").touch()
        for path, text in ((self.tree / "build/quire-sim", ECHO), (commands / "ninja", "#!/bin/sh\n"),
                           (commands / "dpkg-query", "#!/bin/sh\necho installed\n")):
            path.write_text(text)
            path.chmod(0o755)
        self.environment = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}"}

    def told(self, *words, where=None):
        """What the program that ./dev starts is told."""
        done = subprocess.run([self.tree / "dev", *words], cwd=where or self.elsewhere, env=self.environment, check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        return done.stdout.splitlines()

    def test_files_are_the_callers(self):
        here = f"{self.elsewhere}/"
        for words, told in ((("sim", "--replay", "a plan"), ["--replay", f"{here}a plan"]),
                            (("sim", "--replay=plan", "--order"), [f"--replay={here}plan", "--order"]),
                            (("sim", "--json", "a", "--seeds", "5"), ["build/cli/sim/quire-sim", "--json", f"{here}a", "--seeds", "5"]),
                            (("sim", "--merge", "a", "/b", "../c"), ["--merge", f"{here}a", "/b", f"{here}../c"]),
                            (("fuzz", "--merge", "a", "b", "--json", "c"), ["--merge", f"{here}a", f"{here}b", "--json", f"{here}c"]),
                            (("test", "--junit", "a", "rules"), ["--junit", f"{here}a", "rules"]),
                            (("bench", "--json", "a", "row"), ["--json", f"{here}a", "row"]),
                            (("package", "--output", "a"), ["--output", f"{here}a"]),
                            (("docs", "--output", "a"), ["--output", f"{here}a"]),
                            (("vmms", "qemu", "--program", "a"), ["qemu", "--program", f"{here}a"]),
                            # Of the tree, and none at all.
                            (("coverage", "--lines", "src/a.c"), ["--lines", "src/a.c"]),
                            (("conformance", "--json", "mmu_stress"), ["--json", "mmu_stress"])):
            with self.subTest(words):
                self.assertEqual(self.told(*words), told)

    def test_in_the_tree_they_stay_as_they_are(self):
        self.assertEqual(self.told("sim", "--replay", "plan", where=self.tree), ["--replay", "plan"])


if __name__ == "__main__":
    unittest.main()
