#!/usr/bin/env python3
"""Tests of `quire view`: the memory of a running program and of a dump, in each form.

usage: test_view.py QUIRE CLIENT
"""
import json
import os
import pathlib
import pty
import select
import signal
import sys
import tempfile
import termios
import time
import unittest
import xml.etree.ElementTree

import looking

QUIRE, CLIENT = sys.argv[1:3]
# As in client.c.
SLOT, PAGES = 5, 64
ROM_GFN, ROM_PAGES = 0x30000000 >> 12, 32
LARGE_GFN, LARGE_PAGES, LARGE_TOUCHED = 0x10000000000 >> 12, 1 << 28, 16
AGENT_SLOT = 32763
MANY_SLOTS = 30000
NAME = '<b>\x1b[7m\x9bq"\\\ufffd\ufffd'


def run(*arguments, options=()):
    return looking.Run(QUIRE, CLIENT, *arguments, options=options)


def view(*arguments):
    return looking.look(QUIRE, "view", *arguments)


def maps(*arguments):
    """A busy program that did not answer in the command's five seconds shows what it had said before: no map."""
    end = time.monotonic() + looking.DEADLINE_S
    while True:
        vms = json.loads(view("--json", *arguments).stdout)["vms"]
        if vms or time.monotonic() > end:
            return vms


def slot_of(vm, number):
    return next(slot for slot in vm["memory"]["slots"] if slot["id"] == number)


def rows_of(vm, number):
    columns = vm["memory"]["columns"]
    return [dict(zip(columns, row)) for row in slot_of(vm, number)["rows"]]


def sum_of(vm, number, name):
    return sum(row[name] for row in rows_of(vm, number))


def be_a_shell(words):
    """As a shell with jobs: the command has the terminal until it stops, and again after a line."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    before = termios.tcgetattr(0)
    job = os.fork()
    if not job:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(words[0], words)
    status = os.waitpid(job, os.WUNTRACED)[1]
    while os.WIFSTOPPED(status):
        os.tcsetpgrp(0, os.getpid())
        print("stopped:", "as before" if termios.tcgetattr(0) == before else "raw", flush=True)
        os.read(0, 1)
        os.tcsetpgrp(0, job)
        os.kill(job, signal.SIGCONT)
        status = os.waitpid(job, os.WUNTRACED)[1]
    os.tcsetpgrp(0, os.getpid())
    print("ended:", "as before" if termios.tcgetattr(0) == before else "raw", flush=True)
    os._exit(os.waitstatus_to_exitcode(status))


class ViewTest(unittest.TestCase):
    def test_a_program_that_is_slow_to_answer(self):
        """Its answer has a map, however late it is."""
        with run() as client:
            status, said = looking.look_at_a_slow_one(client, QUIRE, "view", "--json", client.pid)
        self.assertEqual(status, 0, said)
        self.assertEqual(len(json.loads(said)["vms"]), 1)

    def test_small_memory(self):
        """Each page is a cell: what the guest wrote is mapped, logged, and there at the host."""
        with run() as client:
            (vm,) = maps(client.pid)
            counters = json.loads(looking.look(QUIRE, "stat", "--json", "--interval", 0.01,
                                               "--count", 1, client.pid).stdout)["processes"][0]["counters"]
        self.assertEqual((vm["pid"], vm["command"], vm["vm"]), (client.pid, "test_report_cli", 0))
        self.assertEqual(vm["memory"]["cell_pages"], 1)
        self.assertEqual(sorted(slot["id"] for slot in vm["memory"]["slots"]), [SLOT, AGENT_SLOT])
        slot = slot_of(vm, SLOT)
        self.assertEqual((slot["gfn"], slot["pages"], slot["log"], slot["readonly"]),
                         (0x10000, PAGES, True, False))
        for name in ("mapped_4k", "writable", "logged", "dirty"):
            self.assertEqual(sum_of(vm, SLOT, name), PAGES, name)
        self.assertEqual(len(rows_of(vm, SLOT)), PAGES)
        totals = vm["memory"]["totals"]
        self.assertEqual(totals["mapped_4k"], counters["pages_4k"]["value"])
        self.assertEqual(totals["mapped_2m"], counters["pages_2m"]["value"] * 512)
        # The host has at least what the guest has mapped, and each page is of one kind.
        there = sum(totals[f"host_{kind}"] for kind in ("4k", "thp", "hugetlb"))
        self.assertGreaterEqual(there, totals["mapped_4k"])
        self.assertEqual(there + totals["host_hole"] + totals["host_swap"], totals["pages"])
        tables = vm["memory"]["tables"]
        self.assertGreaterEqual(tables["tdp_4k"], 2)
        self.assertLessEqual(sum(tables[f"tdp_{size}"] for size in ("4k", "2m", "1g", "512g")),
                             tables["used"])

    def test_large_memory(self):
        """1 TiB, a ROM and a hole are as quick, and no page is lost."""
        with run("large") as client:
            begun = time.monotonic()
            (vm,) = maps(client.pid)
            took = time.monotonic() - begun
            (coarse,) = maps("--cells", 8, client.pid)
        self.assertLess(took, looking.DEADLINE_S / 3)
        for seen, most in ((vm, 2048), (coarse, 8)):
            slots = seen["memory"]["slots"]
            self.assertLessEqual(sum(len(slot["rows"]) for slot in slots), most + len(slots))
            self.assertEqual(slot_of(seen, SLOT + 2)["pages"], LARGE_PAGES)
            self.assertEqual(sum_of(seen, SLOT + 2, "mapped_4k"), LARGE_TOUCHED)
            self.assertEqual(sum_of(seen, SLOT + 2, "host_4k"), LARGE_TOUCHED)
            self.assertEqual(sum_of(seen, SLOT + 2, "host_hole"), LARGE_PAGES - LARGE_TOUCHED)
            rom = slot_of(seen, SLOT + 1)
            self.assertEqual((rom["gfn"], rom["pages"], rom["readonly"]),
                             (ROM_GFN, ROM_PAGES, True))
        touched = [row for row in rows_of(vm, SLOT + 2) if row["mapped_4k"]]
        self.assertEqual(len(touched), LARGE_TOUCHED)
        for number, row in enumerate(touched):
            gfn = LARGE_GFN + LARGE_PAGES // LARGE_TOUCHED * number
            self.assertTrue(row["gfn"] <= gfn < row["gfn"] + row["pages"])

    def test_text_and_picture(self):
        with run("large") as client:
            text = view("--text", client.pid).stdout
            (vm,) = maps(client.pid)
            picture = xml.etree.ElementTree.fromstring(view("--svg", client.pid).stdout)
        self.assertIn(f"process {client.pid} (test_report_cli), VM 0\n", text)
        self.assertIn("slot 7: 0x10000000000-0x20000000000, 1.0 TiB\n", text)
        self.assertIn("slot 6: 0x30000000-0x30020000, 128 KiB, read-only\n", text)
        cells = sum(len(slot["rows"]) for slot in vm["memory"]["slots"])
        groups = picture.findall("{http://www.w3.org/2000/svg}g")
        self.assertEqual(len(groups), cells)
        # Every cell says what it is when it is pointed at, and has the colour of that.
        for group in groups:
            title = group.find("{http://www.w3.org/2000/svg}title").text
            first = group.find("{http://www.w3.org/2000/svg}rect").get("class")
            self.assertEqual(first == "k4", "mapped 4K" in title, title)
        style = picture.find("{http://www.w3.org/2000/svg}style").text
        self.assertIn("prefers-color-scheme: dark", style)

    def test_many_slots(self):
        """30,000 slots of a page each, and none is missing."""
        with run("slots") as client:
            (vm,) = maps("--cells", 16384, client.pid)
        slots = {slot["id"]: slot for slot in vm["memory"]["slots"]}
        self.assertEqual(set(slots), {SLOT, AGENT_SLOT, *range(SLOT + 1, SLOT + 1 + MANY_SLOTS)})
        self.assertFalse(vm["memory"]["is_cut"])
        for number in range(MANY_SLOTS):
            slot = slots[SLOT + 1 + number]
            self.assertEqual((slot["gfn"], slot["pages"]), (LARGE_GFN + 2 * number, 1))

    def test_dump(self):
        """What SIGUSR2 and the end leave shows the same as the running program did."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "stats.json")
            with run(options=["--stats", path]) as client:
                (living,) = maps(client.pid)
                client.command.send_signal(signal.SIGUSR2)
                (asked,) = self.dumped(path)
            (ended,) = maps(path)
        self.assertEqual(asked["memory"]["slots"], self.without_host(living)["memory"]["slots"])
        self.assertFalse(asked["memory"]["knows_host"])
        self.assertEqual(asked["pid"], client.pid)
        # Until its end the client harvested the log, and wrote once more.
        self.assertEqual(sum_of(ended, SLOT, "logged"), PAGES)
        self.assertEqual(sum_of(ended, SLOT, "mapped_4k"), PAGES)

    def test_dump_of_a_program_that_failed(self):
        """Killed in the middle, it leaves a map that is at most a second old."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "stats.json")
            done = looking.call(QUIRE, "run", "--stats", path, "--", CLIENT, "kill")
            self.assertEqual(done.returncode, -signal.SIGKILL)
            (left,) = maps(path)
            text = view("--text", path).stdout
        self.assertEqual(sum_of(left, SLOT, "mapped_4k"), PAGES)
        self.assertIn("slot 5: 0x10000000-0x10040000, 256 KiB, logged\n", text)

    def test_dump_of_a_program_that_ends_at_once(self):
        """By whichever call it ends, without its destructors: its map is the last one."""
        for way in "exit_group", "quick_exit":
            with tempfile.TemporaryDirectory() as folder, self.subTest(way):
                path = pathlib.Path(folder, "stats.json")
                looking.call(QUIRE, "run", "--stats", path, "--", CLIENT, way)
                (left,) = maps(path)
                self.assertEqual(sum_of(left, SLOT, "mapped_4k"), PAGES)

    def dumped(self, path):
        for _ in range(looking.DEADLINE_S * 20):
            done = view("--json", path)
            if not done.returncode:
                return json.loads(done.stdout)["vms"]
            time.sleep(0.05)
        self.fail(done.stderr)

    @staticmethod
    def without_host(vm):
        columns = vm["memory"]["columns"]
        for slot in vm["memory"]["slots"]:
            slot["rows"] = [[0 if name.startswith("host_") else value
                             for name, value in zip(columns, row)] for row in slot["rows"]]
        return vm

    def test_terminal(self):
        """Zoom and pan change the window, and the terminal is as before at the end."""
        with run("large") as client:
            child, terminal = pty.fork()
            if not child:
                os.execv(QUIRE, [QUIRE, "view", str(client.pid)])
            before = termios.tcgetattr(terminal)
            whole = self.read_until(terminal, "slot 7 1.0 TiB")
            self.assertIn("slot 5 256 KiB, logged", whole)
            os.write(terminal, b"+")
            # The middle half of 2 TiB: the large slot alone, which is the second of them.
            zoomed = self.read_until(terminal, "slot 7 512 GiB")
            self.assertNotIn("slot 5", zoomed.rpartition("\033[H")[2])
            os.write(terminal, b"\033[D")
            self.read_until(terminal, "slot 7 256 GiB")
            os.write(terminal, b"0")
            self.read_until(terminal, "slot 7 1.0 TiB")
            os.write(terminal, b"h")
            self.read_until(terminal, "not mapped")
            os.write(terminal, b"q")
            self.read_until(terminal, "\033[?1049l")
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
            self.assertEqual(termios.tcgetattr(terminal), before)
            os.close(terminal)

    def test_stopped(self):
        """Control-Z gives the shell its terminal back, and the view goes on when it is continued."""
        with run("large") as client:
            child, terminal = pty.fork()
            if not child:
                be_a_shell([QUIRE, "view", str(client.pid)])
            self.read_until(terminal, "slot 7 1.0 TiB")
            os.write(terminal, b"+")
            self.read_until(terminal, "slot 7 512 GiB")
            os.write(terminal, b"\x1a")
            stopped = self.read_until(terminal, "stopped: as before")
            self.assertIn("\033[?1049l", stopped)
            os.write(terminal, b"\n")
            again = self.read_until(terminal, "slot 7 512 GiB")
            self.assertIn("\033[?1049h", again)
            os.write(terminal, b"0")
            self.read_until(terminal, "slot 7 1.0 TiB")
            os.write(terminal, b"q")
            self.read_until(terminal, "ended: as before")
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
            os.close(terminal)

    def read_until(self, terminal, *wanted):
        end, text = time.monotonic() + looking.DEADLINE_S, ""
        while not any(word in text for word in wanted):
            if time.monotonic() > end or not select.select([terminal], [], [], 1)[0]:
                if time.monotonic() > end:
                    self.fail(f"no {wanted} in {text[-3000:]!r}")
                continue
            text += os.read(terminal, 65536).decode(errors="replace")
        return text

    def test_names(self):
        """Any bytes are a name: files stay valid, and a terminal or a browser is told nothing."""
        with tempfile.TemporaryDirectory() as folder:
            stats, page = pathlib.Path(folder, "stats.json"), pathlib.Path(folder, "run.html")
            with run("named", options=["--stats", stats, "--report", page]) as client:
                texts = [view("--text", client.pid).stdout, view("--svg", client.pid).stdout,
                         view("--json", client.pid).stdout, view("no-such-program").stderr,
                         looking.look(QUIRE, "stat", "--interval", 0.01, "--count", 1, client.pid).stdout]
            (process,) = json.loads(stats.read_text(encoding="utf-8"))["processes"]
            texts.append(view("--text", stats).stdout)
            data = page.read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0]
        self.assertEqual(process["command"], NAME)
        for text in texts:
            self.assertEqual([byte for byte in text if byte < " " and byte != "\n" or "\x7f" <= byte < "\xa0"], [], text)
        for text in (texts[0], texts[3], texts[4], texts[5]):
            self.assertIn('(<b>?[7m??q"\\\ufffd\ufffd)', text)
        self.assertEqual(xml.etree.ElementTree.fromstring(texts[1]).tag, "{http://www.w3.org/2000/svg}svg")
        self.assertNotIn("<", data)
        self.assertEqual(json.loads(data)["samples"][-1]["processes"][0]["command"], NAME)

    def test_files_that_make_no_sense(self):
        """More cells than there is room for, by overflow or by number."""
        memory = '{"processes": [{"vms": [{"memory": {"cell_pages": %d, "columns": ["gfn", "pages"], "slots": [{"rows": %s}]}}]}]}'
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            for pages, rows in ((1, f"[[0, 2], [0, {2 ** 64 - 1}]]"), (2 ** 63, f"[[{2 ** 63}, 1]]"), (1, f"[[{2 ** 64 - 1}, 2]]"),
                                (1, "[[0, 4000000000]]")):
                file.seek(0)
                file.truncate()
                file.write(memory % (pages, rows))
                file.flush()
                self.assertEqual(view("--text", file.name).returncode, 1, rows)

    def test_bad_use(self):
        for arguments in ([], ["a", "b"], ["--cells", "0", "a"], ["--vm", "-1", "a"]):
            self.assertEqual(view(*arguments).returncode, 2, arguments)
        done = view("--text", "no-such-program")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            for text in ("", "{", '{"processes": [{"vms": [{"memory": {"slots": []}}]}]}', "[1]"):
                file.seek(0)
                file.truncate()
                file.write(text)
                file.flush()
                self.assertEqual(view("--text", file.name).returncode, 1, text)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
