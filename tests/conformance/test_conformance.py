"""Tests of the conformance harness itself, with small scripts in place of the kernel's programs."""
import contextlib
import os
import pathlib
import re
import sys
import tempfile
import time
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import conformance  # noqa: E402
import conformance_doc  # noqa: E402
import hide_kvm  # noqa: E402
import hugepages  # noqa: E402
import selftests  # noqa: E402


class Programs(unittest.TestCase):
    """Runs scripts through a stand-in for quire that only starts what stands behind 'run --'."""

    def setUp(self):
        self.keep = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.keep.name)
        self.script("quire", 'test "$1" = run || exit 99\nshift\n'
                             'test "$1" = --param && { P=$2; export P; shift 2; }\n'
                             'test "$1" = -- || exit 99\nshift\nexec "$@"')

    def tearDown(self):
        self.keep.cleanup()

    def script(self, name, text):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + text + "\n")
        path.chmod(0o755)
        return path

    def run_script(self, text, limit=20, args=()):
        self.script("program", text)
        return conformance.run_one(self.folder / "quire", self.folder, ["program", *args], limit)

    def test_exit_0_passes(self):
        entry = self.run_script('test "$1" = -x && echo done', args=("-x",))
        self.assertEqual((entry["result"], entry["reason"]), ("pass", ""))

    def test_parameters_go_in_front(self):
        self.script("program", 'test "$P $1" = "kvm.a=1 -x"')
        entry = conformance.run_one(self.folder / "quire", self.folder,
                                    ["kvm.a=1", "program", "-x"], 20)
        self.assertEqual(entry["result"], "pass")
        self.assertEqual(conformance_doc.title(entry), "kvm.a=1 program -x")

    def test_a_shim_stands_before_the_library_of_the_run(self):
        self.script("program", 'case $LD_PRELOAD in "$D/tests/conformance/libin_place.so run.so");; '
                               '*) exit 1;; esac\ntest "$P $1" = "kvm.a=1 -x"')
        os.environ.update(LD_PRELOAD="run.so", D=str(self.folder))
        try:
            entry = conformance.run_one(self.folder / "quire", self.folder,
                                        ["kvm.a=1", "--in-place", "program", "-x"], 20)
        finally:
            del os.environ["LD_PRELOAD"], os.environ["D"]
        self.assertEqual(entry["result"], "pass", entry["reason"])
        self.assertEqual(conformance_doc.title(entry), "kvm.a=1 --in-place program -x")

    def test_lockstep_leaves_out_what_it_cannot_hold_and_nothing_else(self):
        names = [[" ".join(words) for words in conformance.select(conformance.parse(argv), self.folder)]
                 for argv in ([], ["--param", conformance.LOCKSTEP])]
        self.assertEqual(names[0], list(conformance.CI_PROGRAMS))
        self.assertEqual(set(names[0]) - set(names[1]), set(conformance.NOT_IN_LOCKSTEP))

    def test_exit_4_skips_with_the_programs_reason(self):
        entry = self.run_script('echo TAP; echo "1..0 # SKIP - Requirement not met: X"; exit 4')
        self.assertEqual((entry["result"], entry["reason"]), ("skip", "Requirement not met: X"))

    def test_exit_254_fails_with_its_last_lines(self):
        entry = self.run_script("echo one; echo; echo two >&2; exit 254")
        self.assertEqual((entry["result"], entry["reason"]), ("fail", "exit 254; one / two"))

    def test_a_stack_is_left_out_of_the_reason(self):
        entry = self.run_script("printf '  a.c:3: x == y\\n  pid=3 tid=3 errno=0\\n"
                                "     1\\t0x00402eb0: main at a.c:3\\n     2\\t (inlined by) f\\n  said so\\n'; exit 254")
        self.assertEqual(entry["reason"], "exit 254; a.c:3: x == y / said so")

    def test_a_signal_fails_by_name(self):
        entry = self.run_script("kill -SEGV $$")
        self.assertEqual(entry["result"], "fail")
        self.assertIn("SIGSEGV", entry["reason"])

    def test_exit_0_without_work_fails(self):
        for line in ("No full loops done - too short test time or system too loaded?",
                     "Memslot count too high for this test, decrease the cap (max is 3)",
                     "No slots left"):
            entry = self.run_script(f'echo start; echo "{line}"')
            self.assertEqual(entry["result"], "fail", line)
            self.assertIn(line[:20], entry["reason"])

    def test_exit_0_with_a_part_left_out_passes_and_says_so(self):
        entry = self.run_script("echo 'Memslot count too high for this test'; "
                                "echo 'Done 3 iterations, avg 1s each'")
        self.assertEqual((entry["result"], entry["reason"]),
                         ("pass", "in part: Memslot count too high for this test"))

    def wait_for_the_end(self, mark):
        child = pathlib.Path("/proc") / mark.read_text().strip() / "stat"
        deadline = time.monotonic() + 60
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            while child.read_text().rpartition(")")[2].split()[0] not in "ZX":
                self.assertLess(time.monotonic(), deadline, "the child outlived its program")
                time.sleep(0.01)

    def test_the_limit_ends_a_program_and_its_children(self):
        mark, limit = self.folder / "child", 0.5
        start = time.monotonic()
        entry = self.run_script(f"sleep 600 & echo $! >{mark}; echo busy; wait", limit=limit)
        # A slow machine needs longer to come to the last command.
        while limit < 60 and not entry["reason"].endswith("busy"):
            limit *= 4
            entry = self.run_script(f"sleep 600 & echo $! >{mark}; echo busy; wait", limit=limit)
        self.assertLess(time.monotonic() - start, 300)
        self.assertEqual((entry["result"], entry["reason"]), ("fail", f"no end within {limit} s; busy"))
        self.wait_for_the_end(mark)

    def test_children_left_behind_end_too(self):
        mark = self.folder / "child"
        entry = self.run_script(f"sleep 600 >/dev/null 2>&1 & echo $! >{mark}")
        self.assertEqual(entry["result"], "pass")
        self.wait_for_the_end(mark)

    def test_the_list_has_scripts_and_not_their_helpers(self):
        for name in ("a_test", "x86/b_test", "x86/c_test", "x86/c_test.sh", "x86/d.so"):
            self.script(name, "exit 0")
        (self.folder / "e_test.c").write_text("")
        names = selftests.programs(self.folder)
        self.assertEqual([n for n in names if n != "quire"],
                         ["a_test", "x86/b_test", "x86/c_test.sh"])
        self.assertEqual(conformance.find_program(self.folder, "b_test"), "x86/b_test")
        with self.assertRaises(selftests.Unavailable):
            conformance.find_program(self.folder, "f_test")


class Choice(unittest.TestCase):
    def test_the_wanted_package_or_the_nearest_newer(self):
        pick = selftests.nearest_package
        self.assertEqual(pick(["linux-source-7.3", "linux-source-7.4"]), "linux-source-7.3")
        self.assertEqual(pick(["linux-source-6.12", "linux-source-7.12", "linux-source-7.4"]),
                         "linux-source-7.4")
        with self.assertRaises(selftests.Unavailable):
            pick(["linux-source-6.12", "linux-source"])


class Document(unittest.TestCase):
    REPORT = {"kernel": "7.3.4", "programs": [
        {"program": "a", "args": [], "result": "pass", "reason": "", "seconds": 1.0},
        {"program": "x86/b", "args": [], "result": "skip", "reason": "no | here", "seconds": 1.0}]}

    def test_what_is_written_is_read_back(self):
        text = conformance_doc.render(self.REPORT, 60)
        self.assertEqual(conformance_doc.read(text), {"a": "pass", "x86/b": "skip"})
        self.assertEqual(conformance_doc.differences(text, self.REPORT), [])

    def test_another_result_and_a_missing_row_are_found(self):
        text = conformance_doc.render(self.REPORT, 60)
        for name, result in (("a", "fail"), ("c", "pass")):
            entry = {"program": name, "args": [], "result": result, "reason": "", "seconds": 0}
            self.assertEqual(len(conformance_doc.differences(text, {"programs": [entry]})), 1)


class HugePages(unittest.TestCase):
    def test_the_memory_of_the_guest_is_counted(self):
        for words, count in (("a -b 64M", 0), ("a -b 64M -s anonymous_hugetlb_2mb", 40),
                             ("a -sshared_hugetlb -v 2 -b3M", 11),
                             ("x86/dirty_log_page_splitting_test", 1032),
                             ("x86/dirty_log_page_splitting_test -s anonymous", 0)):
            name, *args = words.split()
            self.assertEqual(hugepages.needed(name, args), count, words)

    def test_the_setting_is_put_back_and_what_is_missing_is_said(self):
        keep = hugepages.SETTING, hugepages.MEMINFO
        with tempfile.TemporaryDirectory() as folder:
            hugepages.SETTING = pathlib.Path(folder) / "setting"
            hugepages.MEMINFO = pathlib.Path(folder) / "meminfo"
            try:
                hugepages.SETTING.write_text("3")
                hugepages.MEMINFO.write_text("MemFree: 1 kB\nHugePages_Free:       2\n")
                with hugepages.reserved(10) as missing:
                    self.assertEqual((missing, hugepages.SETTING.read_text()), (8, "11"))
                self.assertEqual(hugepages.SETTING.read_text(), "3")
                with hugepages.reserved(2) as missing:
                    self.assertEqual((missing, hugepages.SETTING.read_text()), (0, "3"))
            finally:
                hugepages.SETTING, hugepages.MEMINFO = keep


class Hiding(unittest.TestCase):
    @unittest.skipUnless(os.path.exists("/dev/kvm"), "this machine has no /dev/kvm")
    def test_each_way_that_works_here_hides_it(self):
        worked = 0
        for way in hide_kvm.WAYS:
            child = os.fork()
            if child == 0:
                try:
                    hide_kvm.hide((way,))
                    os._exit(10 if hide_kvm.reachable() else 0)
                except BaseException:
                    os._exit(20)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            self.assertIn(status, (0, 20), way[0])
            worked += status == 0
        self.assertGreater(worked, 0)

    @unittest.skipUnless(os.path.exists("/dev/kvm") and os.getuid() == 0, "root, and a machine's /dev/kvm")
    def test_what_is_changed_there_is_not_the_machines(self):
        before = os.stat("/dev/kvm")
        child = os.fork()
        if child == 0:
            try:
                hide_kvm.hide(hide_kvm.WAYS[:1])
                os.utime("/dev/kvm", (1, 1))
                os._exit(0)
            except OSError:
                os._exit(20)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 20:
            self.skipTest("no mount namespace")
        self.assertEqual(os.stat("/dev/kvm"), before)


class Totals(unittest.TestCase):
    def test_last_lines_count_the_rows(self):
        """Documents whose rows were merged or mended by hand, too."""
        for name in (conformance_doc.PATH, "docs/VMMS.md"):
            text = (pathlib.Path(__file__).parents[2] / name).read_text()
            for result, said in (("passed", "pass"), ("failed", "fail"), ("skipped", "skip")):
                rows = re.findall(rf"^\| \S[^|]*? \| {said} \|", text, re.M)
                self.assertRegex(text, rf"\b{len(rows)} {result}\b", name)


class Decisions(unittest.TestCase):
    def test_each_skip_and_failure_is_decided(self):
        text = (pathlib.Path(__file__).parents[2] / conformance_doc.PATH).read_text()
        self.assertEqual(conformance_doc.undecided(text), [])
        for name, result in conformance_doc.read(text).items():
            if result != "pass":
                when, why = conformance_doc.decision(name)
                self.assertIn(f"| {name} | {when} | {why} |", text)

    def test_a_new_skip_is_noticed(self):
        for result in ("skip", "fail"):
            row = f"| x86/no_such_test | {result} | why |\n"
            self.assertEqual(conformance_doc.undecided(row), ["x86/no_such_test"])


if __name__ == "__main__":
    unittest.main()
