"""Gets the Linux kernel's KVM selftests from Debian's source package and builds them, unmodified.

Everything lands in the cache outside the tree, so that it is asked for once.
"""
import os
import re
import shutil

import cache
import debian

# What obtain() raises.
Unavailable = cache.Unavailable
run, say = debian.run, cache.say

SUITE = "trixie-backports"
WANTED = (7, 3)
SUBSET = ("Makefile", "Kbuild", "scripts", "include", "arch/x86", "tools", "usr", "drivers/dma",
          "drivers/net/ethernet/intel")
TESTS = "tools/testing/selftests/kvm"


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


def download(root):
    """Returns the package's name and its .deb."""
    suite = debian.Suite(SUITE)
    package = nearest_package(suite.names("linux-source-"))
    say(f"downloading {package} (about 150 MB)")
    return package, suite.download(package, root)


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


def make(root):
    """Downloads and builds them; returns their tree."""
    log = root / "build.log"
    log.unlink(missing_ok=True)
    package, deb = download(root)
    tree = root / package
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    unpack(package, deb, tree, log)
    deb.unlink()
    compile_tests(tree, log)
    (tree / "quire-built").write_text(kernel_version(tree) + "\n")
    return tree


def obtain(offline=False):
    """Returns (kernel version, folder of the built programs); raises Unavailable."""
    root = cache.root()
    with cache.locked("selftests"):
        trees = built_trees(root)
        if not trees and offline:
            raise Unavailable(f"--offline, and {root} holds no built selftests")
        tree = trees[0] if trees else make(root)
    return kernel_version(tree), tree / TESTS


def compile_posted(folder, source, header, target):
    """Builds a program that was posted and is in no kernel, with what @header adds to the library."""
    kernel = folder.parents[3]
    objects = [*folder.glob("lib/*.o"), *folder.glob("lib/x86/*.o")]
    includes = [kernel / "tools/include", kernel / "tools/arch/x86/include", kernel / "usr/include",
                folder, folder / "include", folder / "include/x86", folder.parent / "rseq",
                folder.parent]
    run(["gcc", "-O2", "-std=gnu99", "-DCONFIG_64BIT", "-U_FORTIFY_SOURCE", "-D_GNU_SOURCE=", "-fno-builtin",
         "-fno-stack-protector", "-fno-PIE", "-no-pie", "-fno-strict-aliasing", "-march=x86-64-v2",
         *(f"-I{path}" for path in includes), "-include", str(header), str(source),
         *map(str, objects), "-pthread", "-ldl", "-o", str(target)], target.with_suffix(".log"))


def programs(folder):
    """Every program a run of all includes; one that only a script starts goes with its script."""
    names = []
    for path in sorted([*folder.glob("*"), *folder.glob("x86/*")]):
        helper = path.with_name(path.name + ".sh").exists()
        if path.is_file() and os.access(path, os.X_OK) and path.suffix in ("", ".sh"):
            if not helper:
                names.append(str(path.relative_to(folder)))
    return names
