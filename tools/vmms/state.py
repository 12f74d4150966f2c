"""A guest's state is saved, brought back, reset, and its memory lies in other kinds of files."""
import contextlib
import pathlib
import subprocess
import tempfile

import hugepages
from vmms import boots, memory_guest
from vmms.machine import Machine
from vmms.scenario import Failure, MissingPrivilege, Scenario

MEMORY_BYTES = 256 << 20
ROUNDS = 20


def save_and_load(qemu):
    """savevm, some time, loadvm: the guest goes on from where it was saved."""
    with tempfile.TemporaryDirectory() as folder:
        disk = pathlib.Path(folder) / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
        words = [*memory_guest.arguments(), "-drive", f"if=none,file={disk},format=qcow2"]
        with Machine(qemu, words) as machine:
            memory_guest.wait_beyond(machine, 0)
            said = machine.human("savevm one")
            saved = memory_guest.generations(machine)[-1]
            later = memory_guest.wait_beyond(machine, saved + 1)
            later = memory_guest.wait_beyond(machine, later)
            said += machine.human("stop")
            machine.seen = len(machine.text())
            said += machine.human("loadvm one") + machine.human("cont")
            if said.strip():
                machine.fail(f"the monitor said: {said}")
            resumed = memory_guest.wait_beyond(machine, -1)
            if resumed >= later:
                machine.fail(f"generation {resumed} after loadvm, {later} before")
            memory_guest.wait_beyond(machine, resumed)
            return f"saved at generation {saved}, left {later}, went on at {resumed}"


def reset(qemu, form=memory_guest.FORM):
    """The monitor resets the guest, which then starts again; then it resets itself."""
    with Machine(qemu, boots.restarting_arguments(form, "wait")) as machine:
        for _ in range(2):
            machine.wait_for("quire: up")
            machine.ask("system_reset")
        machine.wait_for("quire: up")
    with Machine(qemu, boots.arguments(form, "reboot")) as machine:
        machine.wait_for("quire: reboot")
        machine.wait_end()
        return "two resets by the monitor, one by the guest"


def backend(qemu, options, pages=0):
    """Memory from a file: so many rounds of writing and checking."""
    words = [*memory_guest.arguments(ROUNDS), "-object",
             f"memory-backend-memfd,id=memory,size={MEMORY_BYTES}{options}"]
    words[words.index("-M") + 1] += ",memory-backend=memory"
    with contextlib.ExitStack() as stack:
        missing = stack.enter_context(hugepages.reserved(pages))
        if missing:
            raise MissingPrivilege(f"{missing} huge pages are missing")
        machine = stack.enter_context(Machine(qemu, words))
        machine.wait_for("quire: poweroff")
        machine.wait_end()
        if len(memory_guest.generations(machine)) < 1:
            raise Failure("the guest did no round", machine.output())
        return f"{ROUNDS} rounds over 32 MiB, none bad"


def scenarios(client, qemu):
    huge = ",hugetlb=on,hugetlbsize=2M"
    return [Scenario(client, "savevm and loadvm", lambda: save_and_load(qemu), in_ci=True),
            Scenario(client, "reset", lambda: reset(qemu), in_ci=True),
            Scenario(client, "memory-backend-memfd", lambda: backend(qemu, ""), in_ci=True),
            Scenario(client, "memory-backend-memfd, hugetlb", in_ci=True, is_alone=True,
                     run=lambda: backend(qemu, huge, MEMORY_BYTES // hugepages.PAGE_BYTES))]
