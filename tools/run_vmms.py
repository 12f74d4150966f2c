"""Runs real VMMs under 'quire run' and says what they did: './dev vmms'."""
import argparse
import pathlib
import shutil
import sys

import check_report
import check_runner
import hide_kvm
import packages
import progress
from vmms import catalog, checks, document, foreign, machine, places

TREE = pathlib.Path(__file__).resolve().parent.parent


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev vmms", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print what there is, run none")
    parser.add_argument("--write-doc", action="store_true", help=f"write {document.PATH}")
    parser.add_argument("--jobs", type=int, metavar="N", help="at a time (processors)")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="each so many times")
    parser.add_argument("--only", metavar="TEXT", default="", help="what has TEXT in its name")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter for every QEMU")
    parser.add_argument("--sanitize", metavar="KINDS",
                        help="as of 'quire run', for every client; what it finds is a failure")
    parser.add_argument("--program", metavar="PATH", type=pathlib.Path,
                        help=f"the program of a client without a package: {', '.join(foreign.KNOWN)}")
    parser.add_argument("name", nargs="?", help="one client, see --list")
    options = parser.parse_args(argv)
    if options.write_doc and (options.name or options.only or options.sanitize):
        parser.error("--write-doc takes a run of everything")
    if options.program and not options.name:
        parser.error("--program goes with the NAME of a client")
    return options


def choose(options):
    """The clients and of each its scenarios."""
    if options.program:
        clients = [catalog.brought(options.name, str(options.program.resolve()))]
    else:
        clients = [catalog.find(options.name)] if options.name else catalog.CLIENTS
    return [(client, [s for s in client.scenarios() if options.only in s.name])
            for client in clients]


def main(argv):
    options = parse(argv)
    machine.COMMON_PARAMS.extend(options.param)
    if options.sanitize:
        # A client in a root of its own sees that folder, and not the sources.
        places.WORK.mkdir(parents=True, exist_ok=True)
        rules = shutil.copy(places.SOURCES / "suppressions.txt", places.WORK)
        places.RUN.extend([f"--sanitize={options.sanitize}", f"--sanitize-suppressions={rules}"])
    try:
        chosen = choose(options)
    except KeyError as error:
        print(f"dev: there is no client {error.args[0]!r}; see './dev vmms --list'",
              file=sys.stderr)
        return 2
    if options.list:
        for client, scenarios in chosen:
            print(f"{client.name:<12} {client.about}")
            print("".join(f"      {scenario.name}\n" for scenario in scenarios), end="")
        return 0
    return show_chosen(options, chosen)


def show_chosen(options, chosen):
    with progress.Progress("vmms", options.times * sum(len(some) for _, some in chosen),
                           "scenarios") as shown:
        return run_chosen(options, chosen, shown)


def run_chosen(options, chosen, shown):
    report = check_report.Report(shown=shown)
    runner = check_runner.Runner(report, TREE / "build/checks", options.jobs)
    runner.catch_signals()
    print(f"the machine's own /dev/kvm: {hide_kvm.hide()}", flush=True)
    needed = packages.missing_of(name for client, _ in chosen for name in client.packages)
    if needed:
        packages.install(needed)
    results = []
    for client, scenarios in chosen:
        made = [checks.check(scenario) for scenario in scenarios for _ in range(options.times)]
        runner.run(made)
        outcomes = [check.outcome for check in made[::options.times]]
        results.append((client, list(zip(scenarios, outcomes))))
    if options.write_doc:
        (TREE / document.PATH).write_text(document.render(results))
    with shown.aside():
        print(report.summary(), flush=True)
    if runner.signal:
        return 128 + runner.signal
    return 1 if report.count("fail") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
