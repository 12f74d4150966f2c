#!/usr/bin/env python3
"""A campaign of quire-sim: as many seeds as are asked for, whatever they find; what is done is kept in a file.

  campaign.py PROGRAM --from SEED --seeds COUNT --json FILE [OPTION]...   runs them, or goes on where it was killed
  campaign.py --merge FILE...                                             adds files of other machines up

An OPTION is one of quire-sim's. Array jobs share the seeds: each has its own --from and --json. The exit status is 1
when a seed failed, 2 when a file is none or is of another campaign.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

import progress

FORMAT = "quire-sim campaign 1"
CHUNK = 2000  # seeds of a process; that many are done again after a kill
FIELDS = {"format": str, "commit": str, "options": list, "from": int, "seeds": int, "done": int, "violations": list}


class Bad(Exception):
    """A file that is none, or of another campaign."""


def line_of(text, name, number=0):
    """The line where field @name stands, or object @number of its list; the first, where there is none."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', lambda string: "s" * len(string[0]), text)
    key = re.search(rf'"{name}"\s*:', text)
    starts = [at.start() for at in re.finditer("{", bare) if key and at.start() > key.start()]
    at = starts[number - 1] if 0 < number <= len(starts) else key.start() if key else 0
    return text.count("\n", 0, at) + 1


def check(path, text, told):
    """What is wrong with the fields of @told, which @text says."""
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise Bad(f"{path}:1: not a campaign of quire-sim")
    for name, kind in FIELDS.items():
        if type(told.get(name)) is not kind:
            raise Bad(f"{path}:{line_of(text, name)}: '{name}' is missing, or is none")
    if not all(isinstance(option, str) for option in told["options"]):
        raise Bad(f"{path}:{line_of(text, 'options')}: an option that is no text")
    if not 0 <= told["done"] <= told["seeds"]:
        raise Bad(f"{path}:{line_of(text, 'done')}: more is done than there is")
    if told["from"] < 0:
        raise Bad(f"{path}:{line_of(text, 'from')}: no seed is below 0")
    done = range(told["from"], told["from"] + told["done"])
    for number, violation in enumerate(told["violations"], 1):
        where = f"{path}:{line_of(text, 'violations', number)}"
        if not isinstance(violation, dict) or type(violation.get("seed")) is not int or \
                not isinstance(violation.get("failure"), str):
            raise Bad(f"{where}: a violation without a seed or a failure")
        if violation["seed"] not in done:
            raise Bad(f"{where}: seed {violation['seed']} is none of those that are done")


def read(path):
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text)
    except json.JSONDecodeError as error:
        raise Bad(f"{path}:{error.lineno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise Bad(f"{path}:{path.read_bytes().count(10, 0, error.start) + 1}: not UTF-8") from error
    except OSError as error:
        raise Bad(f"{path}: {error.strerror}") from error
    check(path, text, told)
    return told


def write(path, campaign):
    """Whole or not at all: a kill leaves the file that was there."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(campaign, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def begin(options, commit):
    """The campaign as it is to be, or as it was when it was killed."""
    campaign = {"format": FORMAT, "commit": commit, "options": options.options, "from": options.first,
                "seeds": options.seeds, "done": 0, "violations": []}
    if not options.json.exists():
        return campaign
    before = read(options.json)
    for name in ("commit", "options", "from", "seeds"):
        if before[name] != campaign[name]:
            raise Bad(f"{options.json}: is of another campaign: its {name} is {before[name]}, not {campaign[name]}")
    return before


def run_chunk(options, first, count):
    """How many seeds were run, and (seed, failure) of the last, or None."""
    done = subprocess.run([options.program, "--from", str(first), "--seeds", str(count), "--shrink", "0",
                           *options.options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace", check=False)
    if done.returncode == 0 and f"{count} simulations passed" in done.stdout:
        return count, None
    told = re.search(r"^# seed (\d+) failed: (.*)$", done.stdout, re.M)
    if done.returncode != 1 or not told:
        raise Bad(f"{options.program}: exit status {done.returncode}: {done.stderr.strip() or done.stdout[-300:]}")
    return int(told[1]) - first + 1, {"seed": int(told[1]), "failure": told[2]}


def run(options):
    # With --order another program runs the seeds, which may be of another build.
    order = [option for option in options.options if option == "--order"]
    commit = subprocess.run([options.program, *order, "--commit"], stdout=subprocess.PIPE, text=True,
                            check=True).stdout.strip()
    campaign = begin(options, commit)
    if campaign["done"]:
        print(f"going on after {campaign['done']:,} seeds", flush=True)
    with progress.Progress("campaign", campaign["seeds"], "seeds") as bar:
        while campaign["done"] < campaign["seeds"]:
            count, violation = run_chunk(options, campaign["from"] + campaign["done"],
                                         min(CHUNK, campaign["seeds"] - campaign["done"]))
            campaign["done"] += count
            if violation:
                campaign["violations"].append(violation)
            write(options.json, campaign)
            bar.set(campaign["done"])
    return [campaign]


def tell(campaigns):
    """Every seed counts once, in however many files it is."""
    for commit, options in sorted({(c["commit"], tuple(c["options"])) for c in campaigns}):
        seeds, violations, end = 0, {}, 0
        same = [c for c in campaigns if (c["commit"], tuple(c["options"])) == (commit, options)]
        for campaign in sorted(same, key=lambda c: c["from"]):
            last = campaign["from"] + campaign["done"]
            seeds += max(0, last - max(campaign["from"], end))
            end = max(end, last)
            violations.update({v["seed"]: v["failure"] for v in campaign["violations"]})
        wanted = sum(c["seeds"] - c["done"] for c in same)
        print(f"commit {commit}{''.join(' ' + option for option in options)}: {seeds:,} seeds, "
              f"{len(violations):,} violations" + (f", {wanted:,} seeds still to run" if wanted else ""))
        for seed, failure in sorted(violations.items()):
            print(f"  seed {seed}: {failure}")
    return 1 if any(c["violations"] for c in campaigns) else 0


def main(arguments):
    if arguments[:1] == ["--merge"]:
        if not arguments[1:]:
            raise Bad("--merge takes the files of several campaigns")
        return tell([read(pathlib.Path(path)) for path in arguments[1:]])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("program")
    parser.add_argument("--from", dest="first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    options, options.options = parser.parse_known_args(arguments)
    return tell(run(options))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Bad as error:
        print(f"campaign.py: {error}", file=sys.stderr)
        sys.exit(2)
