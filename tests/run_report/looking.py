"""What the tests of `quire stat` and `quire view` share: a client to be looked at."""
import glob
import os
import pathlib
import signal
import subprocess
import time

DEADLINE_S = 30


class Run:
    """A client under `quire run` that exits from its guest again and again, or stands still."""

    def __init__(self, quire, client, *arguments, options=()):
        self.command = subprocess.Popen([quire, "run", *options, "--", client, *arguments],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        assert self.command.stdout.readline() == "ready\n"
        children = f"/proc/{self.command.pid}/task/{self.command.pid}/children"
        self.pid = int(pathlib.Path(children).read_text().split()[0])
        return self

    def __exit__(self, *_):
        self.command.communicate("\n", timeout=DEADLINE_S)
        self.status = self.command.returncode

    def files(self, kind="stats"):
        found = [name for parent in ("/dev/shm", "/tmp", os.environ.get("TMPDIR", "/tmp"))
                 for name in glob.glob(f"{parent}/quire-run.{self.command.pid}.*/{kind}.*")]
        return sorted(set(found))

    def thread(self):
        """The folder in /proc of the thread that answers."""
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            if (task / "comm").read_text() == "quire-stats\n":
                return task
        return None

    def switches(self):
        """How often it has gone to sleep."""
        status = (self.thread() / "status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def ran_s(self):
        """How long it has run."""
        words = (self.thread() / "stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def call(*words):
    return subprocess.run([str(word) for word in words], text=True, timeout=DEADLINE_S,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)


def look(quire, *words):
    """A look at a program that is there and could not answer in the command's five seconds is repeated."""
    end = time.monotonic() + DEADLINE_S
    while True:
        done = call(quire, *words)
        is_there = f" {words[-1]} (" in done.stderr or f"({words[-1]})" in done.stderr
        if done.returncode != 1 or not is_there or time.monotonic() > end:
            return done


def look_at_a_slow_one(client, quire, *words):
    """One look; during its first second and a half the client has no processor."""
    os.kill(client.pid, signal.SIGSTOP)
    with subprocess.Popen([str(word) for word in (quire, *words)], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as command:
        time.sleep(1.5)
        os.kill(client.pid, signal.SIGCONT)
        said, _ = command.communicate(timeout=DEADLINE_S)
    return command.returncode, said
