"""Installs Debian packages, as root or through sudo."""
import os
import shutil
import subprocess

import check_report
import program
from vmms import catalog

# Beyond what the build takes, by the suite that needs them.
WANTED = {"arm64": ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user-static"),
          "walkers": ("qemu-system-x86", "bochs", "bochsbios", "vgabios", "qemu-system-misc",
                      "gcc-riscv64-linux-gnu", "qemu-system-arm", "gcc-aarch64-linux-gnu",
                      "qemu-system-ppc", "gcc-powerpc64le-linux-gnu"),
          "roots": ("debootstrap", "cpio", "util-linux"),
          "package": ("lintian", "dpkg-dev", "gcc", "g++", "man-db"),
          "page": ("chromium", "fonts-dejavu-core"),
          "tcg-guest": ("qemu-system-x86",),
          "demo-vm": ("qemu-system-x86", "gcc", "libc6-dev"),
          "kernel": ("make", "xz-utils", "uuid-dev", "libc6-dev", "linux-libc-dev"),
          **{client.name: client.packages for client in catalog.CLIENTS}}


def is_installed(package):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return done.stdout == "installed"


def missing(suites):
    """What these suites need and the machine has not, each once."""
    return missing_of(name for suite in suites for name in WANTED.get(suite, ()))


def missing_of(names):
    return [name for name in dict.fromkeys(names) if not is_installed(name)]


def may_install():
    return os.getuid() == 0 or shutil.which("sudo") is not None


def install(names):
    """The outcome of installing them; without the privilege to, the suites skip what they lack."""
    if not may_install():
        return check_report.Outcome("skip", f"not root and no sudo: {' '.join(names)}")
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    text = ""
    for words in (["update"], ["install", "-y", "--no-install-recommends", *names]):
        status, printed, _ = program.start_and_wait(program.as_root(*quiet, *words), "/", 900)
        text += printed
        if status:
            return check_report.Outcome("fail", f"apt-get {words[0]}: exit {status}", text)
    return check_report.Outcome("pass", " ".join(names))
