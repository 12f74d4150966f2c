"""One program of a test: it runs to its end or its limit, and nothing that it started outlives it."""
import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import tempfile
import threading
import time

MAX_OUTPUT_BYTES = 1 << 20


def as_root(*words):
    """The words of a command, with sudo before them unless this is root already."""
    return [*([] if os.getuid() == 0 else ["sudo"]), *words]


class Interrupted(Exception):
    """The whole run is to end: no further program starts."""


class Ending:
    """Tells programs that run in threads that the whole run ends; a signal handler may set it."""

    def __init__(self):
        self.lock = threading.RLock()
        self.leaders = set()
        self.is_set = False

    def set(self):
        with self.lock:
            self.is_set = True
            for leader in self.leaders:
                end_session(leader)

    @contextlib.contextmanager
    def holding(self, start):
        """Starts a child that the end of the run kills; yields it."""
        with self.lock:
            if self.is_set:
                raise Interrupted()
            child = start()
            self.leaders.add(child.pid)
        try:
            yield child
        finally:
            with self.lock:
                end_session(child.pid)
                self.leaders.discard(child.pid)
            child.wait()


# One a process: the module that catches its signals sets it.
ending = Ending()


def processes_of(session):
    """The folders in /proc of a session's processes. A process may have any bytes for its name."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_bytes().rpartition(b")")[2].split()[3]) == session:
                yield stat.parent
        except (OSError, ValueError, IndexError):
            continue


def end_session(leader):
    """Kills what the program left: its process group, then whatever else is of its session."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for process in processes_of(leader):
        with contextlib.suppress(OSError):
            os.kill(int(process.name), signal.SIGKILL)


def first_to_go():
    """When memory runs out the program shall be killed, not the harness or a neighbour."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def start_and_wait(command, folder, limit, env=None):
    """(exit status or None, what was printed, seconds) of one program."""
    with tempfile.TemporaryFile() as output:
        start = time.monotonic()
        with ending.holding(lambda: subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=first_to_go)) as child:
            try:
                status = child.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                status = None
        if ending.is_set:
            raise Interrupted()
        seconds = time.monotonic() - start
        output.seek(max(0, output.seek(0, os.SEEK_END) - MAX_OUTPUT_BYTES))
        return status, output.read().decode(errors="replace"), seconds


def children_cpu_seconds():
    """Processor time of all children that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
