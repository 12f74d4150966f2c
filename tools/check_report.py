"""What came of a run of checks: a line for each as it ends, the count, and a JUnit file."""
import dataclasses
import os
import threading
from xml.etree import ElementTree

import progress

# A skip of these in CI hides what CI is for; a machine of CI has every privilege.
MAY_NOT_SKIP = ("qemu", "migration", "rust", "go", "musl", "demo-vm", "ovmf", "debian", "qemu10",
                "libguestfs")
SHOWN_LINES = 12


@dataclasses.dataclass
class Outcome:
    """What one check came to: "pass", "fail" or "skip", why, and what it printed."""
    result: str
    remark: str = ""
    output: str = ""


@dataclasses.dataclass
class Entry:
    """One line of the report."""
    suite: str
    name: str
    outcome: Outcome
    seconds: float


class Report:
    """Prints each check's line when it ends. Any thread may add one."""

    def __init__(self, is_ci=None, shown=None):
        self.entries = []
        self.shown = shown or progress.Silent()
        self.lock = threading.Lock()
        self.is_ci = bool(os.environ.get("CI")) if is_ci is None else is_ci

    def add(self, suite, name, outcome, seconds):
        if outcome.result == "skip" and self.is_ci and suite in MAY_NOT_SKIP:
            outcome = Outcome("fail", f"it skipped: {outcome.remark}", outcome.output)
        with self.lock, self.shown.aside():
            self.entries.append(Entry(suite, name, outcome, seconds))
            print(self.text(self.entries[-1]), flush=True)

    @staticmethod
    def text(entry):
        outcome = entry.outcome
        line = f"{outcome.result:<5} {entry.name:<50} {entry.seconds:>7.1f} s  {outcome.remark}"
        lines = [line.rstrip()]
        if outcome.result == "fail":
            lines += ["      " + told for told in outcome.output.strip().splitlines()[-SHOWN_LINES:]]
        return "\n".join(lines)

    def count(self, result):
        return sum(entry.outcome.result == result for entry in self.entries)

    def totals(self):
        return (f"{self.count('pass')} passed, {self.count('fail')} failed, "
                f"{self.count('skip')} skipped")

    def summary(self):
        """What failed, once more, and the totals: of a long log often only the end is kept."""
        failed = [self.text(entry) for entry in self.entries if entry.outcome.result == "fail"]
        return "\n".join((["----- failed:"] + failed if failed else []) + [self.totals()])

    def write_junit(self, path):
        top = ElementTree.Element("testsuites")
        for suite in dict.fromkeys(entry.suite for entry in self.entries):
            entries = [entry for entry in self.entries if entry.suite == suite]
            count = {key: str(sum(e.outcome.result == result for e in entries))
                     for key, result in (("failures", "fail"), ("skipped", "skip"))}
            element = ElementTree.SubElement(top, "testsuite", name=suite, tests=str(len(entries)),
                                             time=f"{sum(e.seconds for e in entries):.3f}", **count)
            for entry in entries:
                self.add_case(element, entry)
        ElementTree.indent(top)
        ElementTree.ElementTree(top).write(path, encoding="utf-8", xml_declaration=True)

    @staticmethod
    def add_case(element, entry):
        case = ElementTree.SubElement(element, "testcase", classname=entry.suite, name=entry.name,
                                      time=f"{entry.seconds:.3f}")
        kind = {"fail": "failure", "skip": "skipped"}.get(entry.outcome.result)
        if kind:
            child = ElementTree.SubElement(case, kind, message=printable(entry.outcome.remark))
            child.text = printable(entry.outcome.output) if kind == "failure" else None


def printable(text):
    """XML has no way to write most control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
