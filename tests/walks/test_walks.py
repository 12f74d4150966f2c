#!/usr/bin/env python3
"""The walks of docs/ARCHITECTURE.md name functions in the order of the calls of one run.

A walk is a block that begins with '```walk NAME'. Each line names a function and what it is there
for; one that is further to the right is called by the one above it, at any depth. Here the built
program takes the walk, and every line must be found in its calls.

Usage: test_walks.py WALK_TRACE [--calls NAME | --count]
"""
import pathlib
import re
import subprocess
import sys
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
GUIDE = TREE / "docs/ARCHITECTURE.md"
WALK = re.compile(r"^```walk ([\w-]+)\n(.*?)^```$", re.M | re.S)
LINE = re.compile(r"( *)(\w+)\(\)  +(\S.*)")
WALKS = ("fault", "invalidation", "clear", "nested-fault", "conversion", "in-place")
# Functions and files that a reader of each goes through, at most; the punch is in no document.
BOUNDS = {"fault": (86, 26), "invalidation": (56, 21), "clear": (48, 9), "nested-fault": (200, 47),
          "conversion": (116, 31), "in-place": (126, 30), "punch": (82, 26)}
# A reader takes these for granted: atomics, locks and their contracts, bits of entries.
BELOW = ("src/base/", "src/entry/", "src/vm/locks.h", "include/")
CONTRACT = re.compile(r"\w+_assert_\w+")

class Call:
    """One call: its function, where that is defined, and how deep it was made."""

    def __init__(self, depth, name, path):
        self.depth, self.name, self.path = depth, name, path

def calls_of(program, walk):
    """The calls of one run in the order of entry."""
    lines = subprocess.run([program, walk], check=True, stdout=subprocess.PIPE, text=True).stdout
    depths, addresses = zip(*(line.split() for line in lines.splitlines()))
    told = subprocess.run(["addr2line", "-f", "-e", program], input="\n".join(addresses),
                          check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [Call(int(depth), name, path_in_tree(place))
            for depth, name, place in zip(depths, told[::2], told[1::2])]

def path_in_tree(place):
    """What addr2line says of a function's place, as a path of the tree."""
    found = re.search(r"(?:^|/)((?:src|include)/[^:]*):", place)
    return found.group(1) if found else place

def walk_lines(text):
    """(indentation, function, line) of each line of a walk."""
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if not match:
            raise ValueError(f"not a line of a walk: {line!r}")
        yield len(match.group(1)), match.group(2), line

def end_of(calls, at):
    """The index behind the last call that calls[at] made."""
    for end in range(at + 1, len(calls)):
        if calls[end].depth <= calls[at].depth:
            return end
    return len(calls)

def lost_line(text, calls):
    """None where the calls make the walk; else the first of its lines that they do not reach."""
    lines = list(walk_lines(text))
    ends = [end_of(calls, at) for at in range(len(calls))]
    furthest, refused = 0, set()

    def follow(number, callers, last):
        """Can the lines from @number on be found behind calls[@last], below @callers?"""
        nonlocal furthest
        furthest = max(furthest, number)
        if number == len(lines) or (number, last) in refused:
            return number == len(lines)
        indentation, name, _ = lines[number]
        above = [caller for caller in callers if caller[0] < indentation]
        end = ends[above[-1][1]] if above else len(calls)
        for at in range(last + 1, end):
            if calls[at].name == name and follow(number + 1, above + [(indentation, at)], at):
                return True
        refused.add((number, last))
        return False

    return None if follow(0, [], -1) else lines[furthest][2]

class Walks(unittest.TestCase):
    """Each walk against its run, and the comparison against walks that are wrong."""
    program = None

    def setUp(self):
        self.walks = dict(WALK.findall(GUIDE.read_text()))

    def test_all_there(self):
        self.assertEqual(sorted(self.walks), sorted(WALKS))

    def test_walks(self):
        for name, text in self.walks.items():
            with self.subTest(name):
                self.assertIsNone(lost_line(text, calls_of(self.program, name)))

    def test_walks_stay_short(self):
        """A change that adds a floor takes another away."""
        for name, most in BOUNDS.items():
            with self.subTest(name):
                functions, files = size_of(calls_of(self.program, name))
                self.assertLessEqual(len(functions), most[0])
                self.assertLessEqual(len(files), most[1])

    def test_wrong_walks_are_found(self):
        calls = [Call(0, "a", ""), Call(1, "b", ""), Call(1, "b", ""), Call(2, "c", ""),
                 Call(1, "d", ""), Call(0, "e", "")]
        right = "a()  .\n  b()  .\n    c()  .\n  d()  .\ne()  .\n"
        self.assertIsNone(lost_line(right, calls))
        for wrong in ("a()  .\n  e()  .\n",            # not called by it
                      "a()  .\n  d()  .\n  b()  .\n",  # another order
                      "b()  .\n  d()  .\n",            # beside it
                      "a()  .\n  f()  .\n"):           # no such function
            self.assertIsNotNone(lost_line(wrong, calls), wrong)

def show(program, walk):
    """The calls of a walk, as a tree."""
    for call in calls_of(program, walk):
        if not call.path.startswith(BELOW):
            print("  " * call.depth + f"{call.name}()  {call.path}")

def size_of(calls):
    """The functions that a reader goes through, and their files."""
    functions = {(c.path, c.name) for c in calls
                 if not c.path.startswith(BELOW) and not CONTRACT.fullmatch(c.name)}
    return functions, {path for path, _ in functions}

def count(program):
    """How many functions of how many files each walk enters."""
    for walk in BOUNDS:
        functions, files = size_of(calls_of(program, walk))
        print(f"{walk}: {len(functions)} functions of {len(files)} files")

if __name__ == "__main__":
    Walks.program = sys.argv[1]
    if sys.argv[2:3] == ["--calls"]:
        show(sys.argv[1], sys.argv[3])
    elif sys.argv[2:] == ["--count"]:
        count(sys.argv[1])
    else:
        unittest.main(argv=sys.argv[:1])
