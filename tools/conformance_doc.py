"""docs/CONFORMANCE.md: written from a run of every selftest, and compared with what CI sees."""
import re

PATH = "docs/CONFORMANCE.md"
ROW = re.compile(r"^\| (\S[^|]*?) \| (pass|skip|fail) \| (.*) \|$", re.M)

HEAD = """\
# Conformance: the Linux kernel's KVM selftests on Quire

Every program of tools/testing/selftests/kvm of Linux {version} (Debian's source package), built
unmodified and run as `quire run -- PROGRAM` without arguments but for those shown, {limit:g} seconds at
most for each, with the machine's own /dev/kvm hidden; NAME=VALUE in front is a module parameter. A pass is exit 0 with its work done: a program that says it found
no time or no slots has failed. A skip gives the program's own reason, a failure its last lines.

This file is generated: `./dev conformance --all --limit {limit:g} --write-doc`. `./dev test kernel` runs some of
these programs and fails when one does not do what its row says.

| program | result | reason |
|---|---|---|
"""


def title(entry):
    return " ".join([*entry.get("params", ()), entry["program"], *entry["args"]])


def cell(text):
    text = text.replace("|", "/")
    return text if len(text) <= 240 else text[:237] + "..."


def render(report, limit):
    rows = [f"| {title(e)} | {e['result']} | {cell(e['reason'])} |"
            for e in report["programs"]]
    count = {key: sum(e["result"] == key for e in report["programs"])
             for key in ("pass", "fail", "skip")}
    last = f"\n{count['pass']} passed, {count['fail']} failed, {count['skip']} skipped\n"
    return HEAD.format(version=report["kernel"], limit=limit) + "\n".join(rows) + "\n" + last


def write(path, report, limit):
    path.write_text(render(report, limit))


def read(text):
    """program -> result, as the table has it."""
    return {program: result for program, result, _ in ROW.findall(text)}


def worse(text, report):
    """What a run did not do that the document says; arguments that it does not have pass."""
    rank = {"fail": 0, "skip": 1, "pass": 2}
    table = read(text)
    return [f"{title(entry)}: {PATH} says {table.get(title(entry), 'pass')}, the run saw {entry['result']}"
            for entry in report["programs"]
            if rank[entry["result"]] < rank[table.get(title(entry), "pass")]]


def differences(text, report):
    """What the document says otherwise than a run saw; arguments it does not have pass."""
    table = read(text)
    found = []
    for entry in report["programs"]:
        name = title(entry)
        said = table.get(name, "nothing")
        if (name in table or not entry["args"]) and said != entry["result"]:
            found.append(f"{name}: {PATH} says {said}, the run saw {entry['result']}")
    return found
