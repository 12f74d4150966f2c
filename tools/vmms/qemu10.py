"""QEMU of the next Debian release, in a root of its own made of that release's packages."""
import os
import pathlib
import shutil

import cache
import debian
from vmms import boots, places
from vmms.machine import Qemu
from vmms.scenario import MissingPrivilege, Scenario

SUITE = "trixie"
PACKAGES = ("qemu-system-x86",)
# By the processors of other architectures tests/walkers has tables walked: in a root of their own.
WALKERS = ("qemu-system-ppc", "qemu-system-riscv")
ENTER = pathlib.Path(__file__).with_name("enter_root.sh")
PROGRAM = "/usr/bin/qemu-system-x86_64"


def obtain(packages=PACKAGES, name="qemu10"):
    """The root, unpacked; nothing in it was configured, for only QEMU runs there."""
    base = cache.root() / name
    with cache.locked(name):
        if not (base / "done").exists():
            shutil.rmtree(base, ignore_errors=True)
            (base / "root").mkdir(parents=True)
            # Every package goes through these links, which base-files would make.
            for link in ("bin", "sbin", "lib", "lib64"):
                (base / "root/usr" / link).mkdir(parents=True)
                (base / "root" / link).symlink_to(f"usr/{link}")
            cache.say(f"downloading QEMU of {SUITE} and what it needs (about 80 MB)")
            for deb in debian.Suite(SUITE).download_all(packages):
                unpack(deb, base)
            (base / "done").touch()
    return base / "root"


def obtain_walkers():
    return obtain(WALKERS, "qemu10-walkers")


def unpack(deb, base):
    debian.run(["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" | tar -xf - -C "$2" --keep-directory-symlink',
                "sh", str(deb), str(base / "root")], base / "log")
    deb.unlink()


def qemu():
    """The program, started in its root; the folders of the tests are mounted there for it alone."""
    if os.getuid() != 0:
        raise MissingPrivilege("only root may change to another root")
    found = Qemu(PROGRAM)
    shared = [str(places.TREE / "build"), str(cache.root()), "/tmp"]
    found.launcher = ["unshare", "--mount", "sh", str(ENTER), str(obtain()), *shared, "--",
                      *found.launcher]
    return found


def version():
    root = obtain()
    name = next((root / "usr/share/doc/qemu-system-x86").glob("changelog.Debian*"), None)
    return f"QEMU of Debian {SUITE}" if name is None else qemu_version(root)


def qemu_version(root):
    """The version that the program itself has in its text."""
    text = (root / PROGRAM[1:]).read_bytes()
    at = text.find(b"(Debian 1:")
    return "QEMU " + text[at + len(b"(Debian 1:"):at + 40].split(b")")[0].decode()


FORMS = (boots.Form("q35", "default"), boots.Form("pc", "default"),
         boots.Form("microvm", "default"), boots.Form("q35", "split", cpus=2))


def scenarios():
    return [Scenario("qemu10", f"boot {form.title()}",
                     lambda form=form: boots.boot(qemu(), form), in_ci=True) for form in FORMS]
