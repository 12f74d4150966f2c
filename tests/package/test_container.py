"""The Dockerfile in full, as Docker would: the packages are built in a root of their own, some minutes.

usage: test_container.py PROGRAM   (a KVM program: examples/private-vm)
"""
import pathlib
import subprocess
import sys
import tempfile
import unittest

import container

PROGRAM = pathlib.Path(sys.argv[1]).resolve()


class Container(unittest.TestCase):
    def test_it_is_built_and_runs_a_program(self):
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(container.privileged, "rm", "-rf", folder)
        # What a user has: a clone.
        tree = folder / "tree"
        subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{container.TREE}", str(tree)], check=True)
        sources = {"": tree}
        for stage, (image, steps) in container.stages().items():
            root = folder / (stage or "last")
            container.make(root, image)
            start = container.carry_out(root, steps, sources)
            sources[stage] = root
        container.must("cp", PROGRAM, root / "usr/bin/private-vm")
        self.assertIn("All as it should be.\n", container.run_in(root, *start, "private-vm"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
