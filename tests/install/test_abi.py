"""The binary interface that the headers promise, against tests/install/abi.txt.

usage: test_abi.py [--write]   --write: the interface has changed, and so shall the file
"""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
BASELINE = TREE / "tests/install/abi.txt"
HEADERS = sorted((TREE / "include/quire").glob("*.h"))
ALL = "".join(f"#include <quire/{path.name}>\n" for path in HEADERS)


def clang(text, *words):
    return subprocess.run(["clang", "-std=c11", "-I", str(TREE / "include"), *words, "-x", "c", "-"],
                          input=text, text=True, check=True, stdout=subprocess.PIPE).stdout


def functions():
    for path in HEADERS:
        text = re.sub(r"/\*.*?\*/|^#.*?$", "", path.read_text(), flags=re.S | re.M)
        for found in re.findall(r"QUIRE_API\b([^;{]*);", text):
            yield " ".join(found.replace("QUIRE_MUST_CHECK", "").split())


def records():
    """Size and offsets of each struct, as clang lays them out."""
    text = clang(ALL, "-fsyntax-only", "-Xclang", "-fdump-record-layouts-complete")
    for block in text.split("*** Dumping AST Record Layout")[1:]:
        lines = [line.rstrip() for line in block.splitlines() if line.strip()]
        if "quire" in lines[0] or re.search(r"[gh]\w+_t$|pfn_t$", lines[0]):
            # A struct without a name is named by its place in the header.
            yield "\n".join(re.sub(r"\(unnamed at .*?\)|\((?:anonymous|unnamed).*?\)", "", line)
                            for line in lines)


def constants():
    """Each enumerator and its value."""
    tree = clang(ALL, "-fsyntax-only", "-Xclang", "-ast-dump", "-fno-color-diagnostics")
    names = re.findall(r"EnumConstantDecl .*?\b(QUIRE_\w+) 'int'", tree)
    prints = "".join(f'printf("{name} = %lld\\n", (long long){name});\n' for name in names)
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/program"
        clang(f"#include <stdio.h>\n{ALL}int main(void)\n{{\n{prints}}}\n", "-o", program)
        yield from subprocess.run([program], text=True, check=True,
                                  stdout=subprocess.PIPE).stdout.splitlines()


def macros():
    """Constants that are macros, as they are written."""
    for line in clang(ALL, "-dM", "-E").splitlines():
        if re.match(r"#define QUIRE_[A-Z0-9_]+ [^_\s]", line):
            yield line


def interface():
    parts = [("functions", sorted(functions())), ("structs", sorted(set(records()))),
             ("enumerators", list(constants())), ("macros", sorted(macros()))]
    return "".join(f"== {title}\n" + "".join(f"{entry}\n" for entry in entries)
                   for title, entries in parts)


class Interface(unittest.TestCase):
    maxDiff = None

    def test_it_is_as_promised(self):
        self.assertEqual(interface(), BASELINE.read_text(),
                         "the interface differs: a line in CHANGELOG.md that says ABI, a new soname "
                         "once there was a release, and 'python3 tests/install/test_abi.py --write'")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        BASELINE.write_text(interface())
    else:
        unittest.main()
