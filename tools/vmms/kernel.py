"""Debian's own kernel, from its package: vmlinuz, the vmlinux inside it, and its modules."""
import dataclasses
import lzma
import pathlib
import re
import shutil
import struct

import cache
import debian

META, SUITE = "linux-image-amd64", "bookworm"
# For 32-bit machines, without PAE and with it.
META_32, META_PAE = "linux-image-686", "linux-image-686-pae"
# What the guests of the tests load; Debian builds these as modules.
SETUP_SECTORS, PAYLOAD = 0x1F1, 0x248
SECTOR_BYTES = 512
XZ = b"\xfd7zXZ\0"


@dataclasses.dataclass
class Kernel:
    """The files of one version."""
    release: str
    folder: pathlib.Path

    @property
    def bzimage(self):
        return self.folder / "vmlinuz"

    @property
    def elf(self):
        return self.folder / "vmlinux"

    @property
    def modules(self):
        return self.folder / "lib/modules" / self.release


def elf_of(image):
    """The ELF file in a bzImage: its header says where the compressed payload lies."""
    sectors = image[SETUP_SECTORS] or 4
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    payload = image[(sectors + 1) * SECTOR_BYTES + offset:][:length]
    if not payload.startswith(XZ):
        raise cache.Unavailable(f"the kernel is packed in a way that is not known here: {payload[:6]}")
    # Its length stands behind the payload, for a loader that wants to know it beforehand.
    elf = lzma.decompress(payload[:-4])
    if not elf.startswith(b"\x7fELF"):
        raise cache.Unavailable("the kernel's payload is no ELF file")
    return elf


def fill(folder, suite, package):
    """Takes the parts that are needed out of the package."""
    deb = suite.download(package, folder)
    debian.run(["dpkg-deb", "-x", str(deb), str(folder / "root")], folder / "log")
    deb.unlink()
    image = next((folder / "root/boot").glob("vmlinuz-*"))
    shutil.copy(image, folder / "vmlinuz")
    (folder / "vmlinux").write_bytes(elf_of(image.read_bytes()))
    shutil.move(folder / "root/lib", folder / "lib")
    shutil.rmtree(folder / "root")


def obtain():
    """The newest kernel of Debian 12 that the cache has, or else that the archive has."""
    base = cache.root() / "kernel"
    with cache.locked("kernel"):
        done = sorted(path for path in base.glob("*/done") if (path.parent / "lib").exists())
        if not done:
            suite = debian.Suite(SUITE)
            found = re.search(r"Depends: (linux-image-\S+)", suite.ask("show", META))
            if not found:
                raise cache.Unavailable(f"{SUITE} has no {META}")
            folder = base / found.group(1).removeprefix("linux-image-")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            cache.say(f"downloading {found.group(1)} (about 70 MB)")
            fill(folder, suite, found.group(1))
            (folder / "done").touch()
            done = [folder / "done"]
    return Kernel(done[-1].parent.name, done[-1].parent)


def obtain_32(meta):
    """The bzImage of one of Debian's kernels for 32-bit machines."""
    folder = cache.root() / "kernel-i386"
    image = folder / meta
    with cache.locked("kernel-i386"):
        if not image.exists():
            folder.mkdir(parents=True, exist_ok=True)
            suite = debian.Suite(SUITE, "i386")
            found = re.search(r"Depends: (linux-image-\S+)", suite.ask("show", meta))
            if not found:
                raise cache.Unavailable(f"{SUITE} has no {meta}")
            cache.say(f"downloading {found.group(1)} (about 50 MB)")
            deb = suite.download(found.group(1), folder)
            debian.run(["dpkg-deb", "-x", str(deb), str(folder / "root")], folder / "log")
            deb.unlink()
            next((folder / "root/boot").glob("vmlinuz-*")).rename(image)
            shutil.rmtree(folder / "root")
    return image


def index_modules(kernel):
    """Makes modules.dep and its like, which the package leaves to its installation."""
    if not (kernel.modules / "modules.dep").exists():
        debian.run(["/sbin/depmod", "-b", str(kernel.folder), kernel.release], kernel.folder / "log")


def module_files(kernel, names):
    """Paths of modules and of what they need, in the order of loading."""
    needs = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[pathlib.Path(path).name.split(".")[0].replace("-", "_")] = [*rest.split()[::-1], path]
    return list(dict.fromkeys(kernel.modules / path for name in names for path in needs[name]))
