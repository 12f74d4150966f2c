"""Gets the Linux kernel's KVM selftests from Debian's source package and builds them, unmodified.

Everything lands in a cache outside the tree, with an apt state of its own, so that neither the tree
nor the machine's apt configuration changes.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

SUITE = "trixie-backports"
WANTED = (7, 3)
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUBSET = ("Makefile", "Kbuild", "scripts", "include", "arch/x86", "tools", "usr", "drivers/dma",
          "drivers/net/ethernet/intel")
TESTS = "tools/testing/selftests/kvm"


class Unavailable(Exception):
    """The programs cannot be had; the text says why."""


def say(text):
    print(f"conformance: {text}", file=sys.stderr, flush=True)


def cache_root():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "quire"


def run(command, log, **options):
    """Runs a step whose output only matters when it fails."""
    with open(log, "ab") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, check=False, **options)
    if done.returncode != 0:
        tail = pathlib.Path(log).read_text(errors="replace").splitlines()[-15:]
        raise Unavailable("\n".join([f"{command[0]} failed ({log})"] + tail))


def apt_options(state):
    """An apt state of our own; returns the options that make apt use it."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    mirror = os.environ.get("QUIRE_DEBIAN_MIRROR", "http://deb.debian.org/debian")
    signed = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
    (state / "sources.list").write_text(f"deb {signed}{mirror} {SUITE} main\n")
    settings = {"Dir::Etc::sourcelist": state / "sources.list", "Dir::Etc::sourceparts": "-",
                "Dir::State::lists": state / "lists", "Dir::State::status": state / "status",
                "Dir::Cache": state / "cache", "APT::Sandbox::User": "root",
                "Acquire::Languages": "none", "Acquire::Retries": "3"}
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def nearest_package(names):
    """linux-source-7.3, or the nearest newer one."""
    versions = []
    for name in names:
        match = re.fullmatch(r"linux-source-(\d+)\.(\d+)", name)
        if match and tuple(map(int, match.groups())) >= WANTED:
            versions.append(tuple(map(int, match.groups())))
    if not versions:
        raise Unavailable(f"{SUITE} has no linux-source-{WANTED[0]}.{WANTED[1]} nor a newer one")
    return "linux-source-%d.%d" % min(versions)


def download(root, log):
    """Returns the package's name and its .deb."""
    options = apt_options(root / "apt")
    say(f"reading the package list of {SUITE}")
    run(["apt-get", *options, "update"], log)
    names = subprocess.run(["apt-cache", *options, "pkgnames", "linux-source-"], text=True,
                           stdout=subprocess.PIPE, check=True).stdout.split()
    package = nearest_package(names)
    say(f"downloading {package} (about 150 MB)")
    for old in root.glob("linux-source-*.deb"):
        old.unlink()
    run(["apt-get", *options, "download", package], log, cwd=root)
    return package, next(root.glob("linux-source-*.deb"))


def unpack(package, deb, target, log):
    """Leaves the needed part of the source in target."""
    say("unpacking the part that is needed")
    archive = f"./usr/src/{package}.tar.xz"
    run(["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" | tar -xf - -C "$2" "$3"', "sh", str(deb),
         str(target), archive], log)
    source = target / archive
    members = [f"{package}/{name}" for name in SUBSET]
    run(["tar", "-xJf", str(source), "-C", str(target), "--strip-components=1", *members], log)
    shutil.rmtree(target / "usr/src", ignore_errors=True)


def compile_tests(tree, log):
    jobs = f"-j{os.cpu_count() or 1}"
    say("making the kernel's headers")
    run(["make", jobs, "headers"], log, cwd=tree)
    say("building the selftests (about a minute)")
    run(["make", jobs, "-C", TESTS], log, cwd=tree)


def kernel_version(tree):
    text = (tree / "Makefile").read_text()
    parts = [re.search(rf"^{name} = (\d+)$", text, re.M).group(1)
             for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    return ".".join(parts)


def built_trees(root):
    """Finished trees, the wanted version first."""
    trees = [mark.parent for mark in root.glob("linux-source-*/quire-built")]
    return sorted(trees, key=lambda tree: [int(n) for n in re.findall(r"\d+", tree.name)])


def obtain(offline=False):
    """Returns (kernel version, folder of the built programs); raises Unavailable."""
    root = cache_root()
    trees = built_trees(root)
    if not trees:
        if offline:
            raise Unavailable(f"--offline, and {root} holds no built selftests")
        root.mkdir(parents=True, exist_ok=True)
        log = root / "build.log"
        log.unlink(missing_ok=True)
        package, deb = download(root, log)
        tree = root / package
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        unpack(package, deb, tree, log)
        deb.unlink()
        compile_tests(tree, log)
        (tree / "quire-built").write_text(kernel_version(tree) + "\n")
        trees = [tree]
    return kernel_version(trees[0]), trees[0] / TESTS


def programs(folder):
    """Every program a run of all includes; one that only a script starts goes with its script."""
    names = []
    for path in sorted([*folder.glob("*"), *folder.glob("x86/*")]):
        helper = path.with_name(path.name + ".sh").exists()
        if path.is_file() and os.access(path, os.X_OK) and path.suffix in ("", ".sh"):
            if not helper:
                names.append(str(path.relative_to(folder)))
    return names
