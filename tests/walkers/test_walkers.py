#!/usr/bin/env python3
"""Processors that are not ours walk the table bytes that the library made.

test_walkers.py [--root FOLDER] IMAGE FORMAT...: IMAGE (image.c) writes the tables, and what its own walk makes of some
thousand accesses. A program on QEMU's bare machine loads the very bytes, makes the accesses, and says
which faulted, what the others read or wrote, and which table words changed (A and D). All must agree. Then
some bits are set wrong, and each must be found. FOLDER is the root of a Debian release with a newer QEMU.
Formats that the QEMU at hand cannot walk are left out with a word; where it can walk none, that is 77."""
import argparse
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
READ, WRITE, FETCH = range(3)
WRITTEN = 0xabc << 52
DBM = 1 << 51
OFFSETS = {"probes": 0x2000000, "copy": 0x4000000, "tables": 0x8000000}


class Machine:
    """One of QEMU's, and the program that runs on it."""

    def __init__(self, name, tools, qemu, memory, flags):
        self.name, self.tools, self.qemu, self.memory, self.flags = name, tools, qemu, memory, flags
        # What the program says of faults of the second stage, and of what worked, by access; the bits of
        # a leaf that are spoiled: an address, W, valid; and D.
        self.faults, self.works, self.bits, self.dirty = (21, 23, 20), (0, 0, 10), (11, 2, 0), 7
        self.option = "-kernel"
        self.program, self.data = qemu[:1], []

    def fault(self, probe):
        # POWER's guests hear themselves of an address that has too many bits, by a segment interrupt at 0x380
        # or 0x480. Nothing is mapped there, so a fault of a fetch comes of it.
        return self.faults[FETCH if self is POWER and probe.gpa >> 52 else probe.access]

    def version(self):
        said = subprocess.run([*self.program, "--version"], check=True, stdout=subprocess.PIPE,
                              text=True).stdout
        return tuple(int(part) for part in re.search(r"version (\d+)\.(\d+)", said).groups())

    def use_root(self, root):
        """The program of another release, with the libraries that it was linked with."""
        self.program = [str(root / "lib64/ld-linux-x86-64.so.2"), "--library-path",
                        str(root / "usr/lib/x86_64-linux-gnu"), str(root / "usr/bin" / self.qemu[0])]
        self.data = ["-L", str(root / "usr/share/qemu")]
        # Modules are of one build with the program.
        os.environ["QEMU_MODULE_DIR"] = str(root / "usr/lib/x86_64-linux-gnu/qemu")

    def missing(self):
        return [tool for tool in (self.tools + "gcc", self.program[0]) if not shutil.which(tool)]

    def build(self, folder):
        program = folder / "walker"
        subprocess.run([self.tools + "gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-ffreestanding",
                        "-nostdlib", "-static", "-fno-pic", "-no-pie", "-fno-stack-protector", *self.flags,
                        f"-I{HERE.parent.parent}", f"-Wl,-T,{HERE / self.name}.ld",
                        "-Wl,--build-id=none,--no-warn-rwx-segments", "-o", program,
                        HERE / f"{self.name}.c", HERE / "walker.c"], check=True)
        if self is POWER:
            # The machine's firmware: its first byte is at 0.
            subprocess.run([self.tools + "objcopy", "-O", "binary", program, program], check=True)
        return program

    def run(self, folder, program, tables):
        """What the program says, word by word."""
        (folder / "loaded").write_bytes(tables)
        files = {"probes": "probes", "copy": "loaded", "tables": "loaded"}
        loads = [word for what, name in files.items() for word in
                 ("-device", f"loader,file={folder / name},addr={self.memory + OFFSETS[what]:#x},"
                             "force-raw=on")]
        said = []
        with subprocess.Popen([*self.program, *self.data, *self.qemu[1:], "-m", "4G", "-nographic", "-monitor", "none", "-serial", "stdio",
                               self.option, str(program), *loads], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE) as process:
            timer = threading.Timer(90, process.kill)
            timer.start()
            for line in process.stdout:
                said.append(line.split())
                if said[-1] == ["E"]:
                    break
            timer.cancel()
            # Not every machine ends by itself.
            process.kill()
        if not said or said[-1] != ["E"]:
            raise SystemExit(f"the program did not come to its end: {said[-5:]}")
        return said


RISCV = Machine("riscv", "riscv64-linux-gnu-",
                ["qemu-system-riscv64", "-machine", "virt", "-cpu", "rv64,h=true,svpbmt=true"],
                0x80000000, ["-march=rv64imac_zicsr_zifencei", "-mabi=lp64", "-mcmodel=medany"])
RISCV.option = "-bios"
ARM64 = Machine("arm64", "aarch64-linux-gnu-",
                ["qemu-system-aarch64", "-machine", "virt,virtualization=on", "-cpu", "max"],
                0x40000000, ["-mgeneral-regs-only", "-mstrict-align", "-mcmodel=large"])
ARM64.faults, ARM64.works, ARM64.bits = (0x24, 0x24, 0x20), (0x16, 0x16, 0x16), (13, 7, 0)
POWER = Machine("power", "powerpc64le-linux-gnu-", ["qemu-system-ppc64", "-machine", "powernv9"], 0,
                ["-mcpu=power9", "-mno-vsx", "-mno-altivec"])
POWER.faults, POWER.works, POWER.bits = (0xe00, 0xe00, 0xe20), (0xc00, 0xc00, 0xc00), (53, 57, 7)
POWER.dirty = 63
POWER.option = "-bios"
FORMATS = {"sv39x4": RISCV, "sv39x4-no-ad": RISCV, "sv48x4": RISCV, "sv48x4-no-ad": RISCV,
           "arm64-40": ARM64, "arm64-40-no-af": ARM64, "arm64-48": ARM64, "arm64-48-no-af": ARM64,
           "arm64-40-dbm": ARM64, "arm64-48-dbm": ARM64,
           "power": POWER, "power-no-rc": POWER}
# QEMU 8.1 takes a guest's address of RISC-V for what it is, not for a signed number; its ADUE decides who
# sets A and D, which the processor did before. From 8.1 on POWER faults where R or C is missing, as
# POWER9 does, and sets neither.
TURN = (8, 1)
SINCE_TURN, BEFORE_TURN = ("sv39x4-no-ad", "sv48x4-no-ad", "power-no-rc"), ("power",)


class Probe:
    def __init__(self, line):
        gpa, access, address, slot, level = line.split()
        self.gpa, self.address, self.slot = int(gpa, 16), int(address, 16), int(slot, 16)
        self.access, self.level = int(access), int(level)


def words(data):
    return memoryview(data).cast("Q")


def differences(machine, probes, said, before, after):
    """The numbers of the probes, and the table words ("word N"), on which the two do not agree."""
    memory, wrong = {}, set()
    for probe in probes:
        memory[probe.address] = probe.address
    heard = {int(word[1], 16): word[2:] for word in said if word[0] == "P"}
    for number, probe in enumerate(probes):
        cause, value = (int(word, 16) for word in heard.get(number, ("ffff", "0")))
        if probe.address and probe.access == WRITE:
            memory[probe.address] = WRITTEN | number
        expected = memory.get(probe.address, 0) if probe.address else 0
        if probe.access == FETCH:
            expected = number & 0x7ff
        if not probe.address:
            if cause != machine.fault(probe):
                wrong.add(number)
        elif (cause, value) != (machine.works[probe.access], expected):
            wrong.add(number)
    now = {int(word[1], 16): int(word[2], 16) for word in said if word[0] == "T"}
    for number, (old, new) in enumerate(zip(words(before), words(after))):
        if now.get(number, old) != new:
            wrong.add(f"word {number}")
    return wrong


def spoiled(machine, probes, tables, name):
    """The tables with three words wrong, and the probes that must notice: the frame's number of one
    leaf, the write permission of another, and the valid bit of a third."""
    pick = random.Random(name)
    data = bytearray(tables)
    table, noticed = words(data), []
    masks = [1 << bit for bit in machine.bits]
    if name.endswith("-dbm"):
        # Either one lets the processor write.
        masks[1] |= DBM
    for mask, access in zip(masks, (READ, WRITE, READ)):
        number = pick.choice([i for i, probe in enumerate(probes)
                              if probe.address and probe.access == access and probe.level == 1 and
                              probe.slot not in [probes[other].slot for other in noticed]])
        place = probes[number].slot // 8
        word = table[place]
        table[place] = word & ~mask if word & mask else word | mask
        noticed.append(number)
    return bytes(data), noticed


def check(image, name, folder):
    machine = FORMATS[name]
    program = machine.build(folder)
    half = "half" if machine.version() < TURN else "all"
    subprocess.run([image, name, half], cwd=folder, check=True)
    probes = [Probe(line) for line in (folder / "expected").read_text().splitlines()]
    before, after = (folder / "tables").read_bytes(), (folder / "after").read_bytes()
    said = machine.run(folder, program, before)
    wrong = differences(machine, probes, said, before, after)
    for which in sorted(wrong, key=str)[:10]:
        if isinstance(which, int):
            probe = probes[which]
            print(f"{name}: probe {which}: gpa {probe.gpa:#x} access {probe.access}: the library says "
                  f"{probe.address:#x} by the entry at {probe.slot:#x}, level {probe.level}; heard "
                  f"{[word for word in said if word[:2] == ['P', f'{which:x}']]}")
        else:
            print(f"{name}: {which}")
    translated = sum(1 for probe in probes if probe.address)
    changes = {int(word[1], 16): int(word[2], 16) for word in said if word[0] == "T"}
    changed = len(changes)
    dirtied = sum(1 for number, new in changes.items()
                  if (new & ~words(before)[number]) >> machine.dirty & 1)
    print(f"{name}: {len(probes)} accesses, {translated} translated, {changed} words changed, "
          f"D set in {dirtied}, {len(wrong)} differences")
    data, noticed = spoiled(machine, probes, before, name)
    found = differences(machine, probes, machine.run(folder, program, data), before, after)
    missed = [number for number in noticed if number not in found]
    print(f"{name}: with {len(noticed)} words wrong: {len(found)} differences, missed: {missed}")
    levels = {probe.level for probe in probes if probe.address}
    marks = changed > 100 or name.endswith(("-no-af", "-no-rc", "-no-ad"))
    # Without DBM arm64 has no D.
    marks = marks and (dirtied > 50) == (name.endswith("-dbm") or
                                         (machine is not ARM64 and not name.endswith(("-no-ad", "-no-rc"))))
    return not wrong and not missed and translated > 900 and marks and levels == {1, 2, 3}


def may_walk(name):
    turned = FORMATS[name].version() >= TURN
    return name not in (BEFORE_TURN if turned else SINCE_TURN)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path)
    parser.add_argument("image", type=pathlib.Path)
    parser.add_argument("names", nargs="+", choices=FORMATS)
    options = parser.parse_args()
    if options.root:
        for machine in {FORMATS[name] for name in options.names}:
            machine.use_root(options.root)
    missing = {tool for name in options.names for tool in FORMATS[name].missing()}
    if missing:
        print("not on this machine:", ", ".join(sorted(missing)))
        return 77
    results = []
    for name in options.names:
        if not may_walk(name):
            print(f"{name}: not for QEMU {FORMATS[name].version()}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            results.append(check(options.image.resolve(), name, pathlib.Path(folder)))
    return (0 if all(results) else 1) if results else 77


if __name__ == "__main__":
    sys.exit(main())
