#!/usr/bin/env python3
"""Takes the order from one acquire, release, fence or read-modify-write after the other: does a pair notice?

  order.py PROGRAM                   all that the pairs run, each against all pairs; writes what each came to
  order.py PROGRAM --replay FILE     those that FILE names, each against the pair that caught it (CI)
  order.py SIM --seeds COUNT         all that COUNT simulations run, each against them; --all-but FILE... leaves out
                                     those that these files name
  order.py SIM --seeds COUNT --replay FILE     those that FILE names, each against the seed that caught it (CI); a
                                     seed means another run when the library changes: COUNT others come after it

A site is named by file, function, kind and its number among those: lines move, these seldom do. What the
compiler made several of, for the function was inlined, is one site.
"""
import argparse
import collections
import pathlib
import re
import subprocess
import sys

ATOMICS = "atomic.h"
LIMIT_SECONDS = 300
LISTED_SEEDS = 400  # always as many, so that sites have the same names
COMMENT = "#"


def run(program, *arguments, limit=LIMIT_SECONDS):
    """The exit status and the output; a run without end and a broken assertion have a status, too."""
    try:
        done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=limit, text=True, errors="replace", check=False)
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        text = late.stdout or b""
        return None, text.decode(errors="replace") if isinstance(text, bytes) else text


def place_of(frames):
    """The innermost function that is not an atomic operation itself: ("file", "function", line)."""
    for function, where in frames:
        told = re.fullmatch(r"(?:.*/)?((?:src|hosts|tests)/.*):(\d+).*", where)
        if told and not told[1].endswith(ATOMICS):
            return told[1], function, int(told[2])
    return None


def places(program, addresses):
    """The place of each address; one byte before it, for it is where a call returns to."""
    text = subprocess.run(["addr2line", "-a", "-i", "-f", "-e", program],
                          input="\n".join(hex(a - 1) for a in addresses), stdout=subprocess.PIPE,
                          text=True, check=True).stdout
    found = []
    for part in re.split(r"^0x[0-9a-f]+\n", text, flags=re.M)[1:]:
        lines = part.split("\n")
        found.append(place_of(list(zip(lines[0::2], lines[1::2]))))
    return found


def sites_of(program, listing):
    """{name: addresses} from what --sites printed, in the order of the source."""
    rows = [(int(at, 16), kind) for at, kind in
            re.findall(r"^(0x[0-9a-f]+) (acquire|release|rmw|fence)$", listing, re.M)]
    lines = collections.defaultdict(list)
    for (address, kind), place in zip(rows, places(program, [at for at, _ in rows])):
        if place and place[0].startswith("src/"):
            lines[(place[0], place[1], kind, place[2])].append(address)
    sites, numbers = {}, collections.Counter()
    for (path, function, kind, _line), addresses in sorted(lines.items()):
        numbers[path, function, kind] += 1
        sites[f"{path} {function} {kind} {numbers[path, function, kind]}"] = addresses
    return sites


def weakened(program, addresses, pair):
    """The pair that notices, or None."""
    weak = [word for address in addresses for word in ("--weaken", hex(address))]
    for choices in ("1", "2") if pair else ("1",):
        status, text = run(program, "--choices", choices, "--pairs", pair, *weak)
        if status != 0:
            return (re.findall(r"^pair (.*)$", text, re.M) or ["?"])[-1]
    return None


def simulated(program, addresses, first, count):
    """The seed that notices, or None; a process that ends without a word has noticed with its first."""
    weak = [word for address in addresses for word in ("--weaken", hex(address))]
    status, text = run(program, "--order", "--shrink", "0", "--from", str(first), "--seeds", str(count), *weak)
    if status == 0:
        return None
    told = re.search(r"^# seed (\d+) failed", text, re.M)
    return told[1] if told else str(first)


def judge_of(options):
    """What looks at one site: (addresses, pair or seed; "" for all) to the pair or the seed that notices."""
    if not options.seeds:
        return lambda addresses, by: weakened(options.program, addresses, by)

    def judge(addresses, by):
        return (by and simulated(options.program, addresses, by, 1)) or \
            simulated(options.program, addresses, 1, options.seeds)

    return judge


def replay(sites, path, judge):
    """Every line of the file must still name a site, and its pair must notice."""
    wrong = 0
    for line in path.read_text().splitlines():
        if not line or line.startswith(COMMENT):
            continue
        name, _, pair = line.partition(": ")
        if name not in sites:
            print(f"{name}: no such site")
            wrong += 1
            continue
        notices = judge(sites[name], pair)
        if notices != pair:
            print(f"{name}: {pair} does not notice" + (f", {notices} does" if notices else ""))
        wrong += not notices
    return wrong


def names_of(paths):
    return {line.partition(": ")[0] for path in paths for line in path.read_text().splitlines()}


def weaken_all(sites, judge):
    caught = 0
    for name, addresses in sites.items():
        pair = judge(addresses, "")
        print(f"{name}: {pair or 'SURVIVED'}", flush=True)
        caught += pair is not None
    print(f"{COMMENT} {caught} of {len(sites)} caught")


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--replay", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--all-but", type=pathlib.Path, nargs="+", default=[])
    options = parser.parse_args(arguments)
    simulations = ("--order", "--seeds", str(LISTED_SEEDS)) if options.seeds else ()
    status, listing = run(options.program, *simulations, "--sites")
    if status != 0:
        print(listing)
        return 1
    sites = sites_of(options.program, listing)
    if options.replay:
        return 1 if replay(sites, options.replay, judge_of(options)) else 0
    left_out = names_of(options.all_but)
    weaken_all({name: sites[name] for name in sites if name not in left_out}, judge_of(options))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
