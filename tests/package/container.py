"""A Dockerfile without Docker: each FROM is a root by debootstrap, and COPY and RUN are carried out there."""
import json
import pathlib
import re
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import debian  # noqa: E402
import distributions  # noqa: E402
import program  # noqa: E402

FILE = TREE / "tools/container/Dockerfile"
SUITES = {"debian:12": "bookworm"}
INSIDE = distributions.MOUNTS + 'root=$1; shift; exec chroot "$root" "$@"'


def stages():
    """By name, the last one's is "": the image, and the instructions as pairs of words."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.M))
    found = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            found[name] = (image, [])
        elif word:
            found[list(found)[-1]][1].append((word, rest))
    return found


def privileged(*words):
    """What a command of root's says, and its status."""
    done = subprocess.run([str(word) for word in program.as_root(*words)], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def must(*words):
    status, text = privileged(*words)
    if status:
        raise AssertionError(f"{' '.join(map(str, words))}: exit {status}\n{text[-4000:]}")
    return text


def run_in(root, *words):
    return must(*distributions.APART, "sh", "-c", INSIDE, "sh", root, *words)


def make(root, image):
    """The root of an image, as debootstrap makes it."""
    must("debootstrap", "--variant=minbase", SUITES[image], root, debian.mirror())
    must("cp", "/etc/resolv.conf", root / "etc")


def carry_out(root, steps, sources):
    """The instructions of a stage. @sources: the folder for COPY, by the stage it comes from. Returns how a
    program is started then."""
    start = []
    for word, rest in steps:
        if word == "RUN":
            run_in(root, "sh", "-c", rest)
        elif word == "COPY":
            found = re.fullmatch(r"(?:--from=(\w+) )?(\S+) (\S+)", rest)
            origin = sources[found[1] or ""]
            must("cp", "-aT", origin / found[2].lstrip("/"), root / found[3].lstrip("/"))
        elif word == "ENTRYPOINT":
            start = json.loads(rest)
        else:
            raise AssertionError(f"{FILE}: what is {word}?")
    return start
