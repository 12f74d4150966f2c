#!/usr/bin/env python3
"""Every acquire, release, fence and full read-modify-write of src/, and where each stands.

  ledger.py            fails unless each stands in one of the lists below, and once; says how many each has, and fails
                       where CAVEATS.md says another number
  ledger.py --sites    lists them, by the names that the lists have: file, function, kind, number among those

  caught.txt   a pair misses it (order.py replays them)
  seeds.txt    no pair misses it, a simulation does
  argued.txt   why it stays although nothing misses it: '= reason', then the sites it is true of

The names come from the source, so that what no simulation runs is listed, too. Lines move, the names seldom do. What
stands twice in a line is one site.
"""
import argparse
import collections
import pathlib
import re
import sys

TREE = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TREE / "tools"))
import c_source  # pylint: disable=wrong-import-position

HERE = pathlib.Path(__file__).resolve().parent
ATOMICS = "src/base/atomic.h"
LISTS = ("caught.txt", "seeds.txt", "argued.txt")
OPERATION = re.compile(r"\batomic_(load_acquire|store_release|exchange|cmpxchg|fetch_(?:add|sub|or|and)|fence)"
                       r"(?:_(?:acquire|release))?(?:_(?:u8|u32|u64|ptr))?\s*\(")
# What only src/base/atomic.h may write out, for this list to be whole.
BUILTIN = re.compile(r"\b__(?:atomic|sync)_\w+|\b__ATOMIC_(?!RELAXED)\w+|\b_Atomic\b")
UNORDERED = re.compile(r"__atomic_(?:load_n|store_n|fetch_add)")
KINDS = {"load_acquire": "acquire", "store_release": "release", "fence": "fence"}
SITE = re.compile(r"src/\S+ \w+ (?:acquire|release|rmw|fence) [1-9]\d*")


def uses(code):
    """(line, function, kind) of each ordered operation of a file's text, and the lines of those in no function."""
    functions = [f for f in c_source.functions(code) if f.lines]
    found, stray = [], []
    for match in OPERATION.finditer(code):
        line = code.count("\n", 0, match.start()) + 1
        inside = [f.name for f in functions if f.line <= line < f.line + f.lines]
        if inside:
            found.append((line, inside[0], KINDS.get(match[1], "rmw")))
        else:
            stray.append(line)
    return found, stray


def sites_of_text(path, text):
    """({(function, kind, line): name}, what is wrong) of one file."""
    code = c_source.code_only(text)
    found, stray = uses(code)
    wrong = [f"{path}:{line}: an ordered operation outside of a function has no name" for line in stray]
    for match in BUILTIN.finditer(code):
        if not UNORDERED.fullmatch(match[0]):
            line = code.count("\n", 0, match.start()) + 1
            wrong.append(f"{path}:{line}: {match[0]}: operations with an order come from {ATOMICS}")
    names, numbers = {}, collections.Counter()
    for line, function, kind in sorted(set(found)):
        numbers[function, kind] += 1
        names[function, kind, line] = f"{path} {function} {kind} {numbers[function, kind]}"
    return names, wrong


def sites_of_tree(tree=TREE):
    """({(path, function, kind, line): name}, what is wrong) of src/."""
    sites, wrong = {}, []
    for file in sorted((tree / "src").rglob("*.[ch]")):
        path = str(file.relative_to(tree))
        if path == ATOMICS:
            continue
        names, complaints = sites_of_text(path, file.read_text())
        sites.update({(path, *place): name for place, name in names.items()})
        wrong += complaints
    return sites, wrong


def read_list(name, text):
    """([site], what is wrong) of a list; argued.txt gives a reason before its sites."""
    sites, wrong, has_reason = [], [], name != "argued.txt"
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if name == "argued.txt" and line.startswith("= "):
            has_reason = True
            continue
        site, colon, by = line.partition(": ")
        if not SITE.fullmatch(site) or bool(by) != (name in ("caught.txt", "seeds.txt")) or (colon and not by):
            wrong.append(f"{name}:{number}: not a line of this list: {line}")
        elif not has_reason:
            wrong.append(f"{name}:{number}: {site}: without a reason")
        else:
            sites.append(site)
    return sites, wrong


def check(names, lists):
    """({list: how many}, what is wrong) of the sites and {list: text}."""
    stands, wrong, counts = {}, [], {}
    for name, text in lists.items():
        listed, complaints = read_list(name, text)
        wrong += complaints
        counts[name] = len(listed)
        for site in listed:
            if site not in names:
                wrong.append(f"{name}: {site}: src/ has no such site")
            if site in stands:
                wrong.append(f"{name}: {site}: stands in {stands[site]}, too")
            stands[site] = name
    wrong += [f"{site}: stands in none of {', '.join(lists)}" for site in names if site not in stands]
    return counts, wrong


def check_prose(text, counts):
    """What is wrong with the numbers that CAVEATS.md, @text, tells a reader."""
    argued = counts["argued.txt"]
    needed = sum(counts.values()) - argued
    said = re.search(r"The library has (\d+) atomic operations with an order[^.]*\. (?:(Each) is|(\d+) are) known to be needed"
                     r"(?:.*?The other (\d+) stay)?", text, re.S)
    right = (str(needed + argued), None, str(needed), str(argued)) if argued else (str(needed), "Each", None, None)
    if said and said.groups() == right:
        return []
    return [f"CAVEATS.md: there are {needed + argued} orders, {needed} known to be needed and {argued} argued"]


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", action="store_true")
    options = parser.parse_args(arguments)
    sites, wrong = sites_of_tree()
    names = list(sites.values())
    if options.sites:
        print("\n".join(names))
        return 0
    counts, complaints = check(names, {name: (HERE / name).read_text() for name in LISTS})
    wrong += complaints + check_prose((TREE / "CAVEATS.md").read_text(), counts)
    print("\n".join(wrong), end="\n" if wrong else "")
    print(f"{len(names)} orders in src/: {counts['caught.txt']} caught by pairs, {counts['seeds.txt']} by simulations, "
          f"{counts['argued.txt']} argued")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
