"""Tests of './dev test' itself: its arguments, its lines, its count, and what a signal does."""
import contextlib
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock
from xml.etree import ElementTree

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import check_plan  # noqa: E402
import check_report  # noqa: E402
import check_runner  # noqa: E402
import checks  # noqa: E402
import distributions  # noqa: E402
import meson_tests  # noqa: E402
import packages  # noqa: E402
from vmms.machine import Machine  # noqa: E402

PASS = check_report.Outcome("pass")


class Arguments(unittest.TestCase):
    def refused(self, *words):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            with self.assertRaises(SystemExit) as end:
                checks.parse(words)
        self.assertEqual(end.exception.code, 2)
        return said.getvalue()

    def test_unknown_options_are_refused(self):
        self.assertIn("--bogus", self.refused("--bogus"))
        self.refused("--quick", "rules")
        self.refused("--jobs", "0")
        self.refused("--junit", "/nonexistent/file.xml")

    def test_no_argument_is_the_newcomers_run(self):
        options = checks.parse([])
        self.assertEqual((options.suite, options.quick, options.list), ([], False, False))


    def test_a_list_whose_reader_leaves(self):
        """'./dev test --list | head' says what it says, and nothing of a pipe."""
        code = "import sys, unittest.mock; sys.path.insert(0, 'tools'); import checks; " \
               "checks.subprocess.run = checks.check_plan.Plan = unittest.mock.MagicMock(); " \
               "checks.show = lambda *a: [print('x' * 99) for _ in range(9999)]; sys.exit(checks.main(['--list']))"
        with subprocess.Popen([sys.executable, "-c", code], cwd=TREE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as listing:
            listing.stdout.readline()
            listing.stdout.close()
            self.assertEqual(listing.stderr.read(), b"")


class GrowingConsole(Machine):
    """A guest that writes a little more each time its console's log is read."""

    def __init__(self, *parts):
        super().__init__(None, [])
        self.parts, self.shown = list(parts), ""

    def cpu_seconds(self):
        return 0.0

    def check_alive(self, waiting_for):
        if not self.parts:
            raise AssertionError(f"the guest ended before {waiting_for}")

    def text(self):
        self.shown += self.parts.pop(0) if self.parts else ""
        return self.shown


class Console(unittest.TestCase):
    def test_a_line_is_read_when_it_has_ended(self):
        console = GrowingConsole("noise\nquire: up 6.1.0-am", "d64 cpus", " 2 memory\nquire: ", "x\n")
        self.assertEqual(console.wait_line("quire: up "), "6.1.0-amd64 cpus 2 memory")
        self.assertEqual(console.wait_line("quire: "), "x")

    def test_a_text_may_stand_in_a_line(self):
        GrowingConsole("log", "in: ").wait_for("login: ")


def plan_of(newcomer, clients):
    plan = check_plan.Plan.__new__(check_plan.Plan)
    plan.suites = [check_plan.Suite(name, "", None, is_quick=name == "a") for name in newcomer]
    plan.clients = [check_plan.Suite(name, "", None) for name in clients]
    plan.optional = [check_plan.Suite("o", "", None)]
    return plan


class Tiers(unittest.TestCase):
    def names(self, words, tier="newcomer"):
        return [suite.name for suite in plan_of("ab", "cd").select(words, tier)]

    def test_tiers(self):
        self.assertEqual(self.names([]), ["a", "b"])
        self.assertEqual(self.names([], "quick"), ["a"])
        self.assertEqual(self.names(["clients"]), ["c", "d"])
        self.assertEqual(self.names(["all"]), ["a", "b", "c", "d"])
        self.assertEqual(self.names([], "all"), ["a", "b", "c", "d"])

    def test_what_is_optional_runs_by_its_name(self):
        self.assertEqual(self.names(["o", "a"]), ["a", "o"])

    def test_suites_run_once_and_in_order(self):
        self.assertEqual(self.names(["c", "a", "c"]), ["a", "c"])

    def test_an_unknown_suite_is_named(self):
        with self.assertRaises(KeyError) as error:
            self.names(["a", "nothing"])
        self.assertEqual(error.exception.args[0], "nothing")

    def test_every_suite_with_packages_exists(self):
        plan = check_plan.Plan()
        known = {suite.name for suite in plan.all()}
        self.assertEqual(set(packages.WANTED) - known, set())
        self.assertEqual(set(check_report.MAY_NOT_SKIP) - known, set())

    def test_slow_tests_exist(self):
        names = {name.partition(": ")[2] for suite in check_plan.Plan().suites
                 for name in suite.names()}
        self.assertEqual(set(check_plan.SLOW) - names, set())


class Soak(unittest.TestCase):
    def test_a_word_that_is_no_number_begins_nothing(self):
        for words in (["-h"], ["60", "y"], ["1s"]):
            done = subprocess.run(["sh", TREE / "tests/soak/soak.sh", *words], text=True, capture_output=True,
                                  timeout=20, check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn("is no number of seconds", done.stderr)


class Demo(unittest.TestCase):
    def test_its_lines_are_asked_for_in_order(self):
        self.assertIsNone(check_plan.missing_line("a 1\nb\nc\n", [r"^a \d$", r"^c$"]))
        self.assertEqual(check_plan.missing_line("c\na\n", [r"^a$", r"^c$"]), r"^c$")

    def test_the_readme_shows_them(self):
        text = (TREE / "README.md").read_text().replace("\n    ", "\n")
        shown = [line for line in check_plan.DEMO_VM_LINES[1:] if "second" not in line or "It" in line]
        self.assertIsNone(check_plan.missing_line(text, shown))


class Runs(unittest.TestCase):
    def setUp(self):
        keep = tempfile.TemporaryDirectory()
        self.addCleanup(keep.cleanup)
        self.folder = pathlib.Path(keep.name)

    def run_checks(self, checks_to_run, is_ci=False, jobs=2):
        report = check_report.Report(is_ci)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            check_runner.Runner(report, self.folder / "logs", jobs).run(checks_to_run)
        return report, said.getvalue()

    def shell(self, name, script, limit=20, suite="s", **flags):
        run = check_runner.command(["sh", "-c", script], self.folder, limit)
        return check_runner.Check(suite, name, run, **flags)

    def test_each_result_has_a_line_and_is_counted(self):
        report, said = self.run_checks([
            self.shell("good", "exit 0"), self.shell("bad", "echo why; exit 3"),
            self.shell("none", "echo no root; exit 77"), self.shell("late", "sleep 30", limit=0.2)])
        self.assertEqual(report.totals(), "1 passed, 2 failed, 1 skipped")
        for pattern in (r"pass +good ", r"fail +bad .*exit 3\n +why", r"skip +none .*no root",
                        r"fail +late .*no end within 0.2 s"):
            self.assertRegex(said, pattern)
        self.assertEqual((self.folder / "logs/bad.log").read_text(), "why\n")
        self.assertRegex(report.summary(), r"(?s)^-----.*fail +bad .*why\n.*fail +late .*\n1 passed")

    def test_a_line_comes_when_its_check_ends(self):
        def slow():
            end = time.monotonic() + 30
            while "fast" not in sys.stdout.getvalue() and time.monotonic() < end:
                time.sleep(0.01)
            return check_runner.command(["true"], self.folder)()
        report, said = self.run_checks([check_runner.Check("s", "slow", slow), self.shell("fast", "true")])
        self.assertEqual(report.count("pass"), 2)
        self.assertLess(said.index("fast"), said.index("slow"))

    def test_slow_ones_begin_first(self):
        """One at a time shows it: the last to begin is not the one that all wait for."""
        report, said = self.run_checks([self.shell("fast", "true"), self.shell("long", "true", is_slow=True),
                                        self.shell("alone", "true", is_alone=True)], jobs=1)
        self.assertEqual(re.findall(r"pass +(\w+)", said), ["alone", "long", "fast"])
        self.assertEqual(report.count("pass"), 3)

    def test_a_check_that_raises_fails(self):
        def broken():
            raise OSError("it broke")
        report, _ = self.run_checks([check_runner.Check("s", "x", broken)])
        self.assertEqual(report.totals(), "0 passed, 1 failed, 0 skipped")

    def test_nothing_runs_beside_one_that_is_alone(self):
        script = "mkdir busy && sleep 0.2 && rmdir busy"
        report, _ = self.run_checks([self.shell("a", script, is_alone=True),
                                     self.shell("b", script, is_alone=True),
                                     self.shell("c", "test ! -e busy")])
        self.assertEqual(report.count("pass"), 3)

    def test_two_run_at_a_time(self):
        wait = "touch {0}; for i in $(seq 100); do [ -e {1} ] && exit 0; sleep 0.1; done; exit 1"
        report, _ = self.run_checks([self.shell("a", wait.format("a", "b")),
                                     self.shell("b", wait.format("b", "a"))])
        self.assertEqual(report.count("pass"), 2)

    def test_what_ci_is_for_may_not_skip_there(self):
        for suite in check_report.MAY_NOT_SKIP:
            there = [self.shell("x", "echo no root; exit 77", suite=suite)]
            self.assertEqual(self.run_checks(there, is_ci=True)[0].count("fail"), 1)
            self.assertEqual(self.run_checks(there, is_ci=False)[0].count("skip"), 1)

    def test_junit_has_every_result(self):
        report, _ = self.run_checks([
            self.shell("good", "exit 0"), self.shell("bad", "printf '<\\033&'; exit 1", suite="t"),
            self.shell("none", "exit 77")])
        report.write_junit(self.folder / "out.xml")
        top = ElementTree.parse(self.folder / "out.xml").getroot()
        suites = {suite.get("name"): suite for suite in top}
        self.assertEqual({name: (s.get("tests"), s.get("failures"), s.get("skipped"))
                          for name, s in suites.items()},
                         {"s": ("2", "0", "1"), "t": ("1", "1", "0")})
        self.assertEqual(suites["t"].find("testcase/failure").text, "<?&")


# A whole run, in a process of its own, with suites of ours in the place of the tree's.
INTERRUPTED = """
import sys
sys.path.insert(0, {tools!r})
import check_plan, check_runner, checks, packages
def shell(name, script):
    return check_plan.command("s", name, ["sh", "-c", script])
def phases():
    yield [shell("done", "true")]
    yield [shell("runs", "sleep 60"), shell("waits", "sleep 60"), shell("too", "sleep 60")]
class Plan:
    suites, clients = [], []
    def __init__(self, offline):
        pass
    def select(self, words, tier):
        return [check_plan.Suite("s", "", phases, lambda: ["done", "runs", "waits", "too"])]
check_plan.Plan = Plan
checks.prepare = lambda report, runner, suites: True
checks.LOGS = __import__("pathlib").Path({logs!r})
sys.exit(checks.main(["--jobs", "2"]))
"""


class Signals(unittest.TestCase):
    def interrupted(self, number):
        with tempfile.TemporaryDirectory() as logs:
            script = INTERRUPTED.format(tools=str(TREE / "tools"), logs=logs)
            child = subprocess.Popen([sys.executable, "-c", script], text=True,
                                     stdout=subprocess.PIPE)
            said = ""
            while "pass  done" not in said:
                line = child.stdout.readline()
                self.assertTrue(line, said)
                said += line
            time.sleep(0.2)
            child.send_signal(number)
            start = time.monotonic()
            said += child.stdout.read()
            child.stdout.close()
            self.assertLess(time.monotonic() - start, 30)
            return child.wait(), said

    def test_a_signal_ends_the_run_and_says_what_is_not_done(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            status, said = self.interrupted(number)
            self.assertEqual(status, 128 + number)
            rest = said.partition(f"interrupted by {number.name}; not done:\n")[2].split()
            self.assertEqual(rest[:3], ["runs", "waits", "too"])
            self.assertTrue(said.endswith("1 passed, 0 failed, 0 skipped\n"), said)


class Packages(unittest.TestCase):
    def test_without_the_privilege_nothing_is_installed(self):
        if os.getuid() == 0:
            self.skipTest("root may install")
        before, packages.shutil.which = packages.shutil.which, lambda name: None
        try:
            self.assertEqual(packages.install(["x"]).result, "skip")
        finally:
            packages.shutil.which = before


class Folders(unittest.TestCase):
    def test_a_folder_is_set_up_anew_for_other_options(self):
        with tempfile.TemporaryDirectory() as name:
            tree = pathlib.Path(name)
            folder = tree / "build-x"
            (tree / "meson.build").write_text("project('x')\n")

            def set_up(*options):
                """Whether there was something to do."""
                argv = meson_tests.configure_command(tree, folder, options)
                if argv:
                    subprocess.run(argv, cwd=tree, check=True, stdout=subprocess.DEVNULL)
                return bool(argv)

            self.assertTrue(set_up("-Doptimization=0"))
            self.assertFalse(set_up("-Doptimization=0"))
            for options in (["-Doptimization=1"], ["-Doptimization=1", "-Dc_args=-DA=1"]):
                self.assertTrue(set_up(*options), options)
                self.assertFalse(set_up(*options), options)
            os.utime(folder / "build.ninja", (0, 0))
            self.assertTrue(set_up("-Doptimization=1"))


@unittest.skipUnless(shutil.which("cpio"), "no cpio")
class Roots(unittest.TestCase):
    def test_a_root_gets_the_tree_as_it_is(self):
        """Also where a file is changed, or deleted, whether git knows that or not."""
        with tempfile.TemporaryDirectory() as name:
            tree, root = pathlib.Path(name) / "tree", pathlib.Path(name) / "root"
            (tree / "folder").mkdir(parents=True)
            (root / "etc").mkdir(parents=True)
            for file in ("kept", "folder/deleted", "gone"):
                (tree / file).write_text("old")
            for words in (["init", "-q"], ["add", "."]):
                subprocess.run(["git", *words], cwd=tree, check=True)
            with unittest.mock.patch.object(distributions, "TREE", tree):
                distributions.copy_tree(root)
                self.assertEqual((root / "quire/folder/deleted").read_text(), "old")
                (tree / "folder/deleted").unlink()
                (tree / "kept").write_text("new")
                subprocess.run(["git", "rm", "-q", "-f", "gone"], cwd=tree, check=True)
                (root / "quire/build").mkdir()
                (root / "quire/build/built").write_text("earlier")
                distributions.copy_tree(root)
            self.assertEqual(sorted(path.name for path in (root / "quire").rglob("*")
                                    if path.is_file()), ["built", "kept"])
            self.assertEqual((root / "quire/kept").read_text(), "new")


if __name__ == "__main__":
    unittest.main()
