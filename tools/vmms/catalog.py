"""Every client and what it is asked to do."""
import dataclasses
from typing import Callable

from vmms import (boots, debian_guest, firmware, foreign, hypervisor, languages, libguestfs, migration,
                  qemu10, restore, state)
from vmms.machine import Qemu

QEMU = Qemu("qemu-system-x86_64")


@dataclasses.dataclass
class Client:
    """A program of another project, or one of ours in another language."""
    name: str
    about: str
    version: Callable[[], str]
    scenarios: Callable[[], list]
    # The tier that runs it; a client without one is only run by hand.
    tier: str = "clients"
    packages: tuple = ()


def ours():
    return "a program of tests/vmms"


CLIENTS = (
    Client("qemu", "Debian's QEMU boots Debian's kernel", QEMU.version,
           lambda: [*boots.scenarios("qemu", QEMU), *state.scenarios("qemu", QEMU),
                    *firmware.seabios_scenarios("qemu", QEMU)],
           "newcomer", ("qemu-system-x86", "qemu-utils")),
    Client("migration", "two QEMUs, and a guest that writes on the way", QEMU.version,
           lambda: migration.scenarios("migration", QEMU), "newcomer", ("qemu-system-x86",)),
    Client("snapshot", "a restore by userfaultfd", ours, restore.scenarios, "newcomer"),
    # The longest ones first: they run beside the others.
    Client("libguestfs", "appliances with force_kvm", libguestfs.version, libguestfs.scenarios,
           "clients", ("libguestfs-tools", "kmod")),
    Client("ovmf", "UEFI in Debian's QEMU", QEMU.version,
           lambda: firmware.ovmf_scenarios("ovmf", QEMU), "clients", ("qemu-system-x86", "ovmf")),
    Client("debian", "a Debian system in Debian's QEMU", QEMU.version,
           lambda: debian_guest.scenarios("debian", QEMU), "clients",
           ("qemu-system-x86", "qemu-utils", "debootstrap", "e2fsprogs", "kmod")),
    Client("hypervisor", "KVM of Debian's kernel in Debian's QEMU, and its guests", QEMU.version,
           lambda: hypervisor.scenarios("hypervisor", QEMU), "clients", ("qemu-system-x86", "kmod")),
    Client("qemu10", "QEMU of the next Debian, in a root of its own", qemu10.version,
           qemu10.scenarios, "clients"),
    Client("rust", "a Rust program of ours", languages.rust_version, languages.rust_scenarios,
           "clients", ("rustc",)),
    Client("go", "a Go program of ours", languages.go_version, languages.go_scenarios, "clients",
           ("golang-go", "gcc", "libc6-dev")),
    Client("musl", "a C program of ours for musl", languages.musl_version,
           languages.musl_scenarios, "clients", ("musl-tools", "gcc")),
    Client("stress-ng", "KVM's stressor", foreign.stress_ng_version,
           lambda: foreign.scenarios("stress-ng", "/usr/bin/stress-ng", in_ci=True), "clients",
           ("stress-ng",)),
)


def find(name):
    """The client of that name; raises KeyError."""
    return {client.name: client for client in CLIENTS}[name]


def brought(name, path):
    """A client whose program the user brings; raises KeyError."""
    return Client(name, f"{path}, brought by hand", lambda: path,
                  lambda: foreign.scenarios(name, path))
