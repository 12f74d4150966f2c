"""Changes src/ in one place at a time, and looks whether a test notices.

A statement is removed, a condition negated, a comparison or a constant shifted by one, an error's return
dropped. All changes stand in one tree, build/mutate/tree, each behind its number, so that one build serves
for all; a run without a change says which test function reaches which place, and each mutant meets those
alone (tools/mutate_run.py). build/mutate/killed.tsv has what was noticed, and holds until the file of src/
changes; build/mutate/passed.tsv has what was not, for each program of the tests until that changes: an
interrupted campaign goes on where it was, and a new test meets the survivors alone.
tests/mutate/equivalent.tsv has the changes that no test can notice, with the reason.
"""
import argparse
import concurrent.futures
import hashlib
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import meson_tests
import mutate_run
import mutate_source
import progress
from mutate_run import KILLED, LATE, SURVIVED, UNREACHED, WITHOUT_END

TREE = pathlib.Path(__file__).resolve().parent.parent
FOLDER = TREE / "build/mutate"
ARGUMENTS = ["-std=gnu11", "-D_GNU_SOURCE", "-DQUIRE_CHECK", f"-I{TREE}", f"-I{TREE}/include"]
OPTIONS = ["-Dwerror=false", "-Dwarning_level=0", "-Dbuildtype=plain", "-Doptimization=1", "-Dvcpu=false",
           "-Dfrontend=false", "-Dcli=false"]
COPIED = ("LAYERS", "meson.build", "meson_options.txt", "include", "src", "hosts", "cli", "tests", "examples",
          "tools", "docs", "preload", "boundary", "vcpu", "frontend", "engine")
# They judge, and are judged by the bugs of base/mutant.h.
CHECKERS = ("src/change/check.c", "src/shadow/check.c")
SUITES = ("unit", "sim", "rules")  # of the last those without a client of KVM
# Those with bugs of their own, those that say what a store looks like at every instant, those under the memory
# model, for which the counters of sites are data races, and one whose tests build on one another.
LEFT_OUT = ("mutants", "sim-mutants", "shadow-mutants", "order", "simulations-order", "kernel-", "interleave-",
            "base-probes")
# The simulations are cut in two: most of what they notice they notice soon.
SEEDS = (("simulations", "0", "300"), ("simulations-more", "300", "1200"))
EQUIVALENT = TREE / "tests/mutate/equivalent.tsv"


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev mutate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="*", metavar="FILE", help="a .c file of src/ (all of them)")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants of these files, at random")
    parser.add_argument("--seed", type=int, metavar="S", default=1, help="which N they are (1)")
    parser.add_argument("--jobs", type=int, metavar="N", default=os.cpu_count(), help="tests at a time")
    parser.add_argument("--only", metavar="TEXT", default="", help="those whose description has it: fault/slot.c:77")
    parser.add_argument("--longest", type=float, metavar="SECONDS", default=60,
                        help="leave out test functions that take more processor time without a mutant (60)")
    parser.add_argument("--then", type=float, metavar="SECONDS", default=0,
                        help="let what survived meet test functions as long as that, too, which is more than --longest "
                             "(0: no second round)")
    parser.add_argument("--least", type=float, metavar="PERCENT", default=0,
                        help="fail when fewer of them are killed (0)")
    parser.add_argument("--list", action="store_true", help="print the mutants, run none")
    options = parser.parse_args(argv)
    for number in (options.sample, options.jobs):
        if number is not None and number < 1:
            parser.error("--sample and --jobs take numbers from 1")
    if options.then and not options.then > options.longest:
        parser.error(f"--then {options.then:g}: the first round has test functions as long as {options.longest:g} s "
                     "(--longest)")
    known = sources()
    options.file = [os.path.relpath(path, TREE) for path in options.file] or known
    for path in options.file:
        if path not in known:
            parser.error(f"{path}: not one of the .c files of src/ that are mutated")
    return options


def sources():
    found = (str(path.relative_to(TREE)) for path in TREE.glob("src/**/*.c"))
    return sorted(path for path in found if path not in CHECKERS)


def digest(paths):
    text = hashlib.sha256()
    for path in sorted(paths):
        text.update(path.read_bytes())
    return text.hexdigest()[:16]


def write_if_other(path, data):
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def copy_tree(into):
    """The files that a build needs; those that stay keep their time, for Ninja looks at it."""
    listed = subprocess.run(["git", "ls-files", "-z", "--", *COPIED], cwd=TREE, check=True,
                            stdout=subprocess.PIPE).stdout.decode().split("\0")
    for name in filter(None, listed):
        if name.startswith("src/") and name.endswith(".c") and name not in CHECKERS:
            continue
        write_if_other(into / name, (TREE / name).read_bytes())
        shutil.copymode(TREE / name, into / name)
    write_if_other(into / "src/base/mutate_site.h", (TREE / "tools/mutate_site.h").read_bytes())


def write_mutants(into):
    """{file: its mutants, each with its number}, and the mutated files written."""
    found, first = {}, 0
    for path in sources():
        mutants, text = mutate_source.mutate(TREE / path, ARGUMENTS, first)
        write_if_other(into / path, text.encode())
        found[path] = list(enumerate(mutants, first))
        first += len(mutants)
    return found


def build():
    """The tests of the mutated tree, built."""
    tree, folder = FOLDER / "tree", FOLDER / "build"
    command = meson_tests.configure_command(tree, folder, OPTIONS)
    if command:
        subprocess.run(command, cwd=tree, check=True, env={**os.environ, "CC": "clang"},
                       stdout=subprocess.DEVNULL)
    made = meson_tests.Build(folder)
    records = [record for record in made.tests() if record["suite"] in SUITES and
               not record["name"].startswith(LEFT_OUT) and ".py" not in record["cmd"][0]]
    for record in [record for record in records if record["name"] == "simulations"]:
        records.remove(record)
        records += [{**record, "name": name, "cmd": [record["cmd"][0], "--from", first, "--seeds", count]}
                    for name, first, count in SEEDS]
    subprocess.run([sys.executable, str(TREE / "tools/progress.py"), "--what", "mutate", "--unit", "steps", "--log",
                    str(FOLDER / "build.log"), "--", "ninja", "-C", str(folder), *made.targets(records)], check=True)
    for record in records:
        record["workdir"] = record["workdir"] or str(folder)
        record["pieces"] = b"_cmocka_run_group_tests" in pathlib.Path(record["cmd"][0]).read_bytes()
    return records


class Killed:
    """One line a mutant that was noticed: its key, the digest of the file that it changes, how, by what."""

    def __init__(self, path):
        self.path, self.known, self.files = path, {}, {}
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
            fields = line.split("\t")
            if len(fields) != 4:
                raise ValueError(f"{path}:{number}: not four fields")
            self.known[fields[0]] = fields[1:]

    def holds_for(self, path):
        if path not in self.files:
            self.files[path] = mutate_run.digest(TREE / path)
        return self.files[path]

    def find(self, path, key):
        entry = self.known.get(key)
        return tuple(entry[1:]) if entry and entry[0] == self.holds_for(path) else None

    def add(self, path, key, outcome, test):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\t".join([key, self.holds_for(path), outcome, test]) + "\n")


class Equivalent:
    """The changes that no test can notice: file, function, line as it is written, kind, change, reason."""

    def __init__(self, path=EQUIVALENT):
        self.path, self.reasons = path, {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            fields = line.split("\t")
            if len(fields) != 6 or not all(fields):
                raise ValueError(f"{path}:{number}: not six fields")
            self.reasons[tuple(fields[:5])] = number

    def has(self, path, mutant):
        return (path, *mutant.name) in self.reasons

    def check(self, found):
        """That each row is of a mutant."""
        names = {(path, *mutant.name) for path, each in found.items() for _, mutant in each}
        for row, number in self.reasons.items():
            if row[0] in found and row not in names:
                raise ValueError(f"{self.path}:{number}: {row[0]} has no such change")


def key_of(path, mutant):
    return f"{path}:{mutant.line}:{mutant.column}: {mutant.kind}: {mutant.what}"


def chosen(options, found):
    """The mutants to run: (file, number, mutant). A sample is the first N of an order that the seed makes and
    that other lines of the tree do not change, so that what is done when it is interrupted is a sample, too."""
    every = [(path, number, mutant) for path in options.file for number, mutant in found[path]
             if options.only in key_of(path, mutant)]
    if options.sample is None:
        return every

    def rank(each):
        path, _, m = each
        return hashlib.sha256("\t".join(map(str, (options.seed, path, m.function, m.text, m.kind, m.what, m.nth)))
                              .encode()).digest()

    return sorted(every, key=rank)[:options.sample]


def campaign(options, wanted, judge, killed, most=math.inf):
    """{outcome: the mutants, each as its key, file and mutant}; new runs of one take @most seconds without it"""
    outcomes = {outcome: [] for outcome in (KILLED, WITHOUT_END, SURVIVED, LATE, UNREACHED)}

    def one(path, number, mutant):
        key = key_of(path, mutant)
        found = killed.find(path, key)
        return key, *(found or judge.judge(number, key, path.split("/")[1], most)), bool(found)

    with progress.Progress("mutate", len(wanted), "mutants") as shown, \
            concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(one, *each): each for each in wanted}
        for job in concurrent.futures.as_completed(jobs):
            key, outcome, test, is_old = job.result()
            path, _, mutant = jobs[job]
            if outcome in (KILLED, WITHOUT_END) and not is_old:
                killed.add(path, key, outcome, test)
            if not is_old:
                with shown.aside():
                    print(f"{outcome:<8} {key}{f'  ({test})' if test else ''}", flush=True)
            outcomes[outcome].append((key, path, mutant))
            shown.add()
    return outcomes


def two_rounds(options, wanted, judge, killed):
    """The second is of those that no short test noticed, and of longer tests."""
    outcomes = campaign(options, wanted, judge, killed)
    again = {(path, mutant) for outcome in (SURVIVED, UNREACHED) for _, path, mutant in outcomes[outcome]}
    if not again or options.then <= options.longest:
        return outcomes
    judge.programs.lengthen(options.then)
    second = campaign(options, [each for each in wanted if (each[0], each[2]) in again], judge, killed,
                      mutate_run.LONGER_SECONDS)
    outcomes[SURVIVED] = outcomes[UNREACHED] = []
    return {outcome: each + second[outcome] for outcome, each in outcomes.items()}


def tell(outcomes, equivalent):
    """Prints what did not die; returns the percentage that did, of those that can."""
    count, total = {}, sum(map(len, outcomes.values()))
    for outcome in (LATE, UNREACHED, SURVIVED):
        real = [key for key, path, mutant in outcomes[outcome] if not equivalent.has(path, mutant)]
        count[outcome] = len(outcomes[outcome]) - len(real)
        print(f"{len(real)} {outcome}:")
        for key in sorted(real):
            print(f"  {key}")
    for outcome in (KILLED, WITHOUT_END):
        for key, path, mutant in outcomes[outcome]:
            if equivalent.has(path, mutant):
                print(f"{key}: it was noticed, though {EQUIVALENT.relative_to(TREE)} has it")
    dead = len(outcomes[KILLED]) + len(outcomes[WITHOUT_END])
    print(f"{dead} of {total} killed ({len(outcomes[WITHOUT_END])} of them without end), "
          f"{sum(count.values())} equivalent", flush=True)
    return 100 * dead / total if total else 100


def main(argv):
    options = parse(argv)
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        killed, equivalent = Killed(FOLDER / "killed.tsv"), Equivalent()
        if options.list:
            with tempfile.TemporaryDirectory() as nowhere:
                for path, _, mutant in chosen(options, write_mutants(pathlib.Path(nowhere))):
                    print(key_of(path, mutant))
            return 0
        copy_tree(FOLDER / "tree")
        found = write_mutants(FOLDER / "tree")
        equivalent.check(found)
        wanted = chosen(options, found)
        programs = mutate_run.Programs(build(), FOLDER, options.longest)
        judge = mutate_run.Judge(programs, FOLDER / "passed.tsv")
    except (ValueError, mutate_source.BadSource, subprocess.CalledProcessError) as error:
        print(f"dev: {error}", file=sys.stderr)
        return 2
    if programs.broken:
        print(f"dev: without a mutant these fail: {'; '.join(programs.broken)}", file=sys.stderr)
        return 2
    outcomes = two_rounds(options, wanted, judge, killed)
    if programs.broken:
        print(f"dev: without a mutant these longer ones fail: {'; '.join(programs.broken)}", file=sys.stderr)
        return 2
    return 0 if tell(outcomes, equivalent) >= options.least else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
