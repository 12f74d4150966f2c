"""Changes src/ in one place at a time, and looks whether a test notices.

A statement is removed, a condition negated, a comparison or a constant shifted by one, an error's return
dropped. All changes stand in one tree, build/mutate/tree, each behind its number, so that one build serves
for all; a run without a change says which test reaches which place, and each mutant meets those tests alone,
the fastest first. What each came to stands in build/mutate/results.tsv: an interrupted campaign goes on where
it was; a killed mutant is run again once its file has changed, any other once src/ or tests/ has.
"""
import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import meson_tests
import mutate_source
import program
import progress

TREE = pathlib.Path(__file__).resolve().parent.parent
FOLDER = TREE / "build/mutate"
ARGUMENTS = ["-std=gnu11", "-D_GNU_SOURCE", "-DQUIRE_CHECK", f"-I{TREE}", f"-I{TREE}/include"]
OPTIONS = ["-Dwerror=false", "-Dwarning_level=0", "-Dbuildtype=debug", "-Doptimization=1", "-Dvcpu=false",
           "-Dfrontend=false", "-Dcli=false"]
COPIED = ("LAYERS", "meson.build", "meson_options.txt", "include", "src", "hosts", "cli", "tests", "examples",
          "tools", "docs", "preload", "boundary", "vcpu", "frontend", "engine")
# They judge, and are judged by the bugs of base/mutant.h.
CHECKERS = ("src/change/check.c", "src/shadow/check.c")
SUITES = ("unit", "sim", "rules")  # of the last those without a client of KVM
# Those with bugs of their own, and those that say what a store looks like at every instant.
LEFT_OUT = ("mutants", "sim-mutants", "shadow-mutants", "order", "kernel-", "interleave-")
SEEDS = "1500"
LEAST_SECONDS = 3  # of processor time, before a test without end is told from a slow one
SITES_MAX = 65536  # as tools/mutate_site.h has it
FAILED = b"[  FAILED  ]"
KILLED, SURVIVED, LATE, UNREACHED = "killed", "survived", "timed out", "reached by no test"


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev mutate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="*", metavar="FILE", help="a .c file of src/ (all of them)")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants of these files, at random")
    parser.add_argument("--seed", type=int, metavar="S", default=1, help="which N they are (1)")
    parser.add_argument("--jobs", type=int, metavar="N", default=os.cpu_count(), help="tests at a time")
    parser.add_argument("--longest", type=float, metavar="SECONDS", default=60,
                        help="leave out tests that take more processor time without a mutant (60)")
    parser.add_argument("--least", type=float, metavar="PERCENT", default=0,
                        help="fail when fewer of them are killed (0)")
    parser.add_argument("--list", action="store_true", help="print the mutants, run none")
    options = parser.parse_args(argv)
    for number in (options.sample, options.jobs):
        if number is not None and number < 1:
            parser.error("--sample and --jobs take numbers from 1")
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
    for record in records:
        if record["name"] == "simulations":
            record["cmd"] = [record["cmd"][0], "--seeds", SEEDS]
    subprocess.run([sys.executable, str(TREE / "tools/progress.py"), "--what", "mutate", "--unit", "steps", "--log",
                    str(FOLDER / "build.log"), "--", "ninja", "-C", str(folder), *made.targets(records)], check=True)
    return records


class Run:
    """One run of a test, until it ends, says that something failed, or has had its time."""

    def __init__(self, record, cpu_limit, more):
        def prepare():
            program.first_to_go()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_limit), math.ceil(cpu_limit) + 1))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        child = subprocess.Popen(record["cmd"], cwd=record["workdir"] or FOLDER / "build",
                                 env={**os.environ, **record["env"], **more}, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                                 preexec_fn=prepare)
        # A machine has other work: the processor's time counts, and what sleeps gets much more.
        self.is_late, self.has_failed, self.cpu_seconds = False, False, 0
        timer = threading.Timer(30 + 30 * cpu_limit, self.end, (child,))
        timer.start()
        self.read(child)
        _, status, used = os.wait4(child.pid, 0)
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        program.end_session(child.pid)
        self.cpu_seconds = used.ru_utime + used.ru_stime
        if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL) and not self.has_failed:
            self.is_late = True
        self.has_failed = self.has_failed or child.returncode != 0

    def end(self, child):
        self.is_late = True
        program.end_session(child.pid)

    def read(self, child):
        """cmocka goes on after a failure; a mutant is dead by then."""
        for line in child.stdout:
            if line.startswith(FAILED):
                self.has_failed = True
                program.end_session(child.pid)
        child.stdout.close()


class Baseline:
    """What each test reaches, and how long it takes: a file a test, made anew when the test is another."""

    def __init__(self, records, longest):
        self.records, self.reached, self.seconds, self.broken = {}, {}, {}, []
        self.longest = longest
        (FOLDER / "reached").mkdir(exist_ok=True)
        with progress.Progress("mutate", len(records), "tests") as shown:
            for record in records:
                with shown.doing(record["name"]):
                    self.measure(record, shown)
        self.order = sorted(self.seconds, key=self.seconds.get)

    def measure(self, record, shown):
        name, path = record["name"], FOLDER / "reached" / record["name"]
        made, told = pathlib.Path(record["cmd"][0]).stat().st_mtime, path.with_suffix(".json")
        known = json.loads(told.read_text()) if told.exists() and told.stat().st_mtime >= made else None
        if not known or (known["seconds"] is None and known["limit"] < self.longest):
            path.write_bytes(bytes(SITES_MAX))
            run = Run(record, self.longest, {"QUIRE_MUTANT_REACHED": str(path)})
            if run.has_failed and not run.is_late:
                self.broken.append(name)
                return
            known = {"seconds": None if run.is_late else run.cpu_seconds, "limit": self.longest}
            told.write_text(json.dumps(known))
            with shown.aside():
                print(f"{name}: {'left out' if run.is_late else f'{run.cpu_seconds:.1f} s'}", flush=True)
        if known["seconds"] is not None and known["seconds"] <= self.longest:
            self.records[name] = record
            self.reached[name] = path.read_bytes()
            self.seconds[name] = known["seconds"]

    def judge(self, number):
        """(what came of the mutant, by which test)"""
        tests = [name for name in self.order if self.reached[name][number]]
        for name in tests:
            run = Run(self.records[name], LEAST_SECONDS + 5 * self.seconds[name], {"QUIRE_MUTANT": str(number)})
            if run.has_failed:
                return (LATE if run.is_late else KILLED), name
        return (SURVIVED if tests else UNREACHED), ""


class Results:
    """One line a mutant: its key, the digest that it holds for, the outcome, the test."""

    def __init__(self, path, longest):
        self.path, self.known = path, {}
        parts = ("src", "tests", "hosts", "cli/sim")
        self.everything = f"{longest:g}s-" + digest(
            p for part in parts for p in (TREE / part).rglob("*") if p.suffix in (".c", ".h"))
        self.files = {}
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
            fields = line.split("\t")
            if len(fields) != 4:
                raise ValueError(f"{path}:{number}: not four fields")
            self.known[fields[0]] = fields[1:]

    def holds_for(self, path, outcome):
        if path not in self.files:
            self.files[path] = digest([TREE / path])
        return self.files[path] if outcome == KILLED else self.everything

    def find(self, path, key):
        entry = self.known.get(key)
        return tuple(entry[1:]) if entry and entry[0] == self.holds_for(path, entry[1]) else None

    def add(self, path, key, outcome, test):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\t".join([key, self.holds_for(path, outcome), outcome, test]) + "\n")


def key_of(path, mutant):
    return f"{path}:{mutant.line}:{mutant.column}: {mutant.kind}: {mutant.what}"


def chosen(options, found):
    """The mutants to run: (file, number, mutant)."""
    every = [(path, number, mutant) for path in options.file for number, mutant in found[path]]
    if options.sample is None or options.sample >= len(every):
        return every
    # Not in order: what is done when it is interrupted is a sample, too.
    return random.Random(options.seed).sample(every, options.sample)


def campaign(options, wanted, baseline, results):
    """{outcome: the mutants' keys}"""
    outcomes = {outcome: [] for outcome in (KILLED, SURVIVED, LATE, UNREACHED)}

    def one(path, number, mutant):
        key = key_of(path, mutant)
        found = results.find(path, key)
        if found:
            return key, *found, True
        return key, *baseline.judge(number), False

    with progress.Progress("mutate", len(wanted), "mutants") as shown, \
            concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(one, *each): each for each in wanted}
        for job in concurrent.futures.as_completed(jobs):
            key, outcome, test, is_old = job.result()
            if not is_old:
                results.add(jobs[job][0], key, outcome, test)
                with shown.aside():
                    print(f"{outcome:<8} {key}{f'  ({test})' if test else ''}", flush=True)
            outcomes[outcome].append(key)
            shown.add()
    return outcomes


def tell(outcomes):
    """Prints what did not die; returns the percentage that did."""
    for outcome in (LATE, UNREACHED, SURVIVED):
        print(f"{len(outcomes[outcome])} {outcome}:")
        for key in sorted(outcomes[outcome]):
            print(f"  {key}")
    total = sum(map(len, outcomes.values()))
    print(f"{len(outcomes[KILLED])} of {total} killed", flush=True)
    return 100 * len(outcomes[KILLED]) / total if total else 100


def main(argv):
    options = parse(argv)
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        results = Results(FOLDER / "results.tsv", options.longest)
        if options.list:
            with tempfile.TemporaryDirectory() as nowhere:
                for path, _, mutant in chosen(options, write_mutants(pathlib.Path(nowhere))):
                    print(key_of(path, mutant))
            return 0
        copy_tree(FOLDER / "tree")
        wanted = chosen(options, write_mutants(FOLDER / "tree"))
        records = build()
    except (ValueError, mutate_source.BadSource, subprocess.CalledProcessError) as error:
        print(f"dev: {error}", file=sys.stderr)
        return 2
    baseline = Baseline(records, options.longest)
    if baseline.broken:
        print(f"dev: without a mutant these fail: {' '.join(baseline.broken)}", file=sys.stderr)
        return 2
    return 0 if tell(campaign(options, wanted, baseline, results)) >= options.least else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
