"""Other distributions as plain folders, in which this tree builds and runs its quick tests. As root, or 77."""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys

import cache
import debian

TREE = pathlib.Path(__file__).resolve().parent.parent
# Name: suite, script of debootstrap's, mirror, its components.
ROOTS = {
    "debian-13": ("trixie", "sid", debian.mirror(), "main"),
    "ubuntu-24.04": ("noble", "gutsy", "http://archive.ubuntu.com/ubuntu", "main,universe"),
}
# What a root needs; it goes with the namespace of mounts. /dev is its own, without the machine's
# /dev/kvm.
MOUNTS = """set -eu
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/dev"
for node in null zero full random urandom tty; do
	touch "$1/dev/$node"
	mount --bind "/dev/$node" "$1/dev/$node"
done
mkdir "$1/dev/pts" "$1/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
mount -t tmpfs tmpfs "$1/dev/shm"
"""
APART = ("unshare", "--mount", "--propagation", "private")
INSIDE = MOUNTS + """
exec chroot "$1" sh -c 'cd /quire && exec ./dev test --quick'
"""


def make(name):
    """The root's folder, made at the first use."""
    suite, script, mirror, components = ROOTS[name]
    folder = cache.root() / "roots" / name
    with cache.locked(f"root-{name}"):
        if folder.exists():
            return folder
        half = folder.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        cache.say(f"making a root of {name}")
        # Debian has no key of Ubuntu's; the root is for a test, and is not kept for anything else.
        debian.run(["debootstrap", "--variant=minbase", "--no-check-gpg",
                    f"--components={components}", suite, str(half), mirror,
                    f"/usr/share/debootstrap/scripts/{script}"], folder.with_suffix(".log"))
        half.rename(folder)
    return folder


def names_of_tree(*options):
    """What git knows of, one name a file."""
    listed = subprocess.run(["git", "ls-files", "-z", "--deduplicate", *options], cwd=TREE,
                            check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name for name in listed.split("\0") if name}


def copied_files(copy):
    """The names of an earlier copy's files, without what was built there."""
    for folder, folders, files in os.walk(copy):
        here = pathlib.Path(folder).relative_to(copy)
        folders[:] = [name for name in folders if here.parts or not name.startswith("build")]
        yield from (str(here / name) for name in files)


def copy_tree(folder):
    """The committed files and those that are changed; what an earlier run built there is kept."""
    copy = folder / "quire"
    copy.mkdir(exist_ok=True)
    names = names_of_tree() - names_of_tree("--deleted")
    for name in set(copied_files(copy)) - names:
        (copy / name).unlink()
    subprocess.run(["cpio", "--quiet", "-0pdmu", str(copy)], input="\0".join(sorted(names)), text=True,
                   cwd=TREE, check=True)
    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(ROOTS))
    name = parser.parse_args(argv).name
    if os.getuid():
        print("only root makes a root")
        return 77
    try:
        folder = make(name)
    except cache.Unavailable as error:
        print(error)
        return 77
    copy_tree(folder)
    return subprocess.run([*APART, "sh", "-c", INSIDE, "sh", str(folder)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
