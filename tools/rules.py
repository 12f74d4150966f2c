"""tests/rules.tsv: every rule has a row, and every test that a row names is there and is run.

Usage: rules.py [--root FOLDER]. Prints 'tests/rules.tsv:line: what' and exits 1 on findings. Lines
'# ids: ...', one a chapter, list the rules; a row is 'id<tab>rule<tab>tests', and tests are 'file:name, ...' or
'none: why no program can see it'. Each is one line. A name is a test's function; of tests/sim/pairs_*.c the
name of a pair, of a shell script what it expects, of src/base/mutant.h that of a bug which the pairs catch, and of tools/conformance.py a program
of the kernel's that CI runs.
"""
import argparse
import pathlib
import re
import sys

TABLE = "tests/rules.tsv"
IDS = "# ids:"
ID = re.compile(r"[UGEFTXS]-\d{3}[a-z]?")
NONE = "none: "


def known_tests(path):
    """Names that the file defines as functions and lists as tests."""
    text = path.read_text(errors="replace")
    if path.name.startswith("pairs_"):
        return set(re.findall(r'^    \{"([^"]+)",', text, re.M))
    if path.suffix == ".sh":
        return set(re.findall(r"^expect '([^']+)'", text, re.M))
    if path.name == "mutant.h":
        return set(re.findall(r"^\tX\((\w+), ", text, re.M))
    if path.name == "conformance.py":
        programs = re.search(r"^CI_PROGRAMS = \((.*?)\)$", text, re.M | re.S)
        return set(re.findall(r'"([^"]+)"', programs[1])) if programs else set()
    if path.suffix == ".py":
        return set(re.findall(r"^\s*def (test_\w+)\(", text, re.M))
    defined = set(re.findall(r"^static void (\w+)\((?:void|void \*\*state)\)", text, re.M))
    listed = set(re.findall(r"\b(?:[A-Z_]*TEST|cmocka_unit_test\w*)\((\w+)", text))
    return defined & listed


class Table:
    """The table's rows and what is wrong with them."""

    def __init__(self, root):
        self.root = root
        self.lines = (root / TABLE).read_text().splitlines()
        self.findings = []
        self.tests = {}

    def find(self, line, what):
        """Note one finding."""
        self.findings.append(f"{TABLE}:{line}: {what}")

    def check_test(self, line, name):
        """One 'file:test'."""
        path, _, test = name.partition(":")
        if path not in self.tests:
            file = self.root / path
            self.tests[path] = known_tests(file) if file.is_file() else None
        if self.tests[path] is None:
            self.find(line, f"no file {path}")
        elif test not in self.tests[path]:
            self.find(line, f"{path} has no test {test}")

    def check_row(self, line, fields):
        """One row of three fields."""
        if not fields[1].strip():
            self.find(line, "no rule")
        if fields[2].startswith(NONE):
            if len(fields[2]) < len(NONE) + 20:
                self.find(line, "no reason")
            return
        for name in fields[2].split(", "):
            self.check_test(line, name)

    def check(self):
        """All findings."""
        wanted, seen = [], {}
        for number, text in enumerate(self.lines, 1):
            if text.startswith(IDS):
                wanted += text[len(IDS):].split()
            if text.startswith("#"):
                continue
            fields = text.split("\t")
            if len(fields) != 3 or not ID.fullmatch(fields[0]):
                self.find(number, "not a row of id, rule and tests")
                continue
            if fields[0] in seen:
                self.find(number, f"{fields[0]} is in line {seen[fields[0]]}, too")
            seen[fields[0]] = number
            if fields[0] not in wanted:
                self.find(number, f"{fields[0]} is not in the list of ids")
            self.check_row(number, fields)
        for rule in wanted:
            if rule not in seen:
                self.find(1, f"no row for {rule}")
        if not wanted:
            self.find(1, f"no line '{IDS}'")
        return self.findings


def main():
    """Check the tree's table."""
    parser = argparse.ArgumentParser(description="Check tests/rules.tsv")
    parser.add_argument("--root", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent)
    findings = Table(parser.parse_args().root).check()
    print("\n".join(findings + [f"rules: {len(findings)} findings"]))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
