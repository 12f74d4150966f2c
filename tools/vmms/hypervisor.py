"""Debian's kernel as a hypervisor in a guest: KVM's own module there runs a guest's guest."""
from vmms import boots, debian_guest, initramfs, places
from vmms.machine import Machine
from vmms.scenario import Scenario

ROUNDS = 3
SECONDS = 120
# The kernel loads no kvm-amd on another vendor's processor.
MODEL = "max,vendor=AuthenticAMD"
FORMS = {"": "", ", shadowed by it": "npt=0"}


def run(qemu, option, cpus):
    """Boots to a program that runs virtual machines, and takes their memory away on the way."""
    words = [*boots.arguments(boots.Form("q35", cpus=cpus, model=MODEL), "program")]
    program = places.guest_program("hypervisor", (*places.STATIC, "-pthread"))
    words[words.index("-initrd") + 1] = initramfs.write(
        places.WORK / "initramfs-hypervisor", places.guest_program("init"),
        [("program", program), *debian_guest.first_files(("kvm_amd",))])
    words[words.index("-append") + 1] += f" rounds={ROUNDS} option={option}"
    with Machine(qemu, words) as guest:
        guest.wait_for("quire: guests of a guest ok", SECONDS)
        guest.wait_end(SECONDS)
        return f"two machines, two vCPUs each, {ROUNDS} rounds, none bad: {guest.cpu_seconds():.1f} s"


def scenarios(client, qemu):
    return [Scenario(client, f"KVM in a guest{name} -smp {cpus}",
                     lambda option=option, cpus=cpus: run(qemu, option, cpus), in_ci=not option and cpus == 2)
            for name, option in FORMS.items() for cpus in (1, 2)]
