"""Long work shows where it is: a bar on a terminal, a line now and then in a pipe.

usage: test_progress.py QUIRE-SIM
"""
import argparse
import contextlib
import io
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import types
import unittest
import unittest.mock

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import bench  # noqa: E402
import check_report  # noqa: E402
import check_runner  # noqa: E402
import conformance  # noqa: E402
import progress  # noqa: E402
import run_vmms  # noqa: E402
from vmms import checks as vmms_checks  # noqa: E402

SIM = sys.argv[1]
TOOL = str(TREE / "tools/progress.py")
DEADLINE_S = 30
LINE = re.compile(r"^(\w+): ([\d,]+) of ([\d,]+) (\w+)(, [\d.]+/(?:s|min), [\d:]+ left)?(?:; .* \([\d:]+\))?$")
# Says more and more at the descriptor, as a program of ours does.
TELLS = ("import os, sys, time\nfd = int(os.environ['QUIRE_PROGRESS_FD'])\n"
         "for done in range(1, {steps} + 1):\n"
         "    os.write(fd, b'%d {steps}\\n' % done)\n    time.sleep({pause})\n"
         "print('ended')\nsys.exit({status})\n")
# The tool with shorter waits, before its first bar and between its lines: a fast machine is done sooner.
SOONER = ("import sys\nsys.path.insert(0, {tools!r})\nimport progress\nprogress.LINE_S = 0.2\n"
          "progress.FIRST_S = 0\nprogress.REDRAW_S = 0.01\nsys.exit(progress.main(sys.argv[1:]))\n")


def on_terminal(*words):
    """What a terminal of 80 columns is sent by a command, and the command's status."""
    terminal, side = pty.openpty()
    end_mark = b"\0read to here\0"
    child = subprocess.Popen([str(word) for word in words], stdin=side, stdout=side, stderr=side,
                             env={**os.environ, "COLUMNS": "80"}, start_new_session=True)
    said, end, is_marked = b"", time.monotonic() + DEADLINE_S, False
    while not said.endswith(end_mark) and time.monotonic() < end:
        # A terminal whose last user has gone may end before its last words: this one has us, and
        # what we say behind the command is the end.
        if not is_marked and child.poll() is not None:
            os.write(side, end_mark)
            is_marked = True
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 65536)
    os.close(terminal)
    os.close(side)
    return said.removesuffix(end_mark).decode(), child.wait()


def in_pipe(*words):
    return subprocess.run([str(word) for word in words], text=True, check=False, timeout=DEADLINE_S,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def sooner(*words):
    return (sys.executable, "-c", SOONER.format(tools=str(TREE / "tools")), *words)


def tells(steps=20, pause=0.08, status=0):
    return sys.executable, "-c", TELLS.format(steps=steps, pause=pause, status=status)


class Tool(unittest.TestCase):
    def test_a_bar_on_a_terminal(self):
        # A slow machine draws fewer bars in the same time.
        for pause in (0.15, 1.0):
            said, status = on_terminal(sys.executable, TOOL, "--what", "work", "--unit", "steps", "--",
                                       *tells(pause=pause))
            self.assertEqual(status, 0)
            bars = re.findall(r"\rwork \[(=*) *\] (\d+) of 20 steps, [\d.]+/(?:s|min), [\d:]+ left", said)
            if len(bars) > 2:
                break
        self.assertGreater(len(bars), 2, said)
        self.assertEqual(bars, sorted(bars, key=lambda bar: int(bar[1])))
        for bar, done in bars:
            self.assertEqual(len(bar), progress.BAR_COLUMNS * int(done) // 20)
        # The bar is gone when something else is printed, and at the end.
        self.assertRegex(said, r"\r\x1b\[Kended\r\n")
        # Where the command takes its time to end, it comes once more behind the last line.
        self.assertTrue(said.endswith("\r\x1b[K") or said.endswith("\n"), said)

    def test_a_line_now_and_then_in_a_pipe(self):
        for pause in (0.05, 0.5):
            done = in_pipe(*sooner("--what", "work", "--unit", "steps", "--", *tells(steps=40, pause=pause)))
            self.assertEqual((done.returncode, done.stdout), (0, "ended\n"))
            # Until the command has said how much there is, its time is all that is known.
            lines = [line for line in done.stderr.splitlines()
                     if not re.fullmatch(r"work: \d:\d\d so far", line)]
            if len(lines) > 2:
                break
        self.assertGreater(len(lines), 2)
        for line in lines:
            self.assertEqual(LINE.match(line).group(1, 3, 4), ("work", "40", "steps"), line)
        # Ten seconds are what nobody waits for: short work says nothing.
        self.assertEqual(in_pipe(sys.executable, TOOL, "--", *tells(pause=0)).stderr, "")
        self.assertEqual(progress.LINE_S, 10.0)

    def test_the_status_is_the_commands(self):
        self.assertEqual(in_pipe(sys.executable, TOOL, "--", *tells(1, 0, 3)).returncode, 3)
        self.assertEqual(in_pipe(sys.executable, TOOL, "--", "sh", "-c", "kill -9 $$").returncode,
                         128 + signal.SIGKILL)

    def test_ninjas_steps_come_from_its_output(self):
        bar = r"build \[=+ +\] [12] of 3, "
        for seconds in (1, 6):
            script = (f"for i in 1 2 3; do echo \"[$i/3] CC $i\"; sleep {seconds}; done; "
                      "echo failed >&2; exit 1")
            with tempfile.TemporaryDirectory() as folder:
                log = pathlib.Path(folder, "log")
                said, status = on_terminal(sys.executable, TOOL, "--what", "build", "--log", str(log),
                                           "--", "sh", "-c", script)
                self.assertEqual(log.read_text(), "[1/3] CC 1\n[2/3] CC 2\n[3/3] CC 3\nfailed\n")
            self.assertEqual(status, 1)
            if re.search(bar, said):
                break
        self.assertRegex(said, bar)
        self.assertNotIn("CC", said)

    def test_what_makes_no_sense_is_passed_over(self):
        shown = progress.Progress("x", stream=io.StringIO())
        progress.read_counts(io.BytesIO(b"\xff\xff\n7 of 8\n3 9\n-1 4\n"), progress.COUNTS, shown)
        self.assertEqual((shown.done, shown.total), (3, 9))

    def test_texts(self):
        clock = iter((100.0, 160.0, 160.0, 160.0, 160.0, 160.0)).__next__
        shown = progress.Progress("x", 4, "rows", stream=io.StringIO(), clock=clock)
        self.assertEqual(shown.text(), "0 of 4 rows")
        shown.add()
        self.assertEqual(shown.text(), "1 of 4 rows, 1.0/min, 3:00 left")
        shown.set(3000, 12000)
        self.assertEqual(shown.text(), "3,000 of 12,000 rows, 50/s, 3:00 left")
        shown.unit = "s"
        shown.set(60, 90)
        self.assertEqual(shown.text(), "60 of 90 s, 0:30 left")
        shown.unit = ""
        shown.set(0, 0)
        self.assertEqual(shown.text(), "1:00 so far")

    def test_durations(self):
        self.assertEqual([progress.duration(s) for s in (0, 59.6, 61, 3599, 3600, 7325)],
                         ["0:00", "1:00", "1:01", "59:59", "1:00:00", "2:02:05"])

    def test_simulations(self):
        said, status = on_terminal(*sooner("--what", "sim", "--unit", "seeds", "--", SIM, "--seeds", "1000"))
        self.assertEqual(status, 0)
        self.assertRegex(said, r"sim \[=* *\] [\d,]+ of 1,000 seeds, ")
        self.assertIn("1000 simulations passed", said)


class Said(io.StringIO):
    """What is printed. Once a line has what a test waits for, the step that lasts until then may end."""

    def __init__(self, mark):
        super().__init__()
        self.mark, self.wanted = mark, ""

    def write(self, text):
        super().write(text)
        for line in self.getvalue().splitlines():
            found = LINE.match(line)
            if found and found.group(5) and self.wanted in line:
                self.mark.touch()


class Commands(unittest.TestCase):
    """Each of ./dev's long commands: what it says in a pipe while a step of it lasts."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        self.said = Said(self.folder / "told")
        self.until_told = (f"n=0; until [ -e {self.folder}/told ] || [ $n -gt 600 ]; do "
                           "sleep 0.1; n=$((n + 1)); done")
        for patch in (unittest.mock.patch.object(progress, "LINE_S", 0.1),
                      unittest.mock.patch.object(sys, "stderr", self.said)):
            patch.start()
            self.addCleanup(patch.stop)
        # A runner has a folder for logs, and takes the signals.
        printed = contextlib.redirect_stdout(io.StringIO())
        self.printed = printed.__enter__()
        self.addCleanup(printed.__exit__, None, None, None)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def all_but_the_first(self):
        """A shell's words for a step that lasts until a line has told of it, if it is not the first."""
        first = self.folder / "first-step"
        return f"if [ -e {first} ]; then {self.until_told}; else : >{first}; fi"

    def lines(self, what, total, unit):
        lines = [line for line in self.said.getvalue().splitlines() if " of " in line]
        for line in lines:
            self.assertEqual(LINE.match(line).group(1, 3, 4), (what, total, unit), line)
        # Before the first step has ended no rate is known.
        self.assertTrue(any(LINE.match(line).group(5) for line in lines), self.said.getvalue())
        return lines

    def test_checks(self):
        self.said.wanted = "; slow ("
        with progress.Progress("test", 4, "checks") as shown:
            report = check_report.Report(shown=shown)
            runner = check_runner.Runner(report, self.folder / "logs", 2)
            runner.run([check_runner.Check("s", name, check_runner.command(
                ["sh", "-c", script], self.folder)) for name, script in
                        (("fast", ":"), ("slow", self.until_told), ("quick", ":"), ("fine", ":"))])
        self.assertTrue(any(re.search(r"; slow \(\d+:\d\d\)$", line)
                            for line in self.lines("test", "4", "checks")))
        self.assertIn("pass  slow", self.printed.getvalue())

    def test_vmms(self):
        scenarios = [types.SimpleNamespace(name=name) for name in ("one", "two")]
        made = lambda scenario: check_runner.Check("vmms", scenario.name, check_runner.command(
            ["sh", "-c", self.all_but_the_first()], self.folder))
        options = argparse.Namespace(jobs=1, times=2, write_doc=False)
        client = types.SimpleNamespace(name="fake", packages=())
        with unittest.mock.patch.object(vmms_checks, "check", made), \
                unittest.mock.patch.object(run_vmms, "TREE", self.folder), \
                unittest.mock.patch.object(check_runner.Runner, "catch_signals"), \
                unittest.mock.patch.object(run_vmms.hide_kvm, "hide", lambda: "not there"):
            self.assertEqual(run_vmms.show_chosen(options, [(client, scenarios)]), 0)
        self.lines("vmms", "4", "scenarios")

    def test_conformance(self):
        (self.folder / "build").mkdir()
        self.script("build/quire", self.all_but_the_first())
        for name in ("first", "second"):
            self.script(name, "")
        options = conformance.parse(["--offline"])
        with unittest.mock.patch.object(conformance, "TREE", self.folder), \
                unittest.mock.patch.object(conformance.selftests, "obtain",
                                           lambda offline: ("0", self.folder)), \
                unittest.mock.patch.object(conformance.hide_kvm, "hide", lambda: "not there"), \
                unittest.mock.patch.object(conformance, "CI_PROGRAMS", ("first", "second")):
            conformance.run_all(options)
        self.lines("conformance", "2", "runs")

    def test_bench(self):
        program = self.script("bench", "for at in 1 2 3; do echo \"$at 3\" >&$QUIRE_PROGRESS_FD;"
                                       f" {self.until_told}; done")
        options = argparse.Namespace(name=[], list=False, json=None)
        with unittest.mock.patch.object(bench, "PROGRAM", program), \
                unittest.mock.patch.object(progress.signal, "signal"):
            self.assertEqual(bench.run_program(options), 0)
        self.lines("bench", "3", "rows")


class Callers(unittest.TestCase):
    def test_dev_and_soak_show_theirs(self):
        """The commands that are shell alone start what they do through the tool."""
        dev, soak = ((TREE / name).read_text() for name in ("dev", "tests/soak/soak.sh"))
        self.assertRegex(dev, r"progress\.py .*--log build/compile\.log -- ninja")
        self.assertRegex(dev, r'progress\.py .*-- "\$path" "\$@"')
        long_ones = [line for line in soak.replace("\\\n", "").splitlines()
                     if re.search(r"^[^#]*((?<!\(commit build/cli/sim/)quire-sim --|order_pairs --)", line)]
        self.assertEqual(len(long_ones), 4)
        for line in long_ones:
            self.assertRegex(line, r"^step (\$timed|python3 tools/progress\.py)", line)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
