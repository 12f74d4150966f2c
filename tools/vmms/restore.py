"""A snapshot restored page by page through userfaultfd: tests/vmms/restore.c."""
import re
import subprocess

import program
from vmms import places
from vmms.scenario import Failure, MissingPrivilege, Scenario

MEBIBYTES = 64
SKIPPED = 77


def build():
    places.WORK.mkdir(parents=True, exist_ok=True)
    made = places.WORK / "restore"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(made),
                    str(places.SOURCES / "restore.c")], check=True)
    return made


def restore():
    status, text, _ = program.start_and_wait(
        [*places.RUN, "--", str(build()), str(MEBIBYTES)], places.WORK, 300)
    if status == SKIPPED:
        raise MissingPrivilege(text.strip())
    if status != 0 or not re.search(r"faults a second", text):
        raise Failure(f"exit {status}", text)
    return text.strip()


def scenarios():
    return [Scenario("snapshot", f"{MEBIBYTES} MiB restored page by page", restore, in_ci=True)]
