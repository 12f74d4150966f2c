#!/usr/bin/env python3
"""The page of `quire run --report` in a browser: it draws, without an error, and its totals are right.

usage: test_page.py QUIRE CLIENT [--pictures FOLDER]
"""
import html
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

import looking

QUIRE, CLIENT = sys.argv[1:3]
BROWSER_S = 120
PAGES = 64  # as in client.c
LIGHT, DARK = 1, 0  # Chromium's preferredColorScheme
NO_NETWORK = re.compile(r"(?:src|href)\s*=(?!\s*[\"']?data:)|@import|url\(|fetch\(|XMLHttpRequest")


def browse(page, folder, *words):
    """Chromium without a window, which says on its standard error what the console says."""
    return subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--enable-logging=stderr", f"--user-data-dir={folder}/profile", "--hide-scrollbars",
         "--virtual-time-budget=5000", *words, page.as_uri()], text=True, timeout=BROWSER_S,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)


def photograph(page, folder, scheme, picture):
    return browse(page, folder, f"--blink-settings=preferredColorScheme={scheme}",
                  "--window-size=1200,1900", f"--screenshot={picture}")


def moments_of(drawn):
    return int(re.search(r'data-moments="(\d+)"', drawn).group(1))


class PageTest(unittest.TestCase):
    pictures = None

    @classmethod
    def setUpClass(cls):
        cls.room = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.room.name)
        cls.page, stats = cls.folder / "run.html", cls.folder / "stats.json"
        options = ["--report", cls.page, "--stats", stats]
        # A slow machine has few moments in a second.
        for seconds in (1, 5, 20):
            with looking.Run(QUIRE, CLIENT, "busy", options=options):
                time.sleep(seconds)
            done = browse(cls.page, cls.folder, "--dump-dom")
            cls.drawn, cls.said = done.stdout, done.stderr
            if moments_of(cls.drawn) > 3:
                break
        cls.stats = json.loads(stats.read_text())

    @classmethod
    def tearDownClass(cls):
        cls.room.cleanup()

    def test_it_needs_nothing_else(self):
        self.assertIsNone(NO_NETWORK.search(self.page.read_text()))

    def test_no_error(self):
        self.assertNotIn("CONSOLE", self.said)
        self.assertNotIn("Uncaught", self.said)

    def test_totals(self):
        """What the page says of each counter is the sum over the VMs and vCPUs of --stats."""
        wanted = {}
        for process in self.stats["processes"]:
            for vm in process["vms"]:
                for stats in (vm["stats"], *(vcpu["stats"] for vcpu in vm["vcpus"])):
                    for name, value in stats.items():
                        wanted[name] = wanted.get(name, 0) + value
        shown = {name: int(value) for name, value in
                 re.findall(r'data-total="(\w+)" data-value="(\d+)"', self.drawn)}
        self.assertGreater(len(shown), 10)
        self.assertEqual(shown, {name: value for name, value in wanted.items() if value})

    def test_exits(self):
        (process,) = self.stats["processes"]
        wanted = {exit["reason"]: exit["count"] for exit in process["exits"]}
        shown = {html.unescape(name): int(count) for name, count in
                 re.findall(r'data-exit="([^"]*)" data-count="(\d+)"', self.drawn)}
        self.assertEqual(shown, wanted)
        # Counting began before the first entry. Each exit but the last was followed by an entry.
        counters = process["vms"][0]["vcpus"][0]["stats"]
        self.assertEqual(sum(wanted.values()), process["events"]["kvm_exit"] - 1)
        self.assertEqual(re.findall(r'data-others="(\d+)"', self.drawn), ["1"])
        self.assertEqual(process["events"]["kvm_exit"], counters["exits"])

    def test_times(self):
        """Faults by what came of them, and holds of mmu_lock."""
        (process,) = self.stats["processes"]
        counters = process["vms"][0]["vcpus"][0]["stats"]
        faults = {row["reason"]: row for row in process["faults"]}
        self.assertEqual(faults["fixed"]["count"], counters["pf_fixed"])
        # A device's address is looked up in the entry that says so, without a fault of the guest's.
        self.assertGreaterEqual(faults["emulated"]["count"], counters["pf_emulate"])
        self.assertGreater(process["locks"][0]["count"], 0)
        # Each harvest of the client's took all the pages that it had written.
        (harvest,) = process["harvests"]
        self.assertEqual(harvest["pages"], harvest["count"] * PAGES)
        for row in (*process["faults"], *process["locks"], *process["harvests"]):
            self.assertLessEqual(row["min_ns"] * row["count"], row["time_ns"])
            self.assertGreaterEqual(row["max_ns"] * row["count"], row["time_ns"])
        shown = [int(count) for count in re.findall(r'data-timed="faults" data-count="(\d+)"',
                                                    self.drawn)]
        self.assertEqual(sorted(shown), sorted(row["count"] for row in process["faults"]))

    def test_it_draws(self):
        """Every slot's cells, and a line in each picture, at several moments."""
        self.assertEqual(self.drawn.count("<polyline"), 13)
        self.assertGreater(moments_of(self.drawn), 3)
        memory = self.stats["processes"][0]["vms"][0].get("memory")
        self.assertGreater(int(re.search(r'data-drawn="(\d+)"', self.drawn).group(1)), 64)
        self.assertIsNotNone(memory)

    def test_huge_pages(self):
        """Those that logging split, and those that came back when it ended."""
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            page, stats = folder / "run.html", folder / "stats.json"
            with looking.Run(QUIRE, CLIENT, "huge", options=["--report", page, "--stats", stats]):
                time.sleep(0.2)
            (process,) = json.loads(stats.read_text())["processes"]
            drawn = browse(page, folder, "--dump-dom").stdout
        there = process["vms"][0]["stats"]["pages_2m"]
        if not there:
            self.skipTest("this machine gave no huge pages")
        self.assertEqual(process["huge_pages"], {"split": there, "recovered": there})
        for what in ("split", "recovered"):
            self.assertIn(f"<td>huge pages {what}</td><td>{there}</td>", drawn)

    def test_the_end_is_no_peak(self):
        """It comes a moment after a moment; what was not told until then did not happen in a millisecond."""
        samples = [{"t": t, "processes": [{"pid": 1, "command": "x", "vms": [
            {"stats": {}, "vcpus": [{"id": 0, "stats": {"exits": exits}}]}]}]}
                   for t, exits in ((0.0, 0), (1.0, 1000), (1.001, 2000))]
        before, _, rest = self.page.read_text().partition('id="data">')
        page = self.folder / "end.html"
        page.write_text(before + 'id="data">' + json.dumps({"command": "x", "samples": samples}) +
                        "</script>" + rest.partition("</script>")[2])
        done = browse(page, self.folder, "--dump-dom")
        self.assertNotIn("CONSOLE", done.stderr)
        chart = done.stdout.partition('id="chart-rates"')[2].partition("</svg>")[0]
        self.assertIn(">2.0k</text>", chart)
        self.assertNotIn("M</text>", chart)

    def test_no_moments(self):
        before, _, rest = self.page.read_text().partition('id="data">')
        page = self.folder / "nothing.html"
        page.write_text(before + 'id="data">' + json.dumps({"command": "x", "samples": []}) +
                        "</script>" + rest.partition("</script>")[2])
        self.assertNotIn("CONSOLE", browse(page, self.folder, "--dump-dom").stderr)

    def test_light_and_dark(self):
        pictures = []
        for scheme in (LIGHT, DARK):
            picture = self.folder / f"{scheme}.png"
            self.assertNotIn("CONSOLE", photograph(self.page, self.folder, scheme, picture).stderr)
            pictures.append(picture.read_bytes())
            if self.pictures:
                name = "report-light.png" if scheme == LIGHT else "report-dark.png"
                pathlib.Path(self.pictures, name).write_bytes(pictures[-1])
        self.assertNotEqual(*pictures)


if __name__ == "__main__":
    os.environ.pop("DISPLAY", None)
    if "--pictures" in sys.argv:
        PageTest.pictures = sys.argv[sys.argv.index("--pictures") + 1]
    unittest.main(argv=sys.argv[:1])
