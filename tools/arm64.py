"""What a build for arm64 needs on this machine: Meson's description of the compiler, cmocka, and QEMU's
user emulation to run what was built."""
import subprocess

import cache
import debian

TOOLS = "aarch64-linux-gnu"
CMOCKA = ("libcmocka-dev", "libcmocka0")

MACHINE = """[binaries]
c = '{tools}-gcc'
ar = '{tools}-ar'
strip = '{tools}-strip'
objcopy = '{tools}-objcopy'
pkgconfig = 'pkg-config'
exe_wrapper = {wrapper}

[properties]
sys_root = '{root}'
pkg_config_libdir = '{libraries}/pkgconfig'

[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'aarch64'
endian = 'little'
"""


def cmocka_root(place):
    """Debian's cmocka for arm64, unpacked: this machine's packages stay as they are."""
    root = place / "root"
    if not root.exists():
        suite = debian.Suite("bookworm", "arm64")
        for package in CMOCKA:
            archive = suite.download(package, place)
            subprocess.run(["dpkg", "-x", str(archive), str(root)], check=True)
    return root


def folder():
    return cache.root() / "arm64"


def libraries():
    return folder() / "root/usr/lib" / TOOLS


def emulator():
    """What runs a program, those that are linked with cmocka too."""
    return ["qemu-aarch64-static", "-L", f"/usr/{TOOLS}", "-E", f"LD_LIBRARY_PATH={libraries()}"]


def machine_file():
    """Meson's cross file for this machine, made if it must be."""
    folder().mkdir(parents=True, exist_ok=True)
    path = folder() / "machine.ini"
    path.write_text(MACHINE.format(tools=TOOLS, wrapper=emulator(), libraries=libraries(),
                                   root=cmocka_root(folder())))
    return path
