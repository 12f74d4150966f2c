"""The checks of './dev test': a line for each as it ends, and a count at the end.

A line is 'pass|fail|skip  name  seconds  remark'; what a failed check printed stands in build/checks/.
"""
import argparse
import itertools
import pathlib
import signal
import subprocess
import sys
import time

import check_plan
import check_report
import check_runner
import hide_kvm
import packages
import program
import progress

TREE = pathlib.Path(__file__).resolve().parent.parent
LOGS = TREE / "build/checks"
HELP = """\
without a SUITE: what a newcomer runs, at most 15 minutes on two processors. 'clients' stands for the
suites that are large to install, 'all' for every suite. QUIRE_CACHE names the folder outside the tree
that keeps what they download (~/.cache/quire)."""


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev test", description=__doc__, epilog=HELP,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 6 minutes of the newcomer's")
    parser.add_argument("--list", action="store_true", help="print suites and checks, run none")
    parser.add_argument("--junit", metavar="FILE", type=pathlib.Path,
                        help="also write the results there, for a CI service")
    parser.add_argument("--jobs", type=int, metavar="N", help="checks at a time (processors)")
    parser.add_argument("--offline", action="store_true",
                        help="download no kernel selftests: skip them where the cache has none")
    parser.add_argument("suite", nargs="*", metavar="SUITE", help="see --list")
    options = parser.parse_args(argv)
    if options.quick and options.suite:
        parser.error("--quick and a SUITE exclude each other")
    if options.jobs is not None and options.jobs < 1:
        parser.error("--jobs takes a number from 1")
    if options.junit and not options.junit.parent.is_dir():
        parser.error(f"--junit: no folder {options.junit.parent}")
    return options


def show(plan, chosen):
    """Every suite, with a mark at those that this run would have."""
    names = {suite.name for suite in chosen}
    clients = {suite.name for suite in plan.clients}
    for suite in plan.all():
        tier = "clients" if suite.name in clients else "quick" if suite.is_quick else "newcomer"
        print(f"{'*' if suite.name in names else ' '} {suite.name:<12} {tier:<9} {suite.about}")
        for name in suite.names():
            print(f"      {name}")


def prepare(report, runner, suites):
    """Builds and installs; false when nothing can be tested."""
    build = check_runner.Check("products", "build", check_runner.command(
        ["./dev", "build"], TREE, 1800), is_alone=True)
    runner.run([build])
    needed = packages.missing([suite.name for suite in suites])
    if needed:
        runner.run([check_runner.Check("products", "packages", lambda: packages.install(needed),
                                       is_alone=True)])
    return build.outcome is not None and build.outcome.result == "pass"


def run_together(runner, suites, is_quick):
    """Runs the first phases of all of them, then the second ones."""
    for lists in itertools.zip_longest(*[suite.phases() for suite in suites], fillvalue=()):
        runner.run([check for checks in lists for check in checks
                    if not (is_quick and check.is_slow)])


def run_suites(runner, suites, is_quick):
    for group, members in itertools.groupby(suites, lambda suite: suite.group or suite.name):
        if runner.signal:
            return
        start, cpu = time.monotonic(), program.children_cpu_seconds()
        run_together(runner, list(members), is_quick)
        with runner.report.shown.aside():
            print(f"----- {group}: {time.monotonic() - start:.0f} s, of processors "
                  f"{program.children_cpu_seconds() - cpu:.0f} s", flush=True)


def say_interrupted(runner, suites):
    """Says what is not done, which a count cannot."""
    done = {entry.name for entry in runner.report.entries}
    print(f"interrupted by {signal.Signals(runner.signal).name}; not done:", flush=True)
    for suite in suites:
        for name in suite.names():
            if name not in done:
                print(f"      {name}", flush=True)


def main(argv):
    options = parse(argv)
    subprocess.run(["./dev", "configure"], cwd=TREE, check=True)
    plan = check_plan.Plan(options.offline)
    try:
        suites = plan.select(options.suite, "quick" if options.quick else "newcomer")
    except KeyError as error:
        print(f"dev: there is no suite {error.args[0]!r}; see './dev test --list'", file=sys.stderr)
        return 2
    if options.list:
        # As other lists: who has seen enough of it closes the pipe.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        show(plan, suites)
        return 0
    with progress.Progress("test", unit="checks") as shown:
        report = check_report.Report(shown=shown)
        runner = check_runner.Runner(report, LOGS, options.jobs)
        runner.catch_signals()
        # No check may pass by help of the machine's own KVM.
        print(f"the machine's own /dev/kvm: {hide_kvm.hide()}", flush=True)
        if prepare(report, runner, suites) or runner.signal:
            # The build is there now, and knows its tests.
            shown.set(shown.done, shown.done + sum(len(suite.names()) for suite in suites))
            run_suites(runner, suites, options.quick)
    if options.junit:
        report.write_junit(options.junit)
    if runner.signal:
        say_interrupted(runner, suites)
    print(report.summary(), flush=True)
    if runner.signal:
        return 128 + runner.signal
    return 1 if report.count("fail") or not report.entries else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
