"""Debian's kernel to power-off, in every form that QEMU has for it."""
import dataclasses
import pathlib
import tempfile

from vmms import counters, initramfs, kernel, machine, places
from vmms.machine import Machine
from vmms.scenario import Failure, MissingPrivilege, Scenario

MACHINES = ("pc", "q35", "microvm")
CHIPS = {"default": "", "split": ",kernel-irqchip=split", "pit=off": ",pit=off"}
# Debian's kernel to power-off takes less, whatever the form; and in lockstep with the interpreter.
LIMIT_SECONDS = 60
LOCKSTEP_SECONDS = 1200
SECONDS_32 = 240


@dataclasses.dataclass(frozen=True)
class Form:
    """How a guest is made."""
    machine: str = "pc"
    chip: str = "default"
    image: str = "vmlinux"
    cpus: int = 1
    model: str = ""

    def title(self):
        return " ".join([self.machine, self.chip, self.image, f"-smp {self.cpus}",
                         f"-cpu {self.model or 'default'}"])


def append(work):
    return f"console=ttyS0 panic=-1 quire={work}"


def arguments(form, work):
    """QEMU's arguments for a guest whose init does work; its reset ends QEMU."""
    return [*restarting_arguments(form, work), "-no-reboot"]


def restarting_arguments(form, work):
    """The same, but a reset starts the guest again."""
    return with_init(form, work, places.guest_program("init"))


def with_init(form, work, init):
    """The same for a guest whose first program is init."""
    image = kernel.obtain()
    disk = initramfs.write(places.WORK / f"initramfs-{init.name}", init)
    extra = ["-cpu", form.model] if form.model else []
    return ["-accel", "kvm", "-M", form.machine + CHIPS[form.chip], "-m", "256",
            "-smp", str(form.cpus), *extra, "-kernel",
            image.elf if form.image == "vmlinux" else image.bzimage, "-initrd", disk,
            "-append", append(work)]


def limit_seconds():
    # Under --sanitize=tlb all is interpreted, too.
    return LOCKSTEP_SECONDS if machine.is_lockstep() or counters.is_watched() else LIMIT_SECONDS


def boot_seconds(qemu, form, options):
    """Boots to power-off; the processor time of it."""
    limit = limit_seconds()
    with Machine(qemu, arguments(form, "poweroff"), options=options) as guest:
        said = guest.wait_line("quire: up", limit)
        if f" cpus {form.cpus} " not in said:
            raise Failure(f"the guest does not see {form.cpus} processors:{said}", guest.output())
        guest.wait_for("quire: poweroff", limit)
        guest.wait_end(limit)
        cpu = guest.cpu_seconds()
        if cpu > limit:
            guest.fail(f"{cpu:.1f} s of processor time, at most {limit}")
        return cpu


def boot(qemu, form):
    with tempfile.TemporaryDirectory(prefix="quire-boot-") as folder:
        stats = pathlib.Path(folder) / "stats.json"
        cpu = boot_seconds(qemu, form, ("--stats", str(stats)))
        share = counters.check_boot(stats, form.cpus, machine.COMMON_PARAMS)
    return f"power-off after {cpu:.1f} s of processor time{share}"


def has_v3():
    """Whether the machine has what x86-64-v3 needs of YMM registers."""
    words = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return {"avx", "avx2", "fma", "f16c"} <= set(words)


def boot_v3(qemu):
    """Boots to a program that is built for x86-64-v3."""
    if not has_v3():
        raise MissingPrivilege("this machine's processor is older than x86-64-v3")
    init = places.guest_program("v3", (*places.STATIC, "-O3", "-march=x86-64-v3"))
    words = [*with_init(Form("q35", cpus=2, model="host"), "v3", init), "-no-reboot"]
    with Machine(qemu, words) as guest:
        guest.wait_for("quire: v3 ok", limit_seconds())
        guest.wait_end(limit_seconds())
        return f"its sums and registers are right after {guest.cpu_seconds():.1f} s"


def single_stage():
    """The parameter without which there is a second stage: the module is the machine's vendor's."""
    is_intel = "GenuineIntel" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "kvm_intel.ept=N" if is_intel else "kvm_amd.npt=N"


def boot_32(qemu, package, params):
    """Boots Debian's kernel for 32-bit machines to a program that fills more tables than one. The
    interpreter alone runs 32-bit code."""
    init = places.guest_program("init32", places.FREESTANDING_32)
    disk = initramfs.write(places.WORK / "initramfs-init32", init)
    model = "qemu32" if package == kernel.META_32 else "max"
    words = ["-accel", "kvm", "-M", "q35", "-m", "256", "-cpu", model, "-no-reboot", "-kernel",
             kernel.obtain_32(package), "-initrd", disk, "-append", "console=ttyS0 panic=-1"]
    with Machine(qemu, words, params=params) as guest:
        guest.wait_for("quire: 32 bits ok", SECONDS_32)
        guest.wait_end(SECONDS_32)
        return f"its pages are right after {guest.cpu_seconds():.1f} s"


def boot_wide(qemu, params):
    """Boots with five levels of page tables, to a program that has addresses of 56 bits. Only the
    bzImage's first code turns them on."""
    form = Form("q35", image="bzImage", cpus=2, model="max")
    with Machine(qemu, arguments(form, "wide"), params=params) as guest:
        guest.wait_for("quire: wide ok", limit_seconds())
        guest.wait_end(limit_seconds())
        return f"a program's pages at 56 bits of address after {guest.cpu_seconds():.1f} s"


def forms():
    """Machines by interrupt chips by kernel images; processors and models go round among them."""
    models, counts = ("", "host", "max"), (1, 2, 4)
    made = []
    for at, machine in enumerate(MACHINES):
        for by, chip in enumerate(CHIPS):
            for image in ("vmlinux", "bzImage"):
                turn = at + by + (image == "bzImage")
                made.append(Form(machine, chip, image, counts[turn % 3], models[(at + by) % 3]))
    return made


# Every machine, chip, image, count and model once at least.
CI_FORMS = (Form("pc", "default", "vmlinux", 1), Form("q35", "split", "vmlinux", 2, "host"),
            Form("microvm", "default", "vmlinux", 1, "max"),
            Form("pc", "pit=off", "vmlinux", 4), Form("q35", "default", "bzImage", 1))


def scenarios(client, qemu, ci_forms=CI_FORMS):
    wanted = list(dict.fromkeys([*ci_forms, *forms()]))
    if machine.is_lockstep():
        wanted = [form for form in wanted if form.cpus == 1]
    made = [Scenario(client, f"boot {form.title()}", lambda form=form: boot(qemu, form),
                     in_ci=form in ci_forms) for form in wanted]
    made += [Scenario(client, f"boot with five levels of page tables{name}",
                      lambda params=params: boot_wide(qemu, params),
                      in_ci=ci_forms is CI_FORMS) for name, params in (("", ()), (", shadowed", (single_stage(),)))]
    made += [Scenario(client, f"boot of 32 bits, {name}{stage}",
                      lambda package=package, params=params: boot_32(qemu, package, params))
             for name, package in (("two levels", kernel.META_32), ("PAE", kernel.META_PAE))
             for stage, params in (("", ()), (", shadowed", (single_stage(),)))]
    if not machine.is_lockstep():
        made.append(Scenario(client, "boot of a program for x86-64-v3", lambda: boot_v3(qemu),
                             in_ci=ci_forms is CI_FORMS))
    return made
