"""libguestfs: its own test of an appliance, and a disk made, filled and read back by guestfish."""
import hashlib
import os
import pathlib
import subprocess
import tempfile

import program
from vmms import kernel, places
from vmms.scenario import Failure, Scenario

LIMIT_SECONDS = 1500
FILES = 40


# supermin takes this folder's mode from the machine, which has none without a kernel of its own.
MODULES = pathlib.Path("/lib/modules")


def environment(folder, setting="force_kvm"):
    """The appliance is made of the machine's programs and of the kernel in our cache."""
    image = kernel.obtain()
    if not MODULES.exists():
        status, text, _ = program.start_and_wait(program.as_root("mkdir", "-p", str(MODULES)), "/", 60)
        if status:
            raise Failure(f"{MODULES} cannot be made", text)
    kernel.index_modules(image)
    base = places.WORK / "libguestfs"
    base.mkdir(parents=True, exist_ok=True)
    return {**os.environ, "LIBGUESTFS_BACKEND": "direct",
            "LIBGUESTFS_BACKEND_SETTINGS": setting, "LIBGUESTFS_CACHEDIR": str(base),
            "TMPDIR": str(folder), "SUPERMIN_KERNEL": str(image.bzimage),
            "SUPERMIN_KERNEL_VERSION": image.release, "SUPERMIN_MODULES": str(image.modules)}


def run(command, folder):
    words = [*places.RUN, "--", *command]
    status, text, seconds = program.start_and_wait(words, folder, LIMIT_SECONDS,
                                                   environment(folder))
    if status != 0:
        raise Failure(f"exit {status}" if status is not None else "no end in time", text)
    return text, seconds


def test_tool():
    with tempfile.TemporaryDirectory(prefix="quire-guestfs-") as folder:
        text, seconds = run(["libguestfs-test-tool", "-t", str(LIMIT_SECONDS)], folder)
        if "TEST FINISHED OK" not in text:
            raise Failure("it did not say TEST FINISHED OK", text)
        if "accel=kvm" not in text:
            raise Failure("its QEMU did not run with KVM", text)
        return f"TEST FINISHED OK after {seconds:.0f} s"


def make_tree(top):
    """Some folders and files, of lengths around those of blocks."""
    for at in range(FILES):
        path = top / f"folder{at % 4}" / f"file{at}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha256(str(at).encode()).digest() * (at * 37))


def guestfish():
    """A disk is made, partitioned, filled with a tree of files; another guest reads it back."""
    with tempfile.TemporaryDirectory(prefix="quire-guestfs-") as name:
        folder = pathlib.Path(name)
        make_tree(folder / "tree")
        subprocess.run(["tar", "-C", str(folder / "tree"), "-cf", str(folder / "in.tar"), "."],
                       check=True)
        (folder / "write").write_text(f"""\
disk-create {folder}/disk raw 96M
add {folder}/disk format:raw
run
part-disk /dev/sda mbr
mkfs ext4 /dev/sda1
mount /dev/sda1 /
tar-in {folder}/in.tar /
umount-all
""")
        (folder / "read").write_text(f"""\
add {folder}/disk format:raw readonly:true
run
mount-ro /dev/sda1 /
tar-out / {folder}/out.tar
""")
        run(["guestfish", "-f", str(folder / "write")], folder)
        run(["guestfish", "-f", str(folder / "read")], folder)
        (folder / "back").mkdir()
        subprocess.run(["tar", "-C", str(folder / "back"), "-xf", str(folder / "out.tar")],
                       check=True)
        compared = subprocess.run(["diff", "-r", "-x", "lost+found", "tree", "back"], cwd=folder,
                                  text=True, stdout=subprocess.PIPE, check=False)
        if compared.returncode:
            raise Failure("what came back differs", compared.stdout)
        return f"{FILES} files written by one guest and read back by another"


def version():
    return subprocess.run(["guestfish", "--version"], text=True, stdout=subprocess.PIPE,
                          check=True).stdout.strip()


def scenarios():
    return [Scenario("libguestfs", "libguestfs-test-tool", test_tool, in_ci=True),
            Scenario("libguestfs", "guestfish: a disk, a partition, a tree of files", guestfish,
                     in_ci=True)]
