"""What abidiff says of the libraries that were built, against the baselines beside this file: a program that was
linked before must go on working.

usage: test_abidiff.py [--write] LIBRARY...   --write: the interface has changed, and so shall the baselines
"""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
# Private types, places in the sources and the compiler's folder are no interface.
DESCRIBE = ("abidw", "--headers-dir", str(TREE / "include"), "--drop-private-types", "--drop-undefined-syms",
            "--no-show-locs", "--no-corpus-path", "--no-comp-dir-path", "--no-elf-needed", "--no-parameter-names",
            "--type-id-style", "hash")
# A program that was linked before does not call a new function.
COMPARE = ("abidiff", "--no-added-syms")
SIZE = re.compile(r"(<class-decl name='quire_\w+' size-in-bits=')(\d+)'")


def baseline(library):
    return TREE / "tests/install" / f"{library.name.split('.so')[0]}.abi"


def describe(library, path):
    subprocess.run([*DESCRIBE, str(library), "--out-file", str(path)], check=True)


def compare(one, other):
    """abidiff's status, 0 for the same interface, and its report."""
    done = subprocess.run([*COMPARE, str(one), str(other)], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


class Libraries(unittest.TestCase):
    paths = []

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def test_they_are_as_promised(self):
        for library in self.paths:
            with self.subTest(library=library.name):
                now = self.folder / "now"
                describe(library, now)
                status, text = compare(baseline(library), now)
                self.assertEqual(status, 0, f"{text}\nthe interface differs: a line in CHANGELOG.md that says ABI, "
                                 "a new soname once there was a release, and tests/install/test_abidiff.py "
                                 f"--write {library}")

    def test_a_change_would_be_seen(self):
        """A struct that grew, and a function that went."""
        for library in self.paths:
            text = baseline(library).read_text()
            other = self.folder / "other"
            name = re.search(r"<elf-symbol name='(quire_\w+)'", text)[1]
            without = re.sub(rf"^.*<elf-symbol name='{name}'.*\n", "", text, flags=re.M)
            without = re.sub(rf" elf-symbol-id='{name}@[^']*'", "", without)
            changes = [without]
            if SIZE.search(text):
                changes.append(SIZE.sub(lambda found: f"{found[1]}{int(found[2]) + 64}'", text, count=1))
            for changed in changes:
                with self.subTest(library=library.name):
                    other.write_text(changed)
                    status, said = compare(baseline(library), other)
                    self.assertTrue(status & 4, said)


def main(words):
    write = words[:1] == ["--write"]
    Libraries.paths = [pathlib.Path(word).resolve() for word in words[write:]]
    if not write:
        unittest.main(argv=sys.argv[:1])
    for library in Libraries.paths:
        describe(library, baseline(library))


if __name__ == "__main__":
    main(sys.argv[1:])
