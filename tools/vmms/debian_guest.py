"""A Debian system, installed by debootstrap, as a guest on virtio devices: login, network, power-off."""
import functools
import hashlib
import http.server
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

import cache
import debian
from vmms import boots, initramfs, kernel, places
from vmms.machine import Machine, is_lockstep
from vmms.scenario import MissingPrivilege, Scenario

SUITE = "bookworm"
# Of each system: the folder of the cache, and the packages that a minimal one has not.
SYSTEMS = {"sysvinit": ("debian-guest", ("sysvinit-core", "busybox", "iproute2", "kmod")),
           "systemd": ("debian-guest-systemd", ("systemd-sysv", "udev", "busybox", "kmod"))}
IMAGE_SIZE = "700M"
# What has to be there before the root can be mounted, and what the root's devices need.
MODULES = ("virtio_pci", "virtio_mmio", "virtio_blk", "ext4", "crc32c_generic", "virtio_net",
           "virtio_rng")
DOWNLOAD_BYTES = 3 << 20
INITTAB = """\
id:2:initdefault:
si::sysinit:/etc/init.d/rcS
l0:0:wait:/etc/init.d/rc 0
l2:2:wait:/etc/init.d/rc 2
l6:6:wait:/etc/init.d/rc 6
T0:2:respawn:/sbin/getty -L ttyS0 115200 vt100
"""
# Set apart from what is typed, so that the echo on the console is no answer.
COMMANDS = """\
busybox ifconfig eth0 up; busybox udhcpc -i eth0 -n -q -s /etc/dhcp-set >/dev/null 2>&1
busybox wget -q -O /data http://10.0.2.2:{port}/data; sync; busybox sha256sum /data
echo rng=$(cat /sys/class/misc/hw_random/rng_current) bytes=$(head -c 64 /dev/hwrng | wc -c)
echo root=$(busybox awk '$2 == "/" {{ print $1, $3 }}' /proc/mounts) done-$((40 + 2))
"""
# What the processor is to the kernel and to glibc, and the system to systemd.
FEATURES = """\
v3=$(/lib64/ld-linux-x86-64.so.2 --help | grep -c 'x86-64-v3 (supported')
echo "la57"=$(grep -c -w la57 /proc/cpuinfo) v3=$v3 $(systemctl is-system-running --wait)
systemctl --failed --no-legend --no-pager
"""
DHCP = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/24" dev "$interface"
ip route add default via "$router"
"""


def settle(root):
    """What makes the fresh system one that a test can log in to."""
    (root / "etc/inittab").write_text(INITTAB)
    # systemd would ask at the first boot otherwise.
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/hostname").write_text("quire\n")
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (root / "etc/dhcp-set").write_text(DHCP)
    (root / "etc/dhcp-set").chmod(0o755)
    shadow = root / "etc/shadow"
    shadow.write_text("\n".join("root::" + line.partition(":")[2].partition(":")[2]
                                if line.startswith("root:") else line
                                for line in shadow.read_text().splitlines()) + "\n")


def obtain(system="sysvinit"):
    """The disk image of the system."""
    if os.getuid() != 0:
        raise MissingPrivilege("debootstrap needs root")
    name, extra = SYSTEMS[system]
    base = cache.root() / name
    image = base / "disk.img"
    with cache.locked(name):
        if not image.exists():
            shutil.rmtree(base, ignore_errors=True)
            base.mkdir(parents=True)
            cache.say(f"installing a Debian {SUITE} guest with {system} (about 60 MB)")
            debian.run(["debootstrap", "--variant=minbase", f"--include={','.join(extra)}", SUITE,
                        str(base / "root"), debian.mirror()], base / "log")
            settle(base / "root")
            shutil.rmtree(base / "root/var/cache/apt", ignore_errors=True)
            new = base / "disk.new"
            debian.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", str(base / "root"), str(new),
                        IMAGE_SIZE], base / "log")
            shutil.rmtree(base / "root")
            new.rename(image)
    return image


def first_files(names=MODULES):
    """init's archive: modules that it loads in the order of their names."""
    image = kernel.obtain()
    kernel.index_modules(image)
    return [(f"modules/{at:02}-{file.name}", file)
            for at, file in enumerate(kernel.module_files(image, names))]


class Server:
    """Serves one folder on the loopback for the guest's network."""

    def __init__(self, folder):
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass
        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_port

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def arguments(machine_type, disk, archive, image="elf", model=()):
    bus = "device" if machine_type == "microvm" else "pci"
    cpus = "1" if is_lockstep() else "2"
    return ["-accel", "kvm", "-M", machine_type, "-m", "512", "-smp", cpus, "-no-reboot", *model,
            "-kernel", getattr(kernel.obtain(), image), "-initrd", archive,
            "-append", "console=ttyS0 panic=-1 quire=root",
            "-drive", f"if=none,id=disk,format=qcow2,file={disk}",
            "-device", f"virtio-blk-{bus},drive=disk",
            "-netdev", "user,id=net", "-device", f"virtio-net-{bus},netdev=net",
            "-object", "rng-random,id=rng,filename=/dev/urandom",
            "-device", f"virtio-rng-{bus},rng=rng"]


def use(qemu, machine_type):
    """Boots the system, logs in, uses its disk, its network and its random numbers, ends it."""
    image = obtain()
    archive = initramfs.write(places.WORK / "initramfs-root", places.guest_program("init"),
                              first_files())
    data = os.urandom(DOWNLOAD_BYTES)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "data").write_bytes(data)
        # The guest writes into a file of its own, above the image.
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image),
                        str(folder / "disk")], check=True)
        with Server(folder) as server, Machine(
                qemu, arguments(machine_type, folder / "disk", archive)) as machine:
            machine.wait_for("quire login:", 240)
            machine.type("root\n")
            machine.wait_for("# ", 120)
            machine.type(COMMANDS.format(port=server.port))
            machine.wait_for(f"{hashlib.sha256(data).hexdigest()}  /data", 240)
            machine.wait_for("rng=virtio_rng", 60)
            machine.wait_for("bytes=64", 60)
            machine.wait_for("root=/dev/vda ext4 done-42", 60)
            machine.type("poweroff\n")
            machine.wait_for("reboot: Power down", 240)
            machine.wait_end()
            return (f"login, {DOWNLOAD_BYTES >> 20} MiB by virtio-net onto virtio-blk, 64 bytes of "
                    f"virtio-rng, power-off: {machine.cpu_seconds():.1f} s of processor time")


def use_wide(qemu):
    """Boots the system with systemd to a login, with all that the processor offers: five levels of
    page tables, which the bzImage's first code turns on, and x86-64-v3."""
    if not boots.has_v3():
        raise MissingPrivilege("this machine's processor is older than x86-64-v3")
    image = obtain("systemd")
    archive = initramfs.write(places.WORK / "initramfs-root", places.guest_program("init"),
                              first_files())
    with tempfile.TemporaryDirectory() as name:
        disk = pathlib.Path(name) / "disk"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image),
                        str(disk)], check=True)
        with Machine(qemu, arguments("q35", disk, archive, "bzimage", ("-cpu", "max"))) as machine:
            machine.wait_for("quire login:", 300)
            machine.type("root\n")
            machine.wait_for("# ", 120)
            machine.type(FEATURES)
            said = machine.wait_line("la57=", 240)
            if said.split() != ["1" if is_lockstep() else "2", "v3=1", "running"]:
                machine.fail(f"the guest has la57={said}")
            machine.type("poweroff\n")
            machine.wait_for("reboot: Power down", 240)
            machine.wait_end()
            return (f"login, five levels, x86-64-v3, all units up, power-off: "
                    f"{machine.cpu_seconds():.1f} s of processor time")


def scenarios(client, qemu):
    made = [Scenario(client, f"a Debian root on virtio, {machine}",
                     lambda machine=machine: use(qemu, machine), in_ci=machine == "q35")
            for machine in ("q35", "pc", "microvm")]
    made.append(Scenario(client, "Debian with systemd, five levels of page tables, x86-64-v3",
                         lambda: use_wide(qemu)))
    return made
