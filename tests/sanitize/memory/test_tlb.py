"""'quire run --sanitize=tlb' on a guest that forgets to flush: each way of it is reported, its mended
twin is not.

usage: test_tlb.py QUIRE CLIENT
"""
import pathlib
import subprocess
import sys
import unittest

import detecting

QUIRE, CLIENT = sys.argv[1:3]
# What is said of each: what was held, and how things are now.
FAULTY = {
    "moved": "held: guest address 0x20000 (rwx supervisor); now: 0x21000 (rwx supervisor), by the entry "
             "at 0x5100",
    "gone": "held: guest address 0x20000 (rwx supervisor); now: the entry at 0x5100 does not allow that",
    "protected": "held: guest address 0x20000 (rwx supervisor); now: the entry at 0x5100 does not allow "
                 "that",
    "global": "held: guest address 0x20000 (rwx supervisor); now: 0x21000",
    "large": "held: guest address 0x20000 (rwx supervisor); now: 0x220000",
    "table": "held: the table at guest address 0x6000; now: the entry at 0x4008 has another",
    "client": "held: guest address 0x20000 (rwx supervisor); now: 0x21000",
    "kept": "held: guest address 0x20000 (rwx supervisor); now: 0x21000",
    "other-late": "held: guest address 0x20000 (rwx supervisor); now: 0x21000",
}
# Of L2 besides: L1 changes its tables between two VMRUN.
FAULTY_NESTED = {**FAULTY, "hypervisor": "held: guest address 0x20000 (rwx supervisor); now: 0x21000"}
# L1's nested tables, changed between two VMRUN.
FAULTY_NESTED_TABLES = {
    "npt-moved": "held: guest address 0x20000 (rwx user); now: 0x21000 (rwx user), by the entry at 0x3b100",
    "npt-gone": "held: guest address 0x20000 (rwx user); now: the entry at 0x3b100 does not allow that",
    "npt-protected": "held: guest address 0x20000 (rwx user); now: the entry at 0x3b100 does not allow that",
    "npt-table": "held: the table at guest address 0x3b000; now: the entry at 0x3a000 has another",
    "npt-of-table": "held: guest address 0x5080 (rwx user); now: 0x6080",
    "npt-l2-flushed": "held: guest address 0x20000 (rwx user); now: 0x21000",
    "npt-client": "held: guest address 0x20000 (rwx user); now: 0x21000",
    "npt-other-late": "held: guest address 0x20000 (rwx user); now: 0x21000",
}
QUIET_NESTED_TABLES = ["npt-flushed", "npt-asid", "npt-invlpga", "npt-gone-flushed", "npt-protected-flushed",
                       "npt-table-flushed", "npt-clean", "npt-same"]
CHANGERS = {"client": "no vCPU of this VM was seen to change them", "other-late": "vCPU 1 changed them at RIP 0x11000",
            "hypervisor": "vCPU 0 changed them at RIP 0x1200"}
# The flush of another vCPU may be on its way so long.
SHOOTDOWN_MS = 1000
# For so long the client stops its VM.
STOPPED_MS = 1300
QUIET = [f"{name}-flushed" for name in FAULTY if name != "other-late"] + ["grown", "clean", "same"]
QUIET_NESTED = [*QUIET, "hypervisor-flushed", "hypervisor-l2-flushed"]


# Without a second stage the library shadows the guest's tables; there are no PCIDs then.
IS_INTEL = "GenuineIntel" in pathlib.Path("/proc/cpuinfo").read_text(encoding="ascii")
SINGLE_STAGE = ["--param", "kvm_intel.ept=N" if IS_INTEL else "kvm_amd.npt=N"]


def run(scenario, kinds="tlb", *more, options=()):
    return detecting.run(QUIRE, kinds, CLIENT, scenario, *more, options=options)


class Translations(unittest.TestCase):
    def test_faulty(self):
        for name, words in FAULTY.items():
            with self.subTest(name):
                status, text, found = run(name)
                self.assertEqual((status, len(found)), (detecting.FOUND, 1), text)
                self.assertIn("sanitize: tlb: the guest at RIP 0x100", text)
                self.assertIn(words, text)
                self.assertIn(words, found[0]["mapped"])
                changer = CHANGERS.get(name, "vCPU 0 changed them at RIP 0x1001")
                self.assertIn(changer, found[0]["what"])
                # Where the client called KVM_RUN.
                self.assertIn(found[0]["used"]["frames"][0]["function"], ("run_guest", "make"))

    def test_faulty_without_second_stage(self):
        for name, words in FAULTY.items():
            if name == "kept":
                continue
            with self.subTest(name):
                status, text, found = run(name, options=SINGLE_STAGE)
                self.assertEqual((status, len(found)), (detecting.FOUND, 1), text)
                self.assertIn("sanitize: tlb: the guest at RIP 0x100", text)
                self.assertIn(words, found[0]["mapped"])
                self.assertIn(CHANGERS.get(name, "vCPU 0 changed them at RIP 0x1001"), found[0]["what"])

    def check_nested(self, names, options=()):
        for name in names:
            with self.subTest(name):
                status, text, found = run(name, "tlb", "nested", options=options)
                self.assertEqual((status, len(found)), (detecting.FOUND, 1), text)
                self.assertIn("sanitize: tlb: the nested guest at RIP 0x100", text)
                self.assertIn(FAULTY_NESTED[name], found[0]["mapped"])
                self.assertIn(CHANGERS.get(name, "vCPU 0 changed them at RIP 0x1001"), found[0]["what"])

    def test_faulty_nested_guests(self):
        """L2's own tables are watched as L1's are, and over L1's VMRUN."""
        self.check_nested(FAULTY_NESTED)

    def test_faulty_nested_tables(self):
        for name, words in FAULTY_NESTED_TABLES.items():
            with self.subTest(name):
                status, text, found = run(name, "tlb", "nested")
                self.assertEqual((status, len(found)), (detecting.FOUND, 1), text)
                self.assertIn("sanitize: tlb: the nested guest at RIP 0x100", text)
                self.assertIn("its guest address 0x", text)
                self.assertIn("its hypervisor had not flushed a translation that its nested tables", text)
                self.assertIn(words, found[0]["mapped"])
                changer = {"npt-client": CHANGERS["client"], "npt-other-late": CHANGERS["other-late"]}
                self.assertIn(changer.get(name, CHANGERS["hypervisor"]), found[0]["what"])

    def test_quiet_nested_tables(self):
        for name in QUIET_NESTED_TABLES:
            with self.subTest(name):
                self.assertEqual(run(name, "tlb", "nested"), (0, "", []))

    def test_quiet_when_the_client_sets_l2(self):
        """What L2 held is not L1's after the client has put L2 there."""
        self.assertEqual(run("restored", "tlb", "nested"), (0, "", []))

    def test_faulty_nested_guests_without_second_stage(self):
        """L2's tables are L1's to make then."""
        self.check_nested([name for name in FAULTY_NESTED if name != "kept"], SINGLE_STAGE)

    def test_quiet_nested_guests_without_second_stage(self):
        for name in QUIET_NESTED:
            with self.subTest(name):
                self.assertEqual(run(name, "tlb", "nested", options=SINGLE_STAGE), (0, "", []))

    def test_quiet_without_second_stage(self):
        for name in QUIET:
            with self.subTest(name):
                self.assertEqual(run(name, options=SINGLE_STAGE), (0, "", []))

    def test_quiet_nested_guests(self):
        for name in QUIET_NESTED:
            with self.subTest(name):
                self.assertEqual(run(name, "tlb", "nested"), (0, "", []))

    def test_quiet(self):
        for name in QUIET:
            with self.subTest(name):
                self.assertEqual(run(name), (0, "", []))

    def check_in_time(self, milliseconds, *words):
        """Nothing is found, unless a busy machine took longer."""
        done = subprocess.run([QUIRE, "run", "--sanitize=tlb", "--", CLIENT, *words], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False)
        if int(done.stdout) < milliseconds:
            self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_other_soon(self):
        self.check_in_time(SHOOTDOWN_MS, "other-soon")

    def test_other_stopped(self):
        """While the client has stopped the VM no flush comes."""
        self.check_in_time(STOPPED_MS + SHOOTDOWN_MS, "other-stopped")
        for name in ("other-stopped", "npt-other-stopped"):
            self.check_in_time(STOPPED_MS + SHOOTDOWN_MS, name, "nested")

    def test_another_kind(self):
        self.assertEqual(run("moved", "dirty"), (0, "", []))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
