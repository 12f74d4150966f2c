#!/usr/bin/env python3
"""Tests of `quire run --stats --trace`: valid files with KVM's names, at the end and on SIGUSR2.

usage: test_report.py QUIRE CLIENT
"""
import ctypes
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import looking

QUIRE, CLIENT = sys.argv[1:3]
DEADLINE_S = 30
PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24
FIRST_RING = 64  # in a file of frontend/report/report.h

# As in client.c.
GPA, PAGES, NOWHERE = 0x10000000, 64, 0x20000000
GFN = GPA >> 12

# KVM's trace points: group and fields.
EVENTS = {
    "kvm_mmu_split_huge_page": ("kvmmmu", "gfn spte level errno"),
    "kvm_tdp_mmu_spte_changed": ("kvmmmu", "gfn old_spte new_spte level as_id"),
    "fast_page_fault": ("kvmmmu", "vcpu_id cr2_or_gpa error_code sptep old_spte new_spte ret"),
    "kvm_mmu_set_spte": ("kvmmmu", "gfn spte sptep level r x u"),
    "kvm_mmu_spte_requested": ("kvmmmu", "gfn pfn level access"),
    "mark_mmio_spte": ("kvmmmu", "sptep gfn access gen"),
    "handle_mmio_page_fault": ("kvmmmu", "addr gfn access"),
    "check_mmio_spte": ("kvmmmu", "kvm_gen spte_gen spte"),
    "kvm_mmu_pagetable_walk": ("kvmmmu", "addr pferr"),
    "kvm_mmu_paging_element": ("kvmmmu", "pte level"),
    "kvm_mmu_set_accessed_bit": ("kvmmmu", "gpa"),
    "kvm_mmu_set_dirty_bit": ("kvmmmu", "gpa"),
    "kvm_mmu_walker_error": ("kvmmmu", "pferr"),
    "kvm_age_hva": ("kvm", "start end"),
    "kvm_test_age_hva": ("kvm", "hva"),
    "kvm_mmu_get_page": ("kvmmmu", "mmu_valid_gen gfn role root_count unsync created"),
    "kvm_mmu_sync_page": ("kvmmmu", "mmu_valid_gen gfn role root_count unsync"),
    "kvm_mmu_unsync_page": ("kvmmmu", "mmu_valid_gen gfn role root_count unsync"),
    "kvm_mmu_prepare_zap_page": ("kvmmmu", "mmu_valid_gen gfn role root_count unsync"),
    "kvm_mmu_zap_all_fast": ("kvmmmu", "mmu_valid_gen mmu_used_pages"),
    "kvm_page_fault": ("kvm", "vcpu_id guest_rip fault_address error_code"),
    "kvm_unmap_hva_range": ("kvm", "start end"),
    "kvm_vm_set_mem_attributes": ("kvm", "start end attr"),
    "kvm_dirty_ring_push": ("kvm", "index dirty_index reset_index slot offset"),
    "kvm_dirty_ring_reset": ("kvm", "index dirty_index reset_index"),
    "kvm_dirty_ring_exit": ("kvm", "vcpu_id"),
    "kvm_userspace_exit": ("kvm", "reason errno"),
    "kvm_mmio": ("kvm", "type len gpa val"),
    "kvm_pio": ("kvm", "rw port size count val"),
    "kvm_entry": ("kvm", "vcpu_id rip immediate_exit intr_info error_code"),
    "kvm_exit": ("kvm", "exit_reason guest_rip isa info1 info2 intr_info error_code vcpu_id "
                        "requests"),
    "kvm_smm_transition": ("kvm", "vcpu_id smbase entering"),
}
VM_STATS = {"remote_tlb_flush", "remote_tlb_flush_requests", "mmu_shadow_zapped", "mmu_pte_write",
            "mmu_flooded", "mmu_recycled", "mmu_cache_miss", "mmu_unsync", "pages_4k", "pages_2m",
            "pages_1g", "nx_lpage_splits", "max_mmu_rmap_size", "max_mmu_page_hash_collisions"}
VCPU_STATS = {"pf_taken", "pf_fixed", "pf_emulate", "pf_spurious", "pf_fast",
              "pf_mmio_spte_created", "pf_guest", "tlb_flush", "invlpg", "exits", "io_exits",
              "mmio_exits", "signal_exits", "irq_window_exits", "halt_exits", "request_irq_exits",
              "insn_emulation", "insn_emulation_fail", "hypercalls", "irq_injections",
              "quire_interpreted", "quire_translated", "quire_units", "quire_compares"}

# Of each event that the client causes, what the kernel's format makes.
BODIES = {
    "kvm_entry": r"vcpu 0, rip 0x[0-9a-f]+ intr_info 0x0{8} error_code 0x0{8}",
    "kvm_exit": r"vcpu 0 reason (io|npf|hlt|interrupt) rip 0x[0-9a-f]+ info1 0x[0-9a-f]{16} "
                r"info2 0x[0-9a-f]{16} intr_info 0x0{8} error_code 0x0{8} requests 0x0{16}",
    "kvm_page_fault": r"vcpu 0 rip 0x[0-9a-f]+ address 0x[0-9a-f]{16} error_code 0x[0-9a-f]+",
    "kvm_mmio": rf"mmio write len [1248] gpa {NOWHERE:#x} val 0x[0-9a-f]+",
    "kvm_pio": r"pio_write at 0x[0-9a-f]+ size [124] count 1 val 0x[0-9a-f]+ ",
    "kvm_userspace_exit": r"reason (KVM_EXIT_(IO|MMIO|HLT)|restart|error) \(\d+\)",
    "kvm_mmu_set_spte": r"gfn [0-9a-f]+ spte [0-9a-f]+ \([r-][w-][x-]u\) level [123] at [0-9a-f]+",
    "fast_page_fault": r"vcpu 0 gva [0-9a-f]+ error_code [PWU|0-9a-fx]+ sptep \S+ old 0x[0-9a-f]+ "
                       r"new [0-9a-f]+ spurious 0 fixed 1",
}

DAT_LINE = re.compile(r" *(\S.{0,15})-(\d+) +\[(\d{3})\] +(?:\S{5} +)?(\d+\.\d{6}): (\w+): +(.*)")
LINE = re.compile(r" *(\S.{0,15})-(\d+) +\[(\d{3})\] \S{5} +(\d+\.\d{6}): (\w+): (.*)")


class Run:
    """A run of the client that stands still until it is told to go on."""

    def __init__(self, directory, *options):
        self.stats = os.path.join(directory, "stats.json")
        self.trace = os.path.join(directory, "trace.txt")
        self.process = subprocess.Popen(
            [QUIRE, "run", "--stats", self.stats, "--trace", self.trace, *options, "--", CLIENT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_ready(self):
        assert self.process.stdout.readline() == "ready\n"

    def ask(self):
        """Have the reports written now; True once they are whole."""
        self.process.send_signal(signal.SIGUSR2)
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            try:
                with open(self.stats) as stats, open(self.trace + ".json") as trace:
                    json.load(stats)
                    json.load(trace)
                return True
            except (OSError, ValueError):
                time.sleep(0.02)
        return False

    def end(self):
        self.process.communicate("\n", timeout=DEADLINE_S)
        return self.process.returncode

    def read_stats(self):
        with open(self.stats) as file:
            return json.load(file)

    def read_timeline(self):
        with open(self.trace + ".json") as file:
            return json.load(file)["traceEvents"]

    def read_events(self):
        return [event for event in self.read_timeline() if event.get("cat") in ("kvm", "kvmmmu")]

    def read_dat(self):
        """What trace-cmd makes of it: the number of processors, then a line an event."""
        done = subprocess.run(["trace-cmd", "report", "-N", "-i", self.trace + ".dat"], check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return done.stdout.splitlines()

    def read_lines(self):
        with open(self.trace) as file:
            return [line.rstrip("\n") for line in file if not line.startswith("#")]


def events_of(events, name):
    return [event["args"] for event in events if event["name"] == name]


def pages_of(args, field="gfn"):
    """The client's gfns among those in @field, each as often as it is there."""
    gfns = (int(one[field], 16) for one in args)
    return sorted(gfn - GFN for gfn in gfns if GFN <= gfn < GFN + PAGES)


class ReportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as directory:
            run = Run(directory)
            run.wait_ready()
            cls.asked = run.ask()
            cls.early_stats = run.read_stats()
            cls.early_events = run.read_events()
            cls.status = run.end()
            cls.stats = run.read_stats()
            cls.events = run.read_events()
            cls.timeline = run.read_timeline()
            cls.lines = run.read_lines()
            cls.dat = run.read_dat()

    def test_shadow_pages_tell_of_their_entries_too(self):
        with tempfile.TemporaryDirectory() as directory:
            run = Run(directory, "--param", "kvm.tdp_mmu=N")
            run.wait_ready()
            self.assertTrue(run.ask())
            events = run.read_events()
            self.assertEqual(run.end(), 0)
        each = list(range(PAGES))
        self.assertEqual(pages_of(events_of(events, "kvm_mmu_set_spte")), each)
        self.assertEqual(pages_of(events_of(events, "kvm_mmu_spte_requested")), each)

    def one_vm(self, stats):
        self.assertEqual(len(stats["processes"]), 1)
        self.assertIsInstance(stats["processes"][0]["pid"], int)
        self.assertEqual(len(stats["processes"][0]["vms"]), 1)
        return stats["processes"][0]["vms"][0]

    def test_signal_does_not_reach_the_program(self):
        self.assertTrue(self.asked)
        self.assertEqual(self.status, 0)

    def test_statistics_have_kvms_names(self):
        for stats in (self.early_stats, self.stats):
            vm = self.one_vm(stats)
            self.assertEqual(VM_STATS - set(vm["stats"]), set())
            self.assertEqual(len(vm["vcpus"]), 1)
            self.assertEqual(VCPU_STATS - set(vm["vcpus"][0]["stats"]), set())

    def test_statistics_are_those_of_the_moment(self):
        early, late = self.one_vm(self.early_stats), self.one_vm(self.stats)
        self.assertGreaterEqual(early["stats"]["pages_4k"], PAGES)
        early, late = early["vcpus"][0]["stats"], late["vcpus"][0]["stats"]
        self.assertGreaterEqual(early["pf_fixed"], PAGES)
        self.assertEqual(early["pf_fast"], 0)
        self.assertEqual(late["pf_fast"], PAGES)
        self.assertEqual(early["mmio_exits"], 1)
        self.assertGreater(late["exits"], early["exits"])
        self.assertGreater(early["quire_interpreted"] + early["quire_translated"], PAGES)
        self.assertGreater(late["quire_interpreted"] + late["quire_translated"],
                           early["quire_interpreted"] + early["quire_translated"])

    def test_events_have_kvms_names_and_fields(self):
        self.assertTrue(self.events)
        for event in self.events:
            group, fields = EVENTS[event["name"]]
            self.assertEqual(event["cat"], group)
            self.assertEqual(" ".join(event["args"]), fields)
            self.assertEqual((event["ph"], event["s"]), ("i", "t"))
            self.assertIsInstance(event["pid"], int)
            self.assertIsInstance(event["tid"], int)
        times = [event["ts"] for event in self.events]
        self.assertEqual(times, sorted(times))

    def test_text_is_the_same_as_json(self):
        self.assertEqual(len(self.lines), len(self.events))
        for line, event in zip(self.lines, self.events):
            match = LINE.fullmatch(line)
            self.assertIsNotNone(match, line)
            self.assertEqual(int(match[2]), event["tid"])
            self.assertAlmostEqual(float(match[4]) * 1e6, event["ts"], delta=2)
            self.assertEqual(match[5], event["name"])

    def test_trace_cmd_reads_and_prints_the_same(self):
        self.assertTrue(self.dat[0].startswith("cpus="))
        self.assertEqual(len(self.dat) - 1, len(self.lines))
        for line, other in zip(self.lines, self.dat[1:]):
            mine, its = LINE.fullmatch(line), DAT_LINE.fullmatch(other)
            self.assertIsNotNone(its, other)
            for field in (1, 2, 3, 4, 5):
                self.assertEqual(mine[field].strip(), its[field].strip())
            # trace-cmd takes an errno below zero for a large number.
            if not re.match(r"reason (restart|error) ", mine[6]):
                self.assertEqual(mine[6].split(), its[6].split())

    def test_bodies_are_as_the_kernel_prints_them(self):
        bodies = {}
        for line in self.lines:
            bodies.setdefault(LINE.fullmatch(line)[5], []).append(LINE.fullmatch(line)[6])
        for name, pattern in BODIES.items():
            for body in bodies[name]:
                self.assertRegex(body, f"^{pattern}$")

    def test_timeline_has_slices_names_and_counters(self):
        kinds = {}
        for event in self.timeline:
            kinds.setdefault((event["ph"], event["name"]), []).append(event)
        self.assertEqual([one["args"]["name"] for one in kinds["M", "thread_name"]], ["vCPU 0"])
        self.assertEqual(len(kinds["M", "process_name"]), 1)
        guest = kinds["X", "guest"]
        self.assertEqual(len(guest), len(events_of(self.events, "kvm_exit")))
        for one in guest:
            self.assertGreaterEqual(one["dur"], 0)
        self.assertTrue(kinds["X", "io"])
        # Of all mapped pages the statistics know as many.
        pages = kinds["C", "mapped pages"][-1]["args"]
        stats = self.one_vm(self.stats)["stats"]
        if stats["pages_4k"]:
            self.assertEqual(pages["4K"], stats["pages_4k"])

    def test_timeline_counts_dirty_pages(self):
        """Writable pages: the last value is what the events come to, and a harvest took them all."""
        writable, course = {}, []
        for one in events_of(self.events, "kvm_tdp_mmu_spte_changed"):
            new = int(one["new_spte"], 16)
            leaf = new & 1 and not new >> 51 & 1 and (one["level"] == 1 or new & 0x80)
            if one["level"] > 1 and not leaf:
                continue
            writable[int(one["gfn"], 16), one["level"]] = bool(leaf and new & 2)
            course.append(sum(value for (gfn, level), value in writable.items()
                              if level == 1 and GFN <= gfn < GFN + PAGES))
        values = [one["args"]["pages"] for one in self.timeline
                  if one["ph"] == "C" and one["name"].startswith("writable pages")]
        self.assertEqual(values[-1], sum(value * 512 ** (level - 1)
                                         for (_, level), value in writable.items()))
        self.assertEqual(course[-1], PAGES)
        self.assertIn(0, course[course.index(PAGES):])

    def test_each_fault_is_there(self):
        each = list(range(PAGES))
        self.assertEqual(pages_of(events_of(self.early_events, "kvm_mmu_set_spte")), each)
        self.assertEqual(pages_of(events_of(self.early_events, "kvm_mmu_spte_requested")), each)
        self.assertEqual(events_of(self.early_events, "fast_page_fault"), [])
        fast = events_of(self.events, "fast_page_fault")
        self.assertEqual(sorted(int(one["cr2_or_gpa"], 16) >> 12 for one in fast),
                         [GFN + page for page in each])
        for one in fast:
            self.assertTrue(int(one["new_spte"], 16) & ~int(one["old_spte"], 16))
        # Installed, W taken away by the harvest, and given back.
        changed = events_of(self.events, "kvm_tdp_mmu_spte_changed")
        leaves = [one for one in changed if one["level"] == 1]
        self.assertEqual(pages_of(leaves), sorted(each * 3))

    def test_exits_are_there(self):
        writes = [one for one in events_of(self.events, "kvm_mmio") if one["type"] == 2]
        self.assertEqual([int(one["gpa"], 16) for one in writes], [NOWHERE])
        marked = events_of(self.events, "mark_mmio_spte")
        self.assertIn(NOWHERE >> 12, [int(one["gfn"], 16) for one in marked])
        for name in ("kvm_entry", "kvm_exit", "kvm_pio", "kvm_userspace_exit", "kvm_page_fault"):
            self.assertTrue(events_of(self.events, name), name)


class ProcessesTest(unittest.TestCase):
    """Programs that do not end as programs should, and files that cannot be written."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.stats = os.path.join(self.directory.name, "stats.json")
        self.trace = os.path.join(self.directory.name, "trace.json")

    def run_client(self, *arguments, before=(), **options):
        command = [*before, QUIRE, "run", "--stats", self.stats, "--trace", self.trace, "--",
                   *arguments]
        return subprocess.run(command, timeout=DEADLINE_S, capture_output=True, text=True,
                              check=False, **options)

    def vms(self):
        with open(self.stats) as file:
            processes = json.load(file)["processes"]
        with open(self.trace) as file:
            self.assertTrue(json.load(file)["traceEvents"])
        return [(process["pid"], vm) for process in processes for vm in process["vms"]]

    def check_vms(self, count, pids):
        vms = self.vms()
        self.assertEqual(len(vms), count)
        self.assertEqual(len({pid for pid, _ in vms}), pids)
        for _, vm in vms:
            self.assertGreaterEqual(vm["vcpus"][0]["stats"]["pf_fixed"], PAGES)

    def test_exec_keeps_what_was_before(self):
        self.assertEqual(self.run_client(CLIENT, "exec").returncode, 0)
        self.check_vms(2, 1)

    def test_child_has_statistics_of_its_own(self):
        self.assertEqual(self.run_client(CLIENT, "fork").returncode, 0)
        self.check_vms(2, 2)

    def test_killed_program(self):
        self.assertEqual(self.run_client(CLIENT, "kill").returncode, -signal.SIGKILL)
        self.check_vms(1, 1)
        self.assertEqual(self.vms()[0][1]["state"], "alive")

    def test_caller_that_ignores_its_children(self):
        def ignore():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        self.assertEqual(self.run_client("sh", "-c", "sleep 0.2; exit 7",
                                         preexec_fn=ignore).returncode, 7)

    def test_file_that_cannot_be_written(self):
        marker = os.path.join(self.directory.name, "marker")
        for name in ("stats", "trace"):
            before = getattr(self, name)
            setattr(self, name, "/nonexistent/file")
            run = self.run_client("touch", marker)
            self.assertEqual(run.returncode, 2)
            self.assertIn("/nonexistent/file", run.stderr)
            self.assertFalse(os.path.exists(marker))
            setattr(self, name, before)

    def wait_for_trace(self, command):
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end and command.poll() is None:
            try:
                with open(self.trace) as file:
                    return json.load(file)
            except (OSError, ValueError):
                time.sleep(0.02)
        self.fail(f"the command's status is {command.poll()}")

    def test_program_that_writes_to_its_trace(self):
        """The command takes no number from there that leads it elsewhere."""
        with looking.Run(QUIRE, CLIENT, options=["--stats", self.stats, "--trace", self.trace]) as client:
            (path,) = client.files("trace")
            # The process, a flag, how many rings there are; how many events the first of them had.
            with open(path, "r+b", buffering=0) as file:
                head = file.read(FIRST_RING + 8)
                file.seek(0)
                file.write(struct.pack("<III", client.pid, 0, 0xffffffff))
                file.seek(FIRST_RING)
                file.write(struct.pack("<Q", 1 << 30))
                client.command.send_signal(signal.SIGUSR2)
                self.wait_for_trace(client.command)
                file.seek(0)
                file.write(head)
        self.assertEqual(client.status, 0)
        self.assertEqual(len(self.vms()), 1)

    def test_no_room_for_the_records(self):
        cut = 0
        for size_kib in range(160, 416, 32):
            room = ["unshare", "-rm", "sh", "-c",
                    f"mount -t tmpfs -o size={size_kib}k none /dev/shm && exec \"$@\"", "sh"]
            if subprocess.run([*room, "true"], check=False, capture_output=True).returncode:
                self.skipTest("no mounts here")
            run = self.run_client(CLIENT, "quietly", before=room)
            if run.returncode == 126:
                continue
            self.assertEqual(run.returncode, 0, run.stderr)
            cut += "no room for all events" in run.stderr
            for path in (self.stats, self.trace):
                with open(path) as file:
                    json.load(file)
        self.assertGreater(cut, 0)


class Limits(unittest.TestCase):
    def test_file_size(self):
        """Under `ulimit -f` the command says what it could not write, and ends as the program did."""
        with tempfile.TemporaryDirectory() as folder:
            page = os.path.join(folder, "run.html")
            done = subprocess.run(
                ["bash", "-c", 'ulimit -f 1 && exec "$@"', "bash", QUIRE, "run", "--report", page, "--",
                 "sh", "-c", "head -c 4096 /dev/zero > \"$0\"; echo $?; exit 7",
                 os.path.join(folder, "large")],
                text=True, timeout=DEADLINE_S, check=False, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE)
        # The program has the signal as it was.
        self.assertEqual((done.returncode, done.stdout), (7, f"{128 + signal.SIGXFSZ}\n"))
        self.assertIn(f"quire run: {page}: File too large; a higher limit on files (ulimit -f)",
                      done.stderr)

    @staticmethod
    def limit_files():
        """8 MiB, which only CAP_SYS_RESOURCE could raise."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)

    def test_small_files(self):
        """A limit below what a process would like leaves statistics and a trace of all its threads."""
        with tempfile.TemporaryDirectory() as folder:
            stats, trace = os.path.join(folder, "stats.json"), os.path.join(folder, "trace.txt")
            done = subprocess.run([QUIRE, "run", "--stats", stats, "--trace", trace, "--", CLIENT],
                                  input="\n", text=True, timeout=DEADLINE_S, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  preexec_fn=self.limit_files)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(stats) as file:
                processes = json.load(file)["processes"]
            with open(trace) as file:
                text = file.read()
        self.assertIn("vms", processes[0])
        self.assertIn(": kvm_exit: ", text)


class Choice(unittest.TestCase):
    """--trace-filter and --trace-size."""

    def trace(self, *options, client=()):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.txt")
            done = subprocess.run([QUIRE, "run", "--trace", path, *options, "--", CLIENT, *client],
                                  input="\n", text=True, timeout=DEADLINE_S, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  preexec_fn=self.take_last_processor)
            if done.returncode:
                return done.returncode, done.stderr
            with open(path) as file:
                text = file.read()
            with open(path + ".json") as file:
                self.json = file.read()
            self.dat = subprocess.run(["trace-cmd", "report", "-i", path + ".dat"], check=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout
        return text, [LINE.fullmatch(line).group(5) for line in text.splitlines()
                      if not line.startswith("#")]

    @staticmethod
    def take_last_processor():
        """trace.dat has an area for each processor, and the first ones are empty then."""
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    def test_filter(self):
        _, every = self.trace()
        _, some = self.trace("--trace-filter", "kvm_e*,kvm_mmio")
        self.assertEqual(set(some), {"kvm_entry", "kvm_exit", "kvm_mmio"})
        for name in set(some):
            self.assertEqual(some.count(name), every.count(name), name)
        self.assertGreater(len(set(every)), len(set(some)))
        code, said = self.trace("--trace-filter", "kvm_exit,none")
        self.assertEqual(code, 2)
        self.assertIn("'none'", said)

    def test_a_ring_a_thread(self):
        """A thread with many events does not take the place of another's few."""
        text, kept = self.trace("--trace-size", "2048", client=["thread"])
        lines = [LINE.fullmatch(line) for line in text.splitlines() if not line.startswith("#")]
        first, busy = dict.fromkeys(line.group(2) for line in lines)
        self.assertEqual(sum(line.group(2) == busy for line in lines), 2048)
        mapped = [line.group(6) for line in lines
                  if (line.group(2), line.group(5)) == (first, "kvm_mmu_set_spte")]
        gfns = [int(re.match(r"gfn ([0-9a-f]+) ", body).group(1), 16) for body in mapped]
        self.assertEqual(sorted(gfn - GFN for gfn in gfns if GFN <= gfn < GFN + PAGES),
                         list(range(PAGES)))
        self.assertGreater(kept.count("kvm_mmio"), 100)

    def test_more_threads_than_rings(self):
        text, _ = self.trace(client=["threads"])
        lines = [LINE.fullmatch(line) for line in text.splitlines() if not line.startswith("#")]
        stores = [line.group(2) for line in lines if line.group(5) == "kvm_mmio"]
        self.assertEqual((len(stores), len(set(stores))), (40, 40))

    def test_size(self):
        """The newest stay, and the head says how many there were."""
        text, kept = self.trace("--trace-size", "100", client=["much"])
        self.assertEqual(len(kept), 2048)
        written = int(re.search(r"entries-written: 2048/(\d+)", text).group(1))
        self.assertGreater(written, 2048)
        lost = [event for event in json.loads(self.json)["traceEvents"]
                if event["name"] == "lost events"]
        self.assertEqual([event["args"]["count"] for event in lost], [written - 2048])
        self.assertEqual(re.findall(r"\[(\d+) EVENTS DROPPED\]", self.dat), [str(written - 2048)])
        for size in ("0", "x", "-1", "99999999999"):
            self.assertEqual(self.trace("--trace-size", size)[0], 2, size)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
