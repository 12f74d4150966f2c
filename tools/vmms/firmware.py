"""Firmware without a kernel: SeaBIOS to its prompt, OVMF to its shell."""
import pathlib
import shutil
import tempfile

from vmms.machine import Machine
from vmms.scenario import Scenario

OVMF = pathlib.Path("/usr/share/OVMF")
SHELL_PROMPT = "Shell>"


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


def seabios_scenarios(client, qemu):
    return [Scenario(client, f"SeaBIOS to its prompt, {machine}",
                     lambda machine=machine: seabios(qemu, machine), in_ci=machine == "pc")
            for machine in ("pc", "q35")]


def ovmf_scenarios(client, qemu):
    return [Scenario(client, "OVMF to its shell", lambda: ovmf(qemu), in_ci=True)]
