"""What came of seeds, a line each in JSON: kept as a campaign goes, handed on by --json, put together by --merge.

The first line names the fuzzer, the commit and how many runs a seed has. {"seed": K, "runs": N, "features": F, "crash": TEXT or null} is a seed;
its new inputs stand in "inputs", as text.
"""
import json
import os
import pathlib
import re

from fuzz_text import RECORD, BadInput

HEAD = {"fuzzer": str, "commit": str, "runs": int}
INPUT = re.compile(f"(?:{RECORD.pattern}\n)*")
FIELDS = {"seed": int, "runs": int, "features": int, "inputs": list}


class Results:
    """The seeds of one fuzzer at one commit, of so many runs each."""

    def __init__(self, fuzzer, commit, runs):
        self.head = {"fuzzer": fuzzer, "commit": commit, "runs": runs}
        self.seeds = {}

    def add(self, seed):
        self.seeds.setdefault(seed["seed"], seed)

    def lines(self):
        return [self.head, *[self.seeds[seed] for seed in sorted(self.seeds)]]

    def write(self, path):
        """Whole or not at all: a run that is killed meanwhile leaves the file as it was."""
        path = pathlib.Path(path)
        new = path.with_name(path.name + ".new")
        new.write_text("".join(json.dumps(line) + "\n" for line in self.lines()))
        os.replace(new, path)

    def crashes(self):
        return [seed for seed in self.seeds.values() if seed["crash"]]

    def text(self):
        """A line on all of it; which seeds, so that a hole is seen."""
        spans, runs = [], sum(seed["runs"] for seed in self.seeds.values())
        for seed in sorted(self.seeds):
            if spans and spans[-1][1] == seed - 1:
                spans[-1][1] = seed
            else:
                spans.append([seed, seed])
        shown = ", ".join(f"{first} to {last}" for first, last in spans)
        return (f"{self.head['fuzzer']}: {len(self.seeds):,} seeds ({shown}), {runs:,} runs, "
                f"{len(self.crashes())} crashes")


def check_seed(path, number, seed):
    for name, kind in FIELDS.items():
        if not isinstance(seed, dict) or type(seed.get(name)) is not kind:
            raise BadInput(path, number, f"a seed without {name}")
    if not isinstance(seed.get("crash"), (str, type(None))):
        raise BadInput(path, number, "a seed without crash")
    for text in seed["inputs"]:
        if not isinstance(text, str) or not INPUT.fullmatch(text):
            raise BadInput(path, number, "an input that is not records in hex")


def parse_line(path, number, line):
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(path, number, f"no JSON: {error.msg}") from error


def read(path, may_be_cut=False):
    """The results in a file. One that a campaign was writing may be cut short in its last line."""
    text = pathlib.Path(path).read_text(errors="replace")
    lines = text.split("\n")
    if lines.pop() and not may_be_cut:
        raise BadInput(path, len(lines) + 1, "the line has no end")
    if not lines:
        raise BadInput(path, 1, "there is nothing")
    head = parse_line(path, 1, lines[0])
    if not isinstance(head, dict) or {name: type(value) for name, value in head.items()} != HEAD:
        raise BadInput(path, 1, "not the results of ./dev fuzz")
    results = Results(**head)
    for number, line in enumerate(lines[1:], 2):
        seed = parse_line(path, number, line)
        check_seed(path, number, seed)
        results.add(seed)
    return results


def merge(paths):
    """All of them as one; they are of one fuzzer and one commit."""
    merged = None
    for path in paths:
        results = read(path)
        if merged is None:
            merged = results
            continue
        if results.head != merged.head:
            raise BadInput(path, 1, f"is of {results.head}, the others of {merged.head}")
        for seed in results.seeds.values():
            merged.add(seed)
    return merged
