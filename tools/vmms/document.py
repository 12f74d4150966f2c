"""docs/VMMS.md: written from a run of every client."""
import re

PATH = "docs/VMMS.md"
HEAD = """\
# VMMs that run on Quire

Each client runs as `quire run -- CLIENT`, with options of `quire run` where a row asks for them, and with the
machine's own /dev/kvm hidden. Those that are not programs of ours are unmodified. The table is of one run on
one machine, with the versions that it names. A pass is what the last column says, done and checked by the
test; a failure gives its first reason; what the run did not come to is not run.
Processor time is that of the whole client, interpreter included.

This file is generated: `./dev vmms --write-doc`. `./dev test qemu migration` and `./dev test clients` run a
part of it.
"""
SECTION = """
## {name}: {about}

{version}

| what it was asked to do | result | what came of it |
|---|---|---|
"""


def cell(text):
    return re.sub(r"\s+", " ", text.replace("|", "/")).strip()[:240]


def render(results):
    """results: pairs of a client and of its (scenario, outcome) pairs; None is no outcome."""
    text = HEAD
    outcomes = []
    for client, done in results:
        text += SECTION.format(name=client.name, about=client.about, version=client.version())
        for scenario, outcome in done:
            result, remark = (outcome.result, outcome.remark) if outcome else ("not run", "")
            text += f"| {scenario.name} | {result} | {cell(remark)} |\n"
            outcomes.append(result)
    count = [outcomes.count(result) for result in ("pass", "fail", "skip", "not run")]
    return text + "\n{} passed, {} failed, {} skipped, {} not run\n".format(*count)
