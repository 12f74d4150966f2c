"""What the tests run of the sources: lines and branches by folder, and the files with the least.

It builds with coverage in build-coverage/, forgets earlier counts, and runs the quick tests of the
suites that reach these folders (SUITEs name others). A line in several programs counts when one of
them runs it.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

import check_plan
import check_report
import check_runner
import hide_kvm
import meson_tests

TREE = pathlib.Path(__file__).resolve().parent.parent
FOLDER = TREE / "build-coverage"
# Without optimisation: a branch of the program is a branch of the source then.
OPTIONS = ["-Db_coverage=true", "-Dbuildtype=debug", "-Doptimization=0"]
FOLDERS = ("src", "vcpu", "frontend", "boundary", "preload")
SUITES = ("engine", "frontend", "guest", "preload", "rules", "unit")
# Left out: the same client once more, for what is below these folders; processes of the engine, which
# leave no counts; what looks at time; clients that sanitizers slow down already.
LEFT_OUT = ("rules-shadowed-", "rules-single-stage-", "rules-without-ad-", "rules-table", "tools-rules",
            "guest-paging-", "engine-rules-", "engine-vm", "engine-signals", "engine-processes",
            "engine-cpuid-", "preload-start", "rules-raw-sanitized", "rules-slots-sanitized")
# They also take away what counting needs: file sizes, system calls, stack. The rest of them counts.
MAY_FAIL = ("rules-surroundings", "rules-stacks")
GATES = {"frontend": 95.0, "boundary": 95.0, "preload": 95.0}
WORST = 12
ASSERTION = re.compile(r"\b(?:CHECK|BROKEN)\(")


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev coverage", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", action="store_true", help="fail where a folder has less than "
                        + ", ".join(f"{least:.0f} %% ({name})" for name, least in GATES.items()))
    parser.add_argument("--last", action="store_true", help="run nothing: show the last run again")
    parser.add_argument("--lines", metavar="FILE", nargs="+", default=[],
                        help="print these files' lines that no test ran")
    parser.add_argument("--jobs", type=int, metavar="N", help="tests at a time (processors)")
    parser.add_argument("suite", nargs="*", metavar="SUITE",
                        help=f"suites of the build ({' '.join(SUITES)})")
    return parser.parse_args(argv)


class Source:
    """How often each line ran, and each way out of each line."""

    def __init__(self, assertions=frozenset()):
        self.assertions = assertions
        self.lines = collections.Counter()
        self.branches = collections.Counter()

    def add(self, record):
        places = {function["name"]: range(function["start_line"], function["end_line"] + 1)
                  for function in record.get("functions", ())}
        for line in record["lines"]:
            number, function = line["line_number"], line.get("function_name")
            self.lines[number] += line["count"]
            if number in self.assertions:
                continue
            # What is inlined everywhere has its callers' names: its ways out are one set.
            if places and number not in places.get(function, ()):
                function = None
            for index, branch in enumerate(line["branches"]):
                self.branches[number, function, index] += branch["count"]

    def untaken(self):
        """By line, how many ways out of it no test took."""
        return collections.Counter(number for (number, _, _), count in self.branches.items()
                                   if not count)

    def missing(self):
        return sorted(number for number, count in self.lines.items() if not count)


def assertion_lines(text):
    """The lines of assertions (src/base/assert.h): the way out of one that fails is taken by our own bugs alone."""
    lines = set()
    for found in ASSERTION.finditer(text):
        depth, end = 1, found.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        first = text.count("\n", 0, found.start()) + 1
        lines.update(range(first, first + text.count("\n", found.start(), end) + 1))
    return frozenset(lines)


def share(counts):
    """(those that ran, all, per cent)"""
    ran = sum(1 for count in counts if count)
    return ran, len(counts), 100.0 * ran / len(counts) if counts else 100.0


def source_name(record, report):
    """The path in the tree, or None for what is no source of the product."""
    path = pathlib.Path(os.path.normpath(pathlib.Path(report["current_working_directory"])
                                         / record["file"]))
    if not path.is_relative_to(TREE):
        return None
    path = path.relative_to(TREE)
    return str(path) if path.parts[0] in FOLDERS else None


def read_notes(notes):
    """What gcov says of objects, one JSON text a line; an object that did not run has counts of 0."""
    said = subprocess.run(["gcov", "--stdout", "--json-format", "--branch-probabilities", *notes],
                          cwd=FOLDER, check=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    return [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]


def collect():
    """The sources of FOLDERS by their names. The engine has copies of some, which leave no counts."""
    notes = sorted(str(path) for path in FOLDER.rglob("*.gcno")
                   if path.relative_to(FOLDER).parts[0] != "engine")
    parts = [notes[at:at + 40] for at in range(0, len(notes), 40)]
    sources = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for reports in pool.map(read_notes, parts):
            for report in reports:
                for record in report["files"]:
                    name = source_name(record, report)
                    if name and name not in sources:
                        sources[name] = Source(assertion_lines((TREE / name).read_text()))
                    if name:
                        sources[name].add(record)
    return sources


def row(name, lines, branches):
    ran, count, of_lines = share(lines)
    return (f"{name:<34} {ran:>6,} of {count:>6,} lines {of_lines:>6.1f} %   "
            f"{share(branches)[2]:>6.1f} % of branches")


def joined(sources, folder, what):
    return [count for name, source in sources.items() if name.split("/")[0] == folder
            for count in getattr(source, what).values()]


def show(sources):
    for folder in FOLDERS:
        print(row(folder + "/", joined(sources, folder, "lines"), joined(sources, folder, "branches")))
    print(f"\nThe {WORST} files with the most lines that no test ran:")
    worst = sorted(sources.items(), key=lambda item: (-len(item[1].missing()), item[0]))
    for name, source in worst[:WORST]:
        print(row(name, list(source.lines.values()), list(source.branches.values())))


def show_lines(sources, names):
    for name in names:
        text = (TREE / name).read_text().splitlines()
        for number in sources[name].missing():
            print(f"{name}:{number}: {text[number - 1].strip()}")


def below_gate(sources):
    """Says what has too little; true when something has."""
    found = False
    for folder, least in GATES.items():
        reached = share(joined(sources, folder, "lines"))[2]
        if reached < least:
            print(f"coverage: {folder}/ has {reached:.1f} % of its lines, less than {least:.0f} %",
                  file=sys.stderr)
            found = True
    return found


def compile_tests(build, suites):
    """Meson's records of the tests; their programs are there then."""
    argv = meson_tests.configure_command(TREE, FOLDER, OPTIONS)
    if argv:
        subprocess.run(argv, cwd=TREE, check=True, env={**os.environ, "CC": "gcc"},
                       stdout=subprocess.DEVNULL)
    records = [record for record in build.tests()
               if record["suite"] in suites and record["name"] not in check_plan.SLOW
               and not record["name"].startswith(LEFT_OUT)]
    subprocess.run(["ninja", "-C", str(FOLDER), "--quiet", "all", *build.targets(records)],
                   check=True)
    return records


def run_tests(suites, jobs):
    """True when all passed."""
    build = meson_tests.Build(FOLDER)
    records = compile_tests(build, suites)
    for counts in FOLDER.rglob("*.gcda"):
        counts.unlink()
    report = check_report.Report()
    runner = check_runner.Runner(report, FOLDER / "checks", jobs)
    runner.catch_signals()
    print(f"the machine's own /dev/kvm: {hide_kvm.hide()}", flush=True)
    # Tests that become another user count, too.
    os.umask(0)
    runner.run([build.check(record, None) for record in records])
    print(report.totals() + f" ({', '.join(MAY_FAIL)} may fail here)", flush=True)
    if runner.signal:
        sys.exit(128 + runner.signal)
    failed = [entry.name for entry in report.entries if entry.outcome.result == "fail"]
    return bool(report.entries) and all(name.endswith(MAY_FAIL) for name in failed)


def main(argv):
    options = parse(argv)
    try:
        has_passed = options.last or run_tests(options.suite or SUITES, options.jobs)
    except subprocess.CalledProcessError as error:
        print(f"coverage: {' '.join(error.cmd[:3])} failed", file=sys.stderr)
        return 1
    sources = collect()
    unknown = [name for name in options.lines if not (TREE / name).is_file()]
    if unknown:
        print(f"coverage: there is no {' '.join(unknown)}", file=sys.stderr)
        return 2
    show(sources)
    show_lines(sources, options.lines)
    has_too_little = options.gate and below_gate(sources)
    return 1 if has_too_little or not has_passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
