#!/usr/bin/env python3
"""The library inside a small kernel of its own, on an emulated machine: tests/kernel/kernel.c.

usage: test_kernel.py qemu|bochs KERNEL DISK   (DISK: the first sector of one)
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SKIP = 77
SECTOR = 512
# What tests/kernel/disk.S loads.
IMAGE_BYTES = 512 << 10
CYLINDER_BYTES = 16 * 63 * SECTOR
BOCHSRC = """
config_interface: textconfig
display_library: rfb, options="timeout=0"
cpu: model=corei7_skylake_x, count=1, ips=100000000, reset_on_triple_fault=0
clock: sync=none
memory: guest=2048, host=2048
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={folder}/disk, mode=flat, cylinders={cylinders}, heads=16, spt=63
boot: disk
com1: enabled=1, mode=file, dev={folder}/serial
log: {folder}/log
panic: action=fatal
error: action=ignore
info: action=ignore
sound: driver=dummy
"""
# Each emulator's program, its packages, and the tables that its processor walks.
EMULATORS = {"qemu": ("qemu-system-x86_64", "qemu-system-x86", {"npt": 8}),
             "bochs": ("bochs-bin", "bochs bochsbios vgabios",
                       {"ept": 7, "ept without a and d": 5, "ept with execute-only pages": 7})}


def run_qemu(kernel, _disk, _folder):
    return subprocess.run(
        ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,phys-bits=48", "-m", "2048M", "-kernel",
         kernel, "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
         "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
        text=True, check=False, timeout=250, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT).stdout


def run_bochs(kernel, disk, folder):
    parts = []
    for program in (disk, kernel):
        flat = folder / "flat"
        subprocess.run(["objcopy", "-O", "binary", program, flat], check=True)
        parts.append(flat.read_bytes())
    sector, image = parts[0][:SECTOR], parts[1]
    if len(image) > IMAGE_BYTES:
        raise SystemExit(f"{len(image)} bytes of kernel: disk.S loads {IMAGE_BYTES}")
    cylinders = -(-(SECTOR + IMAGE_BYTES) // CYLINDER_BYTES)
    (folder / "disk").write_bytes((sector + image).ljust(cylinders * CYLINDER_BYTES, b"\0"))
    (folder / "rc").write_text(BOCHSRC.format(folder=folder, cylinders=cylinders))
    # Debian's has the debugger, which waits for a word.
    done = subprocess.run(["bochs-bin", "-q", "-f", folder / "rc"], check=False, timeout=250,
                          input="continue\nquit\n", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    serial = folder / "serial"
    return serial.read_text(errors="replace") if serial.exists() else done.stdout


def numbers(text, what):
    """Of each stage."""
    return [int(number) for number in re.findall(rf"^ *{what}: (\d+)$", text, re.M)]


def complaint(text, tables):
    """What is wrong with a kernel's report; None: nothing is."""
    for line in ["console: 42", "failures: 0"]:
        if f"{line}\n" not in text:
            return f"it does not say {line!r}"
    found = re.split(r"^walked by the processor: (.*)\n", text, flags=re.M)[1:]
    reports = dict(zip(found[::2], found[1::2]))
    if list(reports) != list(tables):
        return f"the processor walked {list(reports)}"
    for name, bits in tables.items():
        if numbers(reports[name], "wrong bits tried") != [bits] or \
                numbers(reports[name], "wrong bits reported") != [bits]:
            return f"of {bits} wrong bits in {name} not all were reported"
        made, refused = (numbers(reports[name], f"accesses {word}") for word in ("made", "refused"))
        if len(made) < 9 or made[0] != 0 or min(made[1:] + refused) < 500:
            return f"in {name} there was too little to compare"
    return None


def main(emulator, kernel, disk):
    program, packages, tables = EMULATORS[emulator]
    if not shutil.which(program):
        print(f"no {program} (packages {packages})")
        return SKIP
    with tempfile.TemporaryDirectory() as folder:
        run = run_bochs if emulator == "bochs" else run_qemu
        text = run(kernel, disk, pathlib.Path(folder))
    print(text)
    wrong = complaint(text, tables)
    if wrong:
        print(wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
