"""What the tests run of the sources: lines and branches by folder, and the files with the least.

It builds with coverage in build-coverage/, forgets earlier counts, and runs the quick tests of the
suites that reach these folders (SUITEs name others). A line in several programs counts when one of
them runs it. A branch is one way out of a line: where assertions fail (CHECK, BROKEN of
src/base/assert.h) is none, for our own bugs alone go there.

Branches of src/ that no test takes, for a reason, stand in tests/coverage/explained.txt. A line that
stands there and is in the file no more, or stands there twice, fails. So does one whose branch is
taken; with --gate that is only printed, for two threads that meet may take it in one run of many.
A branch that no test took and that does not stand there is printed; with --gate more than
UNEXPLAINED_MAX of them fail.
"""
import argparse
import collections
import concurrent.futures
import json
import math
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
SUITES = ("engine", "frontend", "guest", "preload", "rules", "sim", "unit")
# Left out: the same client once more, for what is below these folders; processes of the engine, which
# leave no counts; what looks at time; clients that sanitizers slow down already.
LEFT_OUT = ("rules-shadowed-", "rules-single-stage-", "rules-without-ad-", "rules-table", "tools-rules",
            "guest-paging-", "engine-rules-", "engine-vm", "engine-signals", "engine-processes",
            "engine-cpuid-", "preload-start", "rules-raw-sanitized", "rules-slots-sanitized",
            # Kernels have no libc that writes counts; the functions on a way are not those of other builds.
            "kernel-", "walkers-", "walks",
            # Bugs that are switched on are none of the product's lines; C11's memory order is clang's.
            "fast-paths", "sim-campaign", "sim-mutants", "sim-story", "shadow-mutants", "mutants", "order-")
# They also take away what counting needs: file sizes, system calls, stack; or run static programs, which end by SIGSEGV
# on an engine that counts. The rest of them counts.
MAY_FAIL = ("rules-surroundings", "rules-stacks", "sanitize-dirty")
# Least shares of lines and of branches: of all these tests, and of those of --quick. They are a point or so below what
# was reached: a processor with fewer features runs less of vcpu/.
GATES = {"src": (97, 95), "vcpu": (92, 65), "frontend": (95, 72), "boundary": (95, 75), "preload": (95, 56)}
QUICK_GATES = {"src": (97, 95), "vcpu": (92, 64), "frontend": (85, 72), "boundary": (87, 75)}
# What CI has time for: left out of it are tests of gigabytes, of every bit, and of real threads.
QUICK_SUITES = ("frontend", "preload", "rules", "sim", "unit")
QUICK_LEFT_OUT = ("change-log_gigantic", "interleave-", "lockstep",
                  "process-huge", "race-", "run-", "rights-", "rules-in-place", "spaces-translated",
                  "stress", "tdp-history", "tree-ptree-small")
# Tests of gigabytes, with --quick in the first table format alone (QUIRE_FORMATS): all of them take a minute.
ONE_FORMAT = ("gmem-gigantic", "gmem-hugetlb_gigantic", "shadow-gigantic")
# Each run of a test of interleavings has so many preemptions at most, and quire-sim so many seeds.
PREEMPTIONS = 1
SEEDS, QUICK_SEEDS = 2000, 300
EXPLAINED = "tests/coverage/explained.txt"
# More branches of src/ than this that are neither taken nor explained fail: the last whole run had none. The rest is for what
# two threads that meet take in one run and not in the next: it is not to become 0, or CI would fail by chance.
UNEXPLAINED_MAX = 5
# Slow but for the bound on preemptions.
BOUNDED = ("interleave", "shadow")
# What no test runs: costs.
UNUSED = ("cli/bench", "examples", "tests")
# A test that is not optimised, and counts, takes as many times as long.
PATIENCE = 4
WORST = 12
ASSERTION = re.compile(r"\b(?:CHECK|BROKEN)\(")


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev coverage", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", action="store_true", help="fail where a folder has fewer lines or branches than "
                        + ", ".join(f"{lines} %% and {ways} %% ({name})"
                                    for name, (lines, ways) in GATES.items()))
    parser.add_argument("--quick", action="store_true",
                        help="the tests, and the gates, that CI has time for")
    parser.add_argument("--branches", metavar="FILE", nargs="+", default=[],
                        help="print these files' lines that have a way out which no test took")
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
        self.ways = collections.defaultdict(list)

    def add(self, record):
        places = {function["name"]: range(function["start_line"], function["end_line"] + 1)
                  for function in record.get("functions", ())}
        for line in record["lines"]:
            number, function = line["line_number"], line.get("function_name")
            self.lines[number] += line["count"]
            if number in self.assertions:
                continue
            # What is inlined everywhere has its callers' names, and is there once for each call.
            if places and number not in places.get(function, ()):
                function = None
            if line["branches"]:
                self.ways[number, function].append([branch["count"] for branch in line["branches"]])

    @property
    def branches(self):
        """How often each way out was taken, by (line, function, which)."""
        counts = collections.Counter()
        for (number, function), records in self.ways.items():
            own = math.gcd(*map(len, records))
            for record in records:
                for index, count in enumerate(record):
                    counts[number, function, index % own] += count
        return counts

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
    """The sources of FOLDERS by their names. The engine has copies of some, which leave no counts; where bugs can be
    switched on, lines have more ways out."""
    notes = sorted(str(path) for path in FOLDER.rglob("*.gcno")
                   if not str(path.relative_to(FOLDER)).startswith(("engine/", "tests/soak/"))
                   and "mutants" not in str(path))
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


def show_branches(sources, names):
    for name in names:
        text = (TREE / name).read_text().splitlines()
        for number, ways in sorted(sources[name].untaken().items()):
            print(f"{name}:{number}: {ways}: {text[number - 1].strip()}")


def below_gate(sources, gates):
    """Says what has too little; true when something has."""
    found = False
    for folder, least in gates.items():
        for what, share_least in zip(("lines", "branches"), least):
            reached = share(joined(sources, folder, what))[2]
            if reached < share_least:
                print(f"coverage: {folder}/ has {reached:.1f} % of its {what}, less than {share_least} %",
                      file=sys.stderr)
                found = True
    return found


def read_explained(text):
    """(reason, file, line as it reads, ways out of it that are never taken, whether always so), one a line."""
    reason = ""
    for line in text.splitlines():
        if line.startswith("= "):
            reason = line[2:]
        elif line and not line.startswith("#"):
            name, ways, source = line.split("\t")
            yield reason, name, source, int(ways.lstrip("<")), not ways.startswith("<")


def check_explained(sources, entries, read):
    """(how many branches are explained, what is wrong with the list, which of its branches are taken after all)."""
    explained, wrong, taken, seen = 0, [], [], set()
    for reason, name, source, ways, is_certain in entries:
        where = f"{EXPLAINED}: {name}: {source}"
        numbers = [number for number, line in enumerate(read(name).splitlines(), 1)
                   if line.strip() == source] if name in sources else []
        untaken = sources[name].untaken() if numbers else {}
        left = sum(untaken.get(number, 0) for number in numbers)
        if not reason:
            wrong.append(f"{where}: without a reason")
        if (name, source) in seen:
            wrong.append(f"{where}: stands there twice")
        elif not numbers:
            wrong.append(f"{where}: there is no such line")
        elif left < ways and is_certain:
            taken.append(f"{where}: {left} ways out are never taken, not {ways}")
        seen.add((name, source))
        explained += min(left, ways)
    return explained, wrong, taken


def unexplained(sources, entries, read):
    """(where, how many ways out, the line as it reads) of each line of src/ that has more of them than the list."""
    listed = collections.Counter()
    for _, name, source, ways, _ in entries:
        listed[name, source] += ways
    for name in sorted(name for name in sources if name.split("/")[0] == "src"):
        text = read(name).splitlines()
        for number, ways in sorted(sources[name].untaken().items()):
            line = text[number - 1].strip()
            known = min(ways, listed[name, line])
            listed[name, line] -= known
            if ways > known:
                yield f"{name}:{number}", ways - known, line


def show_explained(sources, is_gate):
    """True when the list is right and complete, or with @is_gate so far as every run can show."""
    def read(name):
        return (TREE / name).read_text()

    entries = list(read_explained(read(EXPLAINED)))
    explained, wrong, taken = check_explained(sources, entries, read)
    missing = list(unexplained(sources, entries, read))
    counts = joined(sources, "src", "branches")
    untaken = sum(1 for count in counts if not count)
    left = sum(ways for _, ways, _ in missing)
    print(f"\nOf {len(counts):,} branches of src/ no test took {untaken}: {explained} are explained, "
          f"{left} are not ({EXPLAINED}).")
    for text in wrong + taken + [f"{where}: {ways}: {line}" for where, ways, line in missing]:
        print(f"coverage: {text}", file=sys.stderr)
    if left > UNEXPLAINED_MAX:
        print(f"coverage: {left} branches of src/ are neither taken nor explained, more than {UNEXPLAINED_MAX}",
              file=sys.stderr)
    return not wrong and (is_gate or not taken) and (left <= UNEXPLAINED_MAX or not is_gate)


def simulations(options):
    """quire-sim's seeds, as many as there is time for."""
    seeds = QUICK_SEEDS if options.quick else SEEDS
    run = check_runner.command([str(FOLDER / "cli/sim/quire-sim"), "--seeds", str(seeds)], FOLDER, 1200)
    return check_runner.Check("sim", f"sim: {seeds} simulations", run)


def products(build):
    """What a build makes, and quire-sim: tests run more of it than Meson knows of."""
    def is_wanted(target, name):
        return (target["build_by_default"] or name.endswith("/quire-sim")) and not name.startswith(UNUSED)

    names = [(target, os.path.relpath(name, FOLDER)) for target in build.introspect("targets")
             for name in target["filename"]]
    return sorted(name for target, name in names if is_wanted(target, name))


def compile_tests(build, suites, left_out):
    """Meson's records of the tests; their programs are there then."""
    argv = meson_tests.configure_command(TREE, FOLDER, OPTIONS)
    if argv:
        subprocess.run(argv, cwd=TREE, check=True, env={**os.environ, "CC": "gcc"},
                       stdout=subprocess.DEVNULL)
    records = [record for record in build.tests()
               if record["suite"] in suites and not record["name"].startswith(left_out)
               and record["name"] not in {"sanitize"} | set(check_plan.SLOW) - set(BOUNDED)]
    subprocess.run(["ninja", "-C", str(FOLDER), "--quiet", *products(build), *build.targets(records)],
                   check=True)
    return records


def in_one_format(record):
    return {**record, "env": {**record["env"], "QUIRE_FORMATS": "1"}} if record["name"] in ONE_FORMAT else record


def run_tests(options):
    """True when all passed."""
    build = meson_tests.Build(FOLDER)
    build.patience = PATIENCE
    suites = options.suite or (QUICK_SUITES if options.quick else SUITES)
    records = compile_tests(build, suites, LEFT_OUT + (QUICK_LEFT_OUT if options.quick else ()))
    if options.quick:
        records = [in_one_format(record) for record in records]
    for counts in FOLDER.rglob("*.gcda"):
        counts.unlink()
    report = check_report.Report()
    runner = check_runner.Runner(report, FOLDER / "checks", options.jobs)
    runner.catch_signals()
    print(f"the machine's own /dev/kvm: {hide_kvm.hide()}", flush=True)
    # Tests that become another user count, too.
    os.umask(0)
    os.environ["QUIRE_PREEMPTIONS"] = str(PREEMPTIONS)
    runner.run([*[build.check(record, None, check_plan.SLOW) for record in records],
                *([simulations(options)] if "sim" in suites else [])])
    print(report.totals() + f" ({', '.join(MAY_FAIL)} may fail here)", flush=True)
    if runner.signal:
        sys.exit(128 + runner.signal)
    failed = [entry.name for entry in report.entries if entry.outcome.result == "fail"]
    return bool(report.entries) and all(name.endswith(MAY_FAIL) for name in failed)


def main(argv):
    options = parse(argv)
    try:
        has_passed = options.last or run_tests(options)
    except subprocess.CalledProcessError as error:
        print(f"coverage: {' '.join(error.cmd[:3])} failed", file=sys.stderr)
        return 1
    sources = collect()
    unknown = [name for name in options.lines + options.branches if name not in sources]
    if unknown:
        print(f"coverage: nothing is compiled of {' '.join(unknown)}", file=sys.stderr)
        return 2
    show(sources)
    show_lines(sources, options.lines)
    show_branches(sources, options.branches)
    is_explained = show_explained(sources, options.gate)
    gates = QUICK_GATES if options.quick else GATES
    # Another suite judges the tests, in a build that is not slowed down by counting. One that fails
    # here runs less, and that is what the gates look at.
    if options.gate:
        return 1 if below_gate(sources, gates) or not is_explained else 0
    return 0 if has_passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
