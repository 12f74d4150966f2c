"""Firmware without a kernel: SeaBIOS to its prompt, OVMF to its shell, with system management mode too."""
import pathlib
import shutil
import tempfile

from vmms.machine import Machine
from vmms.scenario import Failure, Scenario

OVMF = pathlib.Path("/usr/share/OVMF")
SHELL_PROMPT = "Shell>"
# A variable of ours; EFI keeps its own names for what it knows.
VARIABLE = "quirevar"
VENDOR = "5f3c1b7e-2a64-4d0b-9c11-7e0d5a3b9f42"


def seabios(qemu, machine_type):
    """Without a disk SeaBIOS offers its menu, and says that there is nothing to boot."""
    words = ["-accel", "kvm", "-M", f"{machine_type},graphics=off", "-m", "64", "-boot", "menu=on"]
    with Machine(qemu, words) as machine:
        machine.wait_for("SeaBIOS (version")
        machine.wait_for("boot menu")
        machine.wait_for("No bootable device")
        return f"no bootable device after {machine.cpu_seconds():.1f} s of processor time"


def ovmf(qemu):
    """UEFI comes up from flash, and its shell carries out a command."""
    with tempfile.TemporaryDirectory() as folder:
        variables = pathlib.Path(folder) / "variables"
        shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
        words = ["-accel", "kvm", "-M", "q35", "-m", "256",
                 "-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
                 "-drive", f"if=pflash,format=raw,file={variables}"]
        with Machine(qemu, words) as machine:
            machine.wait_for("UEFI Interactive Shell", 240)
            machine.wait_for(SHELL_PROMPT, 60)
            machine.type("echo quire-%cwd%-answers\r")
            machine.wait_for("quire--answers", 60)
            machine.type("reset -s\r")
            machine.wait_end(60)
            return f"shell, a command, power-off: {machine.cpu_seconds():.1f} s of processor time"


def ovmf_smm(qemu, cpus):
    """
    The build with system management mode, which writes variables there alone: flash is out of the
    guest's reach elsewhere. Each processor's SMRAM is moved, and a variable comes to the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        variables = pathlib.Path(folder) / "variables"
        shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
        words = ["-accel", "kvm", "-M", "q35,smm=on", "-m", "256", "-smp", cpus,
                 "-global", "driver=cfi.pflash01,property=secure,value=on", "-drive",
                 f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.secboot.fd",
                 "-drive", f"if=pflash,format=raw,file={variables}"]
        with Machine(qemu, words) as machine:
            machine.wait_for("UEFI Interactive Shell", 240)
            machine.type("\x1b")
            machine.wait_for(SHELL_PROMPT, 60)
            machine.type(f"setvar {VARIABLE} -guid {VENDOR} -bs -rt -nv =0x5a\r")
            machine.wait_for(SHELL_PROMPT, 60)
            machine.type("reset -s\r")
            machine.wait_end(60)
            seconds = machine.cpu_seconds()
            if VARIABLE.encode("utf-16-le") not in variables.read_bytes():
                raise Failure("the variable is not in flash", machine.text())
    return f"shell, a variable in flash, power-off: {seconds:.1f} s of processor time"


def seabios_scenarios(client, qemu):
    return [Scenario(client, f"SeaBIOS to its prompt, {machine}",
                     lambda machine=machine: seabios(qemu, machine), in_ci=machine == "pc")
            for machine in ("pc", "q35")]


def ovmf_scenarios(client, qemu):
    return [Scenario(client, "OVMF to its shell", lambda: ovmf(qemu), in_ci=True),
            *(Scenario(client, f"OVMF with system management mode -smp {cpus}",
                       lambda cpus=cpus: ovmf_smm(qemu, cpus), in_ci=cpus == 1)
              for cpus in (1, 4))]
