"""Makes the Debian packages quire, libquire0, libquire-process0 and libquire-dev from this tree.

usage: package.py [--output FOLDER]

The same tree gives the same bytes: times are SOURCE_DATE_EPOCH, or else those of the last commit.
"""
import argparse
import email.utils
import gzip
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

TREE = pathlib.Path(__file__).resolve().parent.parent
TEXTS = TREE / "tools/package"
# The packages of a shared library each, and its soname without the number.
LIBRARIES = {"libquire0": "libquire", "libquire-process0": "libquire-process"}
# By the first pattern that fits; what none fits is of the command's package.
CONTENTS = (("libquire-dev", r"usr/include/|.*/libquire(-process)?\.(so|a)$|.*/quire(-process)?\.pc$|"
                              r".*/quire\.3"),
            ("libquire0", r".*/libquire\.so\.0[^/]*$"),
            ("libquire-process0", r".*/libquire-process\.so\.0[^/]*$"),
            ("quire", r""))
NAMES = tuple(name for name, _ in CONTENTS)


def run(*words, **more):
    done = subprocess.run([str(word) for word in words], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, **more)
    if done.returncode:
        sys.exit(f"package: {' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def epoch():
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or run("git", "-C", TREE, "log", "-1", "--format=%ct"))


def version():
    return re.search(r"^  version: '(.*)'", (TREE / "meson.build").read_text(), re.M).group(1)


def write_compressed(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text, 9, mtime=0))


def build(folder, root):
    """Compiles the tree in a folder and installs it below root."""
    triple = run("dpkg-architecture", "-qDEB_HOST_MULTIARCH").strip()
    # Neither the folder of the build nor that of the tree is in what is made.
    maps = f"-ffile-prefix-map={folder}=. -ffile-prefix-map={TREE}=."
    options = ("--prefix=/usr", f"--libdir=lib/{triple}", "-Dtests=false", "-Dprobes=enabled",
               "-Dwerror=false", f"-Dc_args={maps} -g1 -fno-record-gcc-switches",
               "-Dc_link_args=-Wl,-z,relro -Wl,--build-id=sha1")
    env = {**os.environ, "CC": "gcc"}
    run("meson", "setup", *options, TREE, folder, env=env)
    run("ninja", "-C", folder, env=env)
    run("meson", "install", "-C", folder, "--no-rebuild", "--destdir", root)


def strip(path):
    if path.suffix == ".a":
        run("strip", "--strip-debug", "--enable-deterministic-archives", path)
    elif path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
        run("strip", "--strip-unneeded", "--remove-section=.comment", "--remove-section=.note", path)


def distribute(root, stages):
    """Moves each installed file into the package that it is of."""
    for path in sorted(root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        strip(path)
        name = str(path.relative_to(root)).replace("zsh/site-functions", "zsh/vendor-completions")
        package = next(p for p, pattern in CONTENTS if re.match(pattern, name))
        target = stages / package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if "/man/" in name and not name.endswith(".gz"):
            write_compressed(target.with_name(target.name + ".gz"), path.read_bytes())
        else:
            shutil.move(path, target)


def add_texts(stage, name, when):
    docs = stage / "usr/share/doc" / name
    docs.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(TEXTS / "copyright", docs / "copyright")
    maintainer = re.search(r"^Maintainer: (.*)$", (TEXTS / "control").read_text(), re.M).group(1)
    log = (f"quire ({version()}) unstable; urgency=medium\n\n  * See CHANGELOG.md in the source.\n\n"
           f" -- {maintainer}  {email.utils.formatdate(when)}\n")
    write_compressed(docs / "changelog.gz", log.encode())
    overrides = TEXTS / f"{name}.overrides"
    if overrides.exists():
        folder = stage / "usr/share/lintian/overrides"
        folder.mkdir(parents=True)
        shutil.copyfile(overrides, folder / name)


def library_control(stage, package):
    """What makes other packages depend on the shared library, and ldconfig run."""
    control, library = stage / "DEBIAN", LIBRARIES[package]
    (control / "shlibs").write_text(f"{library} 0 {package} (>= {version()})\n")
    (control / "triggers").write_text("activate-noawait ldconfig\n")
    names = run("nm", "-D", "--defined-only", "--with-symbol-versions",
                next(stage.rglob(f"{library}.so.0")).resolve()).split("\n")
    symbols = sorted(line.split()[2].replace("@@", "@") for line in names if "@@" in line)
    tags = sorted({symbol.split("@")[1] for symbol in symbols})
    lines = [f" {symbol} {version()}" for symbol in symbols + [f"{tag}@{tag}" for tag in tags]]
    (control / "symbols").write_text("\n".join([f"{library}.so.0 {package} #MINVER#", *lines, ""]))


def needed_packages(stage, scratch):
    """Dependencies by the shared libraries that the package's programs name."""
    programs = [path for path in sorted(stage.rglob("*")) if path.is_file()
                and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF"]
    folder = scratch / "debian"
    folder.mkdir(exist_ok=True)
    (folder / "control").write_text((TEXTS / "control").read_text())
    # A library of ours may need another, whose package control names.
    ours = {library.parent for library in scratch.glob("stages/libquire0/**/libquire.so.0")}
    found = run("dpkg-shlibdeps", "-O", "--ignore-missing-info", *[f"-l{path}" for path in ours],
                *[f"-e{path}" for path in programs], cwd=scratch) if programs else ""
    match = re.search(r"^shlibs:Depends=(.*)$", found, re.M)
    return match.group(1) if match else ""


def decoder_package():
    """The package of the decoder: quire-engine loads it by name, which dpkg-shlibdeps cannot see."""
    found = run("dpkg-query", "-S", "*/libZydis.so.4.*")
    return found.split(":")[0]


def control_text(stage, name, scratch):
    source, *packages = (TEXTS / "control").read_text().split("\n\n")
    own = next(text for text in packages if text.startswith(f"Package: {name}\n"))
    own = own.replace("${shlibs:Depends}", needed_packages(stage, scratch))
    if "${decoder:Depends}" in own:
        own = own.replace("${decoder:Depends}", decoder_package())
    own = own.replace("${binary:Version}", version()).strip()
    size = sum(path.lstat().st_size for path in stage.rglob("*") if not path.is_dir()) // 1024
    rest = [line for line in source.splitlines() if line.startswith(("Maintainer", "Priority"))]
    first, _, *others = own.splitlines()
    architecture = run("dpkg", "--print-architecture").strip()
    more = ["Multi-Arch: same"] if name in LIBRARIES else []
    lines = [first, "Source: quire", f"Version: {version()}", f"Architecture: {architecture}",
             *more, *rest, f"Installed-Size: {size}", *others]
    if name == "quire":
        lines.remove("Source: quire")
    return "\n".join(lines) + "\n"


def finish(stage, name, scratch, when, output):
    """The package of what stands below stage."""
    add_texts(stage, name, when)
    control = stage / "DEBIAN"
    control.mkdir()
    if name in LIBRARIES:
        library_control(stage, name)
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(stage)}\n"
            for path in sorted(stage.rglob("*"))
            if path.is_file() and not path.is_symlink() and control not in path.parents]
    (control / "control").write_text(control_text(stage, name, scratch))
    (control / "md5sums").write_text("".join(sums))
    for path in [stage, *stage.rglob("*")]:
        if not path.is_symlink():
            is_program = path.is_dir() or os.access(path, os.X_OK) and path.suffix != ".a"
            is_program = is_program and not re.search(r"\.so(\.|$)", path.name)
            path.chmod(0o755 if is_program else 0o644)
        os.utime(path, (when, when), follow_symlinks=False)
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(when)}
    run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", stage, output, env=env)


def make(output):
    """Makes the packages; their paths."""
    output.mkdir(parents=True, exist_ok=True)
    when = epoch()
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        build(scratch / "build", scratch / "root")
        distribute(scratch / "root", scratch / "stages")
        for package in NAMES:
            finish(scratch / "stages" / package, package, scratch, when, output)
    return sorted(output.glob(f"*_{version()}_*.deb"))


def main(argv):
    parser = argparse.ArgumentParser(prog="./dev package", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, default=TREE / "build/packages")
    for path in make(parser.parse_args(argv).output.resolve()):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
