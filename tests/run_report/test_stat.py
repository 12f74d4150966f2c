#!/usr/bin/env python3
"""Tests of `quire stat`: what a running program does, and that it does not notice.

usage: test_stat.py QUIRE CLIENT
"""
import glob
import json
import os
import pathlib
import subprocess
import sys
import time
import unittest

QUIRE, CLIENT = sys.argv[1:3]
DEADLINE_S = 30
# A look counts events for its interval and so much longer: cli/look/stat.c.
GRACE_S = 2.0


class Run:
    """A client under `quire run` that exits from its guest again and again, or stands still."""

    def __init__(self, *arguments, options=()):
        self.command = subprocess.Popen([QUIRE, "run", *options, "--", CLIENT, *arguments],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        assert self.command.stdout.readline() == "ready\n"
        children = f"/proc/{self.command.pid}/task/{self.command.pid}/children"
        self.pid = int(pathlib.Path(children).read_text().split()[0])
        return self

    def __exit__(self, *_):
        self.command.communicate("\n", timeout=DEADLINE_S)
        self.status = self.command.returncode

    def files(self):
        found = [name for parent in ("/dev/shm", "/tmp", os.environ.get("TMPDIR", "/tmp"))
                 for name in glob.glob(f"{parent}/quire-run.{self.command.pid}.*/stats.*")]
        return sorted(set(found))

    def switches(self):
        """How often the thread that answers has gone to sleep."""
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            if (task / "comm").read_text() == "quire-stats\n":
                status = (task / "status").read_text()
                return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return None


def stat(*arguments):
    return subprocess.run([QUIRE, "stat", *map(str, arguments)], text=True, timeout=DEADLINE_S,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)


def looks(*arguments):
    """The answers of `quire stat --json`, one a look."""
    text, answers = stat("--json", *arguments).stdout, []
    while text.strip():
        answer, end = json.JSONDecoder().raw_decode(text.lstrip())
        answers.append(answer)
        text = text.lstrip()[end:]
    return answers


class StatTest(unittest.TestCase):
    def test_rates_and_exits(self):
        with Run("busy") as run:
            first, second = looks("--interval", 0.3, "--count", 2, run.pid)
        (process,), (later,) = first["processes"], second["processes"]
        self.assertEqual((process["pid"], process["command"]), (run.pid, "test_report_cli"))
        counters, events = process["counters"], process["events"]
        self.assertGreater(counters["mmio_exits"]["per_second"], 0)
        self.assertNotIn("per_second", counters["pages_4k"])
        # One look's rate is what the counter gained since the one before it.
        gained = later["counters"]["exits"]["value"] - counters["exits"]["value"]
        self.assertAlmostEqual(later["counters"]["exits"]["per_second"],
                               gained / second["seconds"], delta=gained * 0.01 + 1)
        self.assertGreater(events["kvm_entry"]["value"], 0)
        exits = {row["reason"]: row for row in process["exits"]}
        self.assertEqual(set(exits) - {"interrupt"}, {"npf", "io"})
        # Of each thread the last exit has no entry behind it yet.
        counted = sum(row["count"] for row in process["exits"])
        self.assertLessEqual(abs(events["kvm_exit"]["value"] - counted), 2)
        for row in exits.values():
            self.assertLessEqual(row["min_ns"], row["mean_ns"])
            self.assertLessEqual(row["mean_ns"], row["max_ns"])
            self.assertAlmostEqual(row["mean_ns"], row["time_ns"] / row["count"], delta=0.1)
        # What the reasons took together is less than the time that there was.
        self.assertLess(sum(row["time_ns"] for row in process["exits"]), first["seconds"] * 1e9)

    def test_names(self):
        with Run() as run:
            for who in (run.pid, run.command.pid, "test_report_cli", os.path.basename(CLIENT)):
                done = stat("--interval", 0.01, "--count", 1, who)
                self.assertEqual((done.returncode, done.stderr), (0, ""), who)
                self.assertIn(f"process {run.pid} (test_report_cli): VMs alive 1", done.stdout)
            done = stat("no-such-program")
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(f"{run.pid} (test_report_cli)", done.stderr)
        self.assertEqual(stat(run.pid).returncode, 1)

    def test_counters_are_those_of_the_report(self):
        with Run("busy", options=["--stats", f"{os.environ.get('TMPDIR', '/tmp')}/stat.{os.getpid()}"]
                 ) as run:
            (look,) = looks("--interval", 0.1, "--count", 1, run.pid)
        path = pathlib.Path(f"{os.environ.get('TMPDIR', '/tmp')}/stat.{os.getpid()}")
        ended = json.loads(path.read_text())["processes"][0]
        path.unlink()
        vm = ended["vms"][0]
        counters = look["processes"][0]["counters"]
        self.assertEqual(set(counters), set(vm["stats"]) | set(vm["vcpus"][0]["stats"]))
        for name in ("pages_4k", "pf_taken", "pf_fixed"):
            self.assertEqual(counters[name]["value"],
                             vm["stats"].get(name, vm["vcpus"][0]["stats"].get(name)), name)
        self.assertLess(counters["exits"]["value"], vm["vcpus"][0]["stats"]["exits"])

    def test_unobserved_it_sleeps(self):
        with Run("busy") as run:
            (look,) = looks("--interval", 0.1, "--count", 1, run.pid)
            self.assertEqual(len(run.files()), 1)
            time.sleep(GRACE_S + 0.5)
            before = run.switches()
            time.sleep(1.5)
            self.assertEqual(run.switches(), before)
            # Counting had ended: the next look starts from nothing.
            (again,) = looks("--interval", 0.05, "--count", 1, run.pid)
        exits = [answer["processes"][0]["counters"]["exits"]["value"] for answer in (look, again)]
        self.assertLess(again["processes"][0]["events"]["kvm_exit"]["value"],
                        (exits[1] - exits[0]) / 4)
        self.assertEqual(run.status, 0)
        self.assertEqual(run.files(), [])

    def test_bad_use(self):
        for arguments in (["--interval", "0"], ["--interval", "x"], ["--count", "0"], ["a", "b"]):
            self.assertEqual(stat(*arguments).returncode, 2, arguments)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
