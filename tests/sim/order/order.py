#!/usr/bin/env python3
"""Takes the order from one acquire, release, fence or read-modify-write after the other: does a pair notice?

  order.py PROGRAM                   all that the pairs run, each against all pairs; writes what each came to
  order.py PROGRAM --replay FILE     those that FILE names, each against the pair that caught it (CI)
  order.py SIM --seeds COUNT         all that COUNT simulations run, each against them
  order.py SIM --seeds COUNT --replay FILE     those that FILE names, each against the seed that caught it (CI); a
                                     seed means another run when the library changes: COUNT others come after it
  order.py PROGRAM --survives FILE   those that FILE names are noticed by no pair: fails where one is, which then
                                     belongs in caught.txt; so with --seeds

A site that is asked for and that PROGRAM never runs, or whose code has no name, is NOT TRIED: nothing is known of it.
--all-but FILE... leaves out the sites that these files name; --only TEXT takes those alone whose name has TEXT.
ledger.py has the names, and says where each site stands. What the compiler made several of, for the function was
inlined, is one site; where it made one of several sites, that code has no name and keeps its order. Code of src/ with
an order that the source does not have there is an error.

Each that is noticed is printed with the executions that it took: of its pair from that pair's first on, or of
simulations from seed 1 on. --record FILE keeps them, tab-separated. One that took more than 20,000 is a failure.

A run that uses up its processor time has noticed nothing: it is said to have TIMED OUT. The scheduler itself tells of
threads that wait for each other or that never end.
"""
import argparse
import collections
import pathlib
import re
import resource
import signal
import statistics
import subprocess
import sys

import ledger

LIMIT_SECONDS = 300  # of a run's processor time
LISTED_SEEDS = 400
FAR = 20000  # executions that may come before a mutant is noticed
COMMENT, REASON = "#", "="
SURVIVED, TIMED_OUT, NOT_TRIED = "SURVIVED", "TIMED OUT", "NOT TRIED"


def limit_processor_time():
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS + 5))


def run(program, *arguments):
    """The exit status, or TIMED_OUT, and the output."""
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", check=False, preexec_fn=limit_processor_time)
    return TIMED_OUT if done.returncode == -signal.SIGXCPU else done.returncode, done.stdout


class Sites:
    """The sites of the source, by where debug information says that code is."""

    def __init__(self, tree):
        self.by_line, self.by_function = {}, collections.defaultdict(list)
        for (path, function, kind, line), name in tree.items():
            self.by_line[path, kind, line] = name
            self.by_function[function, kind].append(name)

    def name(self, frames, kind):
        """The site whose innermost frames, (function, "file:line"), these are; None: it is none, or not clear."""
        for function, where in frames:
            told = re.fullmatch(r"(?:.*/)?((?:src|hosts|tests|cli)/.*?):(\d+|\?)(?: .*)?", where)
            if not told or function.startswith("atomic_"):
                continue
            if told[1] == ledger.ATOMICS or told[2] == "?":
                named = self.by_function[function, kind]
                return named[0] if len(named) == 1 else None
            if not told[1].startswith("src/"):
                return None
            return self.by_line[told[1], kind, int(told[2])]
        return None


def sites_of(program, listing):
    """{name: addresses} from what --sites printed."""
    rows = [(int(at, 16), kind) for at, kind in
            re.findall(r"^(0x[0-9a-f]+) (acquire|release|rmw|fence)$", listing, re.M)]
    # One byte before it, for an address is where a call returns to.
    text = subprocess.run(["addr2line", "-a", "-i", "-f", "-e", program],
                          input="\n".join(hex(at - 1) for at, _ in rows), stdout=subprocess.PIPE,
                          text=True, check=True).stdout
    known, found = Sites(ledger.sites_of_tree()[0]), collections.defaultdict(list)
    for (address, kind), part in zip(rows, re.split(r"^0x[0-9a-f]+\n", text, flags=re.M)[1:]):
        lines = part.split("\n")
        name = known.name(list(zip(lines[0::2], lines[1::2])), kind)
        if name:
            found[name].append(address)
    return dict(sorted(found.items()))


# What a site comes to: the pair or seed that notices, SURVIVED or TIMED_OUT, and the executions until then.
Outcome = collections.namedtuple("Outcome", "by executions")


def executions(text, pair):
    """How many of @pair @text tells of; a process that ends without a word has told of none."""
    told = re.findall(r"^pair (.*)\n(?:  .*\n)*?  (?:failed after )?(\d+) runs", text, re.M)
    return sum(int(runs) for name, runs in told if name == pair)


def weakened(program, addresses, pair):
    """Against the pairs with @pair in their names."""
    weak = [word for address in addresses for word in ("--weaken", hex(address))]
    outcome, texts = SURVIVED, ""
    for choices in ("1", "2") if pair else ("1",):
        status, text = run(program, "--choices", choices, "--pairs", pair, *weak)
        texts += text
        if status == 1 or (status != TIMED_OUT and status < 0):
            by = re.findall(r"^pair (.*)$", text, re.M)[-1]
            return Outcome(by, executions(texts, by))
        if status != 0:
            outcome = TIMED_OUT
    return Outcome(outcome, 0)


def simulated(program, addresses, first, count):
    """Against simulations; a process that ends without a word has noticed with its first."""
    weak = [word for address in addresses for word in ("--weaken", hex(address))]
    status, text = run(program, "--order", "--shrink", "0", "--from", str(first), "--seeds", str(count), *weak)
    if status in (0, TIMED_OUT):
        return Outcome(status or SURVIVED, 0)
    told = re.search(r"^# seed (\d+) failed", text, re.M)
    by = told[1] if told else str(first)
    return Outcome(by, int(by))


def notices(outcome):
    return outcome.by not in (SURVIVED, TIMED_OUT)


class Book:
    """After how many executions each site was noticed."""

    def __init__(self, record=None):
        self.of_site, self.record = {}, record

    def note(self, name, outcome):
        """The name with what noticed it, and how soon; not soon enough is said, too."""
        if not notices(outcome):
            return f"{name}: {outcome.by}"
        self.of_site[name] = outcome.executions
        if self.record:
            lines = [f"{site}\t{count}\n" for site, count in self.of_site.items()]
            self.record.write_text("".join(lines))
        late = f": more than {FAR:,}" if outcome.executions > FAR else ""
        return f"{name}: {outcome.by}\t# after {outcome.executions:,}{late}"

    def late(self):
        return sum(count > FAR for count in self.of_site.values())

    def summary(self):
        counts = self.of_site.values()
        if not counts:
            return "none was noticed"
        most = max(self.of_site, key=self.of_site.get)
        return (f"{len(counts)} noticed, after a median of {int(statistics.median(counts)):,} executions, "
                f"at most {max(counts):,} ({most})")


def judge_of(options):
    """What looks at one site: (addresses, pair or seed; "" for all) to its Outcome."""
    if not options.seeds:
        return lambda addresses, by: weakened(options.program, addresses, by)

    def judge(addresses, by):
        outcome = simulated(options.program, addresses, by, 1) if by else Outcome(SURVIVED, 0)
        return outcome if notices(outcome) else simulated(options.program, addresses, 1, options.seeds)

    return judge


def replay(sites, path, judge, book):
    """Every line of the file must still name a site, and its pair must notice, soon enough."""
    wrong = 0
    for line in path.read_text().splitlines():
        if not line or line.startswith(COMMENT):
            continue
        name, _, pair = line.partition(": ")
        if name not in sites:
            print(f"{name}: no such site runs")
            wrong += 1
            continue
        outcome = judge(sites[name], pair)
        if outcome.by != pair:
            print(f"{name}: {pair} does not notice, {outcome.by}{' does' if notices(outcome) else ''}")
        told = book.note(name, outcome)
        if outcome.executions > FAR:
            print(told)
        wrong += not notices(outcome)
    return wrong + book.late()


def names_of(paths):
    """The sites of these lists, in their order."""
    return [line.partition(": ")[0] for path in paths for line in path.read_text().splitlines()
            if line and line[0] not in (COMMENT, REASON)]


def weaken_all(sites, judge, book, not_tried=()):
    """How many are noticed; what each of @sites comes to is printed, and the names of @not_tried."""
    outcomes = collections.Counter()
    for name in not_tried:
        print(f"{name}: {NOT_TRIED}")
    for name, addresses in sites.items():
        outcome = judge(addresses, "")
        print(book.note(name, outcome), flush=True)
        outcomes[outcome.by if not notices(outcome) else ""] += 1
    print(f"{COMMENT} {outcomes['']} of {len(sites)} caught, {outcomes[TIMED_OUT]} timed out, {len(not_tried)} not tried")
    return outcomes[""]


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--replay", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--all-but", type=pathlib.Path, nargs="+", default=[])
    parser.add_argument("--only", default="")
    parser.add_argument("--survives", type=pathlib.Path)
    parser.add_argument("--record", type=pathlib.Path)
    options = parser.parse_args(arguments)
    simulations = ("--order", "--seeds", str(LISTED_SEEDS)) if options.seeds else ()
    status, listing = run(options.program, *simulations, "--sites")
    if status != 0:
        print(listing)
        return 1
    sites = sites_of(options.program, listing)
    book = Book(options.record)
    if options.replay:
        wrong = replay(sites, options.replay, judge_of(options), book)
        print(f"{COMMENT} {book.summary()}")
        return 1 if wrong else 0
    wanted = names_of([options.survives]) if options.survives else sorted(ledger.sites_of_tree()[0].values())
    left_out = set(names_of(options.all_but))
    wanted = [name for name in wanted if name not in left_out and options.only in name]
    caught = weaken_all({name: sites[name] for name in wanted if name in sites}, judge_of(options), book,
                        [name for name in wanted if name not in sites])
    print(f"{COMMENT} {book.summary()}")
    return 1 if (options.survives and caught) or book.late() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
