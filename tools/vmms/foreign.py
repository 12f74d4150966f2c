"""VMMs that Debian 12 has no package of: the user brings the program, we know what to ask of it."""
import os
import pathlib
import re
import shlex
import subprocess

import program
from vmms import boots, initramfs, kernel, places
from vmms.scenario import Failure, Scenario

LIMIT_SECONDS = 600


def guest_files():
    """Debian's kernel and our first program for it."""
    image = kernel.obtain()
    archive = initramfs.write(places.WORK / "initramfs", places.guest_program("init"))
    return image, archive


def kvmtool(path):
    """kvmtool looks at the processor itself before it opens the device; it has no way to power off."""
    image, archive = guest_files()
    return (["--cpuid"], [path, "run", "-k", str(image.bzimage), "-i", str(archive), "-m", "256", "-c", "1",
                 "--console", "serial", "-p", boots.append("reboot") + " reboot=k"], "quire: reboot")


def kvm_host(path):
    """The kernel's command line is its own, and a triple fault is what ends it."""
    image = kernel.obtain()
    work = places.WORK / "kvm-host-work"
    work.write_text("triple")
    archive = initramfs.write(places.WORK / "initramfs-kvm-host", places.guest_program("init"),
                              [("work", work)])
    return ([], [path, "-k", str(image.bzimage), "-i", str(archive)], "quire: reboot")


def kvm_hello_world(path):
    """A guest in long mode that writes a greeting to a port."""
    return ([], [path, "-l"], "Hello, world!")


def solo5(path):
    """The unikernel that comes with its tests, beside the tender (which filters its own calls but for
    the -debug one)."""
    guest = pathlib.Path(path).parents[2] / "tests/test_hello/test_hello.hvt"
    return ([], [path, "--mem=16", str(guest), "Hello_Solo5"], "SUCCESS")


def stress_ng(path):
    return ([], [path, "--kvm", "2", "--timeout", "10", "--metrics-brief"],
            r"metrc: .* kvm +[1-9]\d* ")


KNOWN = {"kvmtool": kvmtool, "kvm-host": kvm_host, "kvm-hello-world": kvm_hello_world,
         "solo5-hvt": solo5, "solo5-hvt-debug": solo5, "stress-ng": stress_ng}
# These give up where their standard input is none.
WANTS_TERMINAL = ("kvm-host",)


def run(name, path):
    options, command, wanted = KNOWN[name](path)
    words = [*places.RUN, *options, "--", *command]
    if name in WANTS_TERMINAL:
        words = ["script", "-qec", shlex.join(words), "/dev/null"]
    status, text, seconds = program.start_and_wait(words, os.getcwd(), LIMIT_SECONDS)
    if status != 0:
        raise Failure(f"exit {status}" if status is not None else "no end in time", text)
    if not re.search(wanted, text):
        raise Failure(f"it did not say {wanted!r}", text)
    return f"exit 0 after {seconds:.1f} s"


def scenarios(name, path, in_ci=False):
    if name not in KNOWN:
        raise KeyError(name)
    return [Scenario(name, "its guest to the end", lambda: run(name, path), in_ci)]


def stress_ng_version():
    return subprocess.run(["stress-ng", "--version"], text=True, stdout=subprocess.PIPE,
                          check=True).stdout.strip()
