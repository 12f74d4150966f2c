"""Where things stand: the tree, its build, and a folder for what a run of the VMMs makes."""
import pathlib
import subprocess
import threading

TREE = pathlib.Path(__file__).resolve().parents[2]
QUIRE = TREE / "build/quire"
# How each client is started; more options of the run may come behind.
RUN = [str(QUIRE), "run"]
WORK = TREE / "build/vmms"
SOURCES = TREE / "tests/vmms"


STATIC = ("-static", "-O2", "-Wall", "-Wextra")
# There need be no libc for 32 bits here.
FREESTANDING_32 = (*STATIC, "-m32", "-ffreestanding", "-nostdlib", "-fno-pie", "-fno-stack-protector")


def guest_program(name, flags=STATIC):
    """A program of tests/vmms for a guest, static, for there is no libc in the guest."""
    source, made = SOURCES / f"{name}.c", WORK / name
    WORK.mkdir(parents=True, exist_ok=True)
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        new = made.with_suffix(f".{threading.get_ident()}")
        subprocess.run(["gcc", *flags, "-o", str(new), str(source)], check=True)
        new.rename(made)
    return made
