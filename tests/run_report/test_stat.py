#!/usr/bin/env python3
"""Tests of `quire stat`: what a running program does, and that it does not notice.

usage: test_stat.py QUIRE CLIENT
"""
import json
import os
import pathlib
import sys
import tempfile
import time
import unittest

import looking

QUIRE, CLIENT = sys.argv[1:3]
# A look counts events for its interval and so much longer: cli/look/stat.c.
GRACE_S = 2.0


def run(*arguments, options=()):
    return looking.Run(QUIRE, CLIENT, *arguments, options=options)


def stat(*arguments):
    return looking.look(QUIRE, "stat", *arguments)


def looks(*arguments):
    """The answers of `quire stat --json`, one a look."""
    text, answers = stat("--json", *arguments).stdout, []
    while text.strip():
        answer, end = json.JSONDecoder().raw_decode(text.lstrip())
        answers.append(answer)
        text = text.lstrip()[end:]
    return answers


def two_looks(client):
    """Two looks between which the client ran, and how long they took: on a busy machine it may stand still."""
    end = time.monotonic() + looking.DEADLINE_S
    while True:
        begun = time.monotonic()
        answers = looks("--interval", 0.3, "--count", 2, client.pid)
        took = time.monotonic() - begun
        both = [process for answer in answers for process in answer["processes"]]
        has_run = (len(both) == 2 and len({row["reason"] for row in both[0]["exits"]} - {"interrupt"}) > 1 and
                   both[1]["events"]["kvm_exit"]["value"] > both[0]["events"]["kvm_exit"]["value"])
        if has_run or time.monotonic() > end:
            return *both, answers[1]["seconds"], took


class StatTest(unittest.TestCase):
    def test_rates_and_exits(self):
        with run("busy") as client:
            process, later, seconds, took = two_looks(client)
        self.assertEqual((process["pid"], process["command"]), (client.pid, "test_report_cli"))
        counters, events = process["counters"], process["events"]
        self.assertGreater(counters["mmio_exits"]["per_second"], 0)
        self.assertNotIn("per_second", counters["pages_4k"])
        # One look's rate is what the counter gained since the one before it.
        gained = later["counters"]["exits"]["value"] - counters["exits"]["value"]
        self.assertAlmostEqual(later["counters"]["exits"]["per_second"],
                               gained / seconds, delta=gained * 0.01 + 1)
        self.assertGreater(events["kvm_entry"]["value"], 0)
        exits = {row["reason"]: row for row in process["exits"]}
        self.assertEqual(set(exits) - {"interrupt"}, {"npf", "io"})
        counted = sum(row["count"] for row in process["exits"])
        self.assertLess(counted, later["events"]["kvm_exit"]["value"])
        for row in exits.values():
            self.assertLessEqual(row["min_ns"], row["mean_ns"])
            self.assertLessEqual(row["mean_ns"], row["max_ns"])
            self.assertAlmostEqual(row["mean_ns"], row["time_ns"] / row["count"], delta=0.1)
        # The reasons together took no more than the time that there was.
        self.assertLess(sum(row["time_ns"] for row in process["exits"]), took * 1e9)

    def test_names(self):
        with run() as client:
            for who in (client.pid, client.command.pid, "test_report_cli",
                        os.path.basename(CLIENT)):
                done = stat("--interval", 0.01, "--count", 1, who)
                self.assertEqual((done.returncode, done.stderr), (0, ""), who)
                self.assertIn(f"process {client.pid} (test_report_cli): VMs alive 1", done.stdout)
            done = stat("no-such-program")
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(f"{client.pid} (test_report_cli)", done.stderr)
        self.assertEqual(stat(client.pid).returncode, 1)

    def test_a_program_that_is_slow_to_answer(self):
        with run() as client:
            status, said = looking.look_at_a_slow_one(client, QUIRE, "stat", "--interval", 0.01, "--count", 1, client.pid)
        self.assertEqual(status, 0, said)
        self.assertIn(f"process {client.pid} (test_report_cli): VMs alive 1", said)

    def test_counters_are_those_of_the_report(self):
        grow = ("exits", "pf_taken", "pf_fixed")
        deadline = time.monotonic() + looking.DEADLINE_S
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "stats.json")
            with run("busy", options=["--stats", path]) as client:
                (look,) = later = looks("--interval", 0.1, "--count", 1, client.pid)
                # On a busy machine the client may not have run since; it is told to end once it has.
                while time.monotonic() < deadline and any(
                        later[0]["processes"][0]["counters"][name]["value"] <=
                        look["processes"][0]["counters"][name]["value"] for name in grow):
                    later = looks("--interval", 0.1, "--count", 1, client.pid)
            ended = json.loads(path.read_text())["processes"][0]
        vm = ended["vms"][0]
        counters = look["processes"][0]["counters"]
        self.assertEqual(set(counters), set(vm["stats"]) | set(vm["vcpus"][0]["stats"]))
        self.assertEqual(counters["pages_4k"]["value"], vm["stats"]["pages_4k"])
        for name in grow:
            self.assertGreater(counters[name]["value"], 0)
            self.assertLess(counters[name]["value"], vm["vcpus"][0]["stats"][name], name)

    def test_unobserved_it_sleeps(self):
        with run("busy") as client:
            (look,) = looks("--interval", 0.1, "--count", 1, client.pid)
            self.assertEqual(len(client.files()), 1)
            time.sleep(GRACE_S + 0.5)
            # On a busy machine its last turn may be still to come.
            end = time.monotonic() + looking.DEADLINE_S
            before, now = None, client.switches()
            while now != before and time.monotonic() < end:
                time.sleep(1.5)
                before, now = now, client.switches()
            self.assertEqual(now, before)
            # Counting had ended: the next look starts from nothing.
            (again,) = looks("--interval", 0.05, "--count", 1, client.pid)
        exits = [answer["processes"][0]["counters"]["exits"]["value"] for answer in (look, again)]
        self.assertLess(again["processes"][0]["events"]["kvm_exit"]["value"],
                        (exits[1] - exits[0]) * 3 / 4)
        self.assertEqual(client.status, 0)
        self.assertEqual(client.files(), [])

    def test_a_process_without_vms_is_not_there(self):
        with run("no-vm") as client:
            done = stat(client.pid)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            # Runs of others may be there meanwhile.
            self.assertNotIn(f" {client.pid} (", done.stderr)
            self.assertEqual(client.files(), [])
            self.assertIsNone(client.thread())

    def test_a_zombie_is_not_there(self):
        with tempfile.TemporaryDirectory() as folder:
            with run("zombie", options=["--stats", pathlib.Path(folder, "stats.json")]) as client:
                self.assertEqual(len(client.files()), 1)
                done = stat("a) R")
        self.assertEqual((done.returncode, done.stdout), (1, ""))

    def test_many_slots(self):
        """Moments of a page become rare where each takes long: a twentieth of the time, so of some seconds one is free."""
        with tempfile.TemporaryDirectory() as folder:
            options = ["--report", pathlib.Path(folder, "run.html")]
            with run("slots", options=options) as client:
                shares = []
                # Where a moment takes seconds, the free ones come later.
                while len(shares) < 4 or min(shares) >= 0.1 and len(shares) < looking.DEADLINE_S:
                    ran, begun = client.ran_s(), time.monotonic()
                    time.sleep(1.0)
                    shares.append((client.ran_s() - ran) / (time.monotonic() - begun))
        self.assertLess(min(shares), 0.1, shares)

    def test_bad_use(self):
        for arguments in (["--interval", "0"], ["--interval", "x"], ["--count", "0"], ["a", "b"]):
            self.assertEqual(stat(*arguments).returncode, 2, arguments)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
