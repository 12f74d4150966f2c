"""Packages of a Debian suite, got through an apt state of our own: the machine's stays as it is."""
import os
import pathlib
import subprocess

import cache

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def mirror():
    return os.environ.get("QUIRE_DEBIAN_MIRROR", "http://deb.debian.org/debian")


def run(command, log, **options):
    """Runs a step whose output only matters when it fails."""
    with open(log, "ab") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, check=False, **options)
    if done.returncode != 0:
        tail = pathlib.Path(log).read_text(errors="replace").splitlines()[-15:]
        raise cache.Unavailable("\n".join([f"{command[0]} failed ({log})"] + tail))


class Suite:
    """One suite of Debian's archive, to which no package is installed yet."""

    def __init__(self, name, architecture=""):
        self.name = name
        self.architecture = architecture
        self.state = cache.root() / "apt" / "-".join(filter(None, (name, architecture)))
        self.log = self.state / "log"
        self.options = []

    def update(self):
        """Reads the suite's list of packages, once for each object."""
        if self.options:
            return
        for folder in ("lists/partial", "cache/archives/partial"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        (self.state / "status").touch()
        signed = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
        (self.state / "sources.list").write_text(f"deb {signed}{mirror()} {self.name} main\n")
        settings = {"Dir::Etc::sourcelist": self.state / "sources.list",
                    "Dir::Etc::sourceparts": "-", "Dir::State::lists": self.state / "lists",
                    "Dir::State::status": self.state / "status", "Dir::Cache": self.state / "cache",
                    "APT::Sandbox::User": "root", "Acquire::Languages": "none",
                    "Acquire::Retries": "3"}
        if self.architecture:
            settings.update({"APT::Architecture": self.architecture,
                             "APT::Architectures": self.architecture})
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        cache.say(f"reading the package list of {self.name}")
        run(["apt-get", *options, "update"], self.log)
        self.options = options

    def ask(self, *words):
        """What apt-cache prints."""
        self.update()
        return subprocess.run(["apt-cache", *self.options, *words], text=True, check=True,
                              stdout=subprocess.PIPE).stdout

    def names(self, prefix):
        return self.ask("pkgnames", prefix).split()

    def download(self, package, folder):
        """One package's .deb, in folder."""
        self.update()
        for old in folder.glob(f"{package}_*.deb"):
            old.unlink()
        run(["apt-get", *self.options, "download", package], self.log, cwd=folder)
        return next(folder.glob(f"{package}_*.deb"))

    def download_all(self, packages):
        """The .debs of packages and of all that they depend on."""
        self.update()
        archives = self.state / "cache/archives"
        for old in archives.glob("*.deb"):
            old.unlink()
        run(["apt-get", *self.options, "install", "-y", "--download-only",
             "--no-install-recommends", *packages], self.log)
        return sorted(archives.glob("*.deb"))
