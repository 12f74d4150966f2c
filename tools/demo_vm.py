"""'./dev demo --vm': Debian's kernel in Debian's QEMU on Quire; the guest migrates while it writes.

usage: demo_vm.py [--picture FILE.svg]   --picture: the guest's memory in the middle of it
"""
import pathlib
import subprocess
import sys
import tempfile

import hide_kvm
import packages
from vmms import catalog, counters, memory_guest, migration, scenario
from vmms.machine import Machine

# What of KVM's counters tells a reader something about a boot and a migration.
MEMORY = ("pages_4k", "pages_2m", "pages_1g", "pf_taken", "pf_fixed", "pf_fast", "pf_emulate")
EXITS = ("exits", "io_exits", "mmio_exits", "halt_exits", "irq_window_exits", "signal_exits",
         "irq_injections")
# The kernel's first lines and the last ones before init; all of them are in the log.
SHOWN = ("Linux version", "DMI:", "Memory:", "smpboot: Total", "Run /init", "quire: up")


def say(text):
    print(text, flush=True)


def show_boot(machine):
    for line in machine.text().splitlines():
        if any(text in line for text in SHOWN):
            say(f"   {line[:110]}")


def show_counters(title, path):
    found = counters.totals(path)
    say(f"{title}:")
    for about, names in (("memory", MEMORY), ("exits", EXITS)):
        shown = [f"{name} {found[name]:,}" for name in names if found.get(name)]
        say(f"   {about:<7} {', '.join(shown)}")


class Photographer:
    """Takes pictures of a machine's memory while it is sent, and keeps the one with the most dirt. At
    first every page counts as dirty."""

    CELLS, DOT = 512, b'<circle class="d"'

    def __init__(self, machine, path):
        self.machine, self.path, self.most = machine, path, -1

    def __call__(self, _account):
        quire = self.machine.qemu.launcher[0]
        done = subprocess.run([quire, "view", "--svg", "--cells", str(self.CELLS),
                               str(self.machine.child.pid)], stdout=subprocess.PIPE, check=False)
        dots = done.stdout.count(self.DOT)
        if done.returncode == 0 and self.most < dots < self.CELLS / 2:
            self.most = dots
            self.path.write_bytes(done.stdout)


def run(folder, picture):
    qemu = catalog.QEMU
    say(f"{qemu.version()}, unmodified, with -accel kvm; /dev/kvm of this machine: "
        f"{hide_kvm.hide()}")
    words = memory_guest.arguments()
    files = [folder / "source.json", folder / "target.json"]
    with Machine(qemu, words, options=("--stats", str(files[0]))) as source:
        source.wait_line("quire: up")
        say(f"Debian's kernel is up after {source.cpu_seconds():.1f} s of processor time:")
        show_boot(source)
        first = memory_guest.wait_beyond(source, 0)
        say(f"The guest writes and checks 32 MiB again and again; it is at generation {first}.")
        with Machine(qemu, [*words, "-incoming", "defer"],
                     options=("--stats", str(files[1]))) as target:
            target.ask("migrate-incoming", uri=f"unix:{target.folder}/migration")
            account = migration.transfer(source, target.folder / "migration",
                                         at_each=Photographer(source, picture))
            last = memory_guest.generations(source)[-1]
            final = memory_guest.wait_beyond(target, memory_guest.wait_beyond(target, last))
            say(f"It migrated to a second QEMU: {migration.dirtied_pages(account):,} pages were "
                f"written on the way and sent again, {account['downtime']} ms without a guest.")
            say(f"There it went on from generation {last}; it is at {final}, and no page was bad.")
            say(f"What its memory was like meanwhile: {picture}")
            for machine in (source, target):
                machine.ask("quit")
                machine.wait_end()
    show_counters("The first QEMU", files[0])
    show_counters("The second QEMU", files[1])


def main():
    picture = pathlib.Path("build/migration.svg")
    if "--picture" in sys.argv:
        picture = pathlib.Path(sys.argv[sys.argv.index("--picture") + 1])
    missing = packages.missing_of(catalog.find("qemu").packages)
    if missing:
        say(f"installing {' '.join(missing)}")
        outcome = packages.install(missing)
        if outcome.result != "pass":
            say(outcome.remark)
            return 1
    try:
        with tempfile.TemporaryDirectory(prefix="quire-demo-") as folder:
            run(pathlib.Path(folder), picture)
    except scenario.Failure as error:
        say(f"{error}\n{error.output[-3000:]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
