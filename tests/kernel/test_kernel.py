#!/usr/bin/env python3
"""The library inside a small kernel of its own, on an emulated machine: tests/kernel/kernel.c.

usage: test_kernel.py KERNEL
"""
import re
import shutil
import subprocess
import sys

EMULATOR = "qemu-system-x86_64"
# tests/kernel/machine.c writes 0x10 when all is well.
PASSED = 0x10 << 1 | 1
SKIP = 77


def run(kernel):
    done = subprocess.run(
        [EMULATOR, "-accel", "tcg", "-cpu", "max,phys-bits=48", "-m", "2560M", "-kernel", kernel,
         "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
         "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
        text=True, check=False, timeout=100, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def numbers(text, word):
    """Of each stage."""
    return [int(number) for number in re.findall(rf"^  accesses {word}: (\d+)$", text, re.M)]


def main(kernel):
    if not shutil.which(EMULATOR):
        print(f"no {EMULATOR} (package qemu-system-x86)")
        return SKIP
    status, text = run(kernel)
    print(text)
    lines = text.splitlines()
    # The toy's sum, and that there was something to compare.
    wanted = ["console: 42", "wrong bits tried: 8", "wrong bits reported: 8", "failures: 0"]
    missing = [line for line in wanted if line not in lines]
    if missing:
        print(f"it does not say {missing}")
    made, refused = (numbers(text, word) for word in ("made", "refused"))
    if made[:1] != [0] or len(made) < 9 or min(made[1:] + refused) < 500:
        print("there was too little to compare")
        return 1
    return 1 if missing or status != PASSED else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
