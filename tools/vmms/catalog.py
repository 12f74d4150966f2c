"""Every client and what it is asked to do."""
import dataclasses
from typing import Callable

from vmms import boots, migration, rust, state
from vmms.machine import Qemu

QEMU = Qemu("qemu-system-x86_64")


@dataclasses.dataclass
class Client:
    """A program that nobody here wrote, or one of ours in another language."""
    name: str
    about: str
    version: Callable[[], str]
    scenarios: Callable[[], list]
    # The tier that runs it; a client without one is only run by hand.
    tier: str = "clients"
    packages: tuple = ()


CLIENTS = (
    Client("qemu", "Debian's QEMU boots Debian's kernel", QEMU.version,
           lambda: [*boots.scenarios("qemu", QEMU), *state.scenarios("qemu", QEMU)],
           "newcomer", ("qemu-system-x86", "qemu-utils")),
    Client("migration", "two QEMUs, and a guest that writes on the way", QEMU.version,
           lambda: migration.scenarios("migration", QEMU), "newcomer", ("qemu-system-x86",)),
    Client("rust", "a Rust program of ours", rust.version, rust.scenarios, "clients", ("rustc",)),
)


def find(name):
    """The client of that name; raises KeyError."""
    return {client.name: client for client in CLIENTS}[name]
