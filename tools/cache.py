"""The folder outside the tree that keeps what is large to get: QUIRE_CACHE, or ~/.cache/quire."""
import contextlib
import fcntl
import os
import pathlib
import sys


class Unavailable(Exception):
    """Something cannot be had; the text says why."""


def say(text):
    print(f"quire: {text}", file=sys.stderr, flush=True)


def root():
    given = os.environ.get("QUIRE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = pathlib.Path(given) if given else pathlib.Path(base) / "quire"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(name):
    """Keeps two runs from filling the same part of the cache at once."""
    with open(root() / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
