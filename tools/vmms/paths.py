"""A guest that enters its kernel again and again (tests/vmms/paths.c), timed from outside."""
import pathlib
import tempfile

from vmms import places

# What it can do, and how often that is done in one run.
COUNTS = {"syscall": 4_000_000, "pagefault": 2_000, "switch": 200_000}
# No library, no vector registers, and no red zone, which the guest's own page faults would overwrite.
FLAGS = ("-O2", "-Wall", "-Wextra", "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic",
         "-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none",
         "-fno-asynchronous-unwind-tables",
         "-Wl,-Ttext-segment=0x100000,--build-id=none,-e,entry")


def obtain():
    """The guest, which QEMU starts as a kernel."""
    return places.guest_program("paths", FLAGS)


def command(qemu, accelerator, path, count, log):
    """QEMU with that guest, which takes path count times."""
    return [*qemu.command, "-nodefaults", "-display", "none", "-M", "microvm", "-accel", accelerator,
            "-cpu", "max", "-m", "64", "-kernel", str(obtain()), "-append", f"{path} {count}",
            "-no-reboot", "-serial", f"file:{log}"]


def seconds(qemu, accelerator, path, cpu_seconds):
    """What the path takes so often: less what starting and ending QEMU take."""
    taken = []
    for count in (COUNTS[path], 0):
        with tempfile.TemporaryDirectory(prefix="quire-paths-") as folder:
            log = pathlib.Path(folder) / "log"
            words = command(qemu, accelerator, path, count, log)
            launcher = [*qemu.launcher, "--"] if accelerator == "kvm" else []
            taken.append(cpu_seconds([*launcher, *words], log))
    return taken[0] - taken[1]
