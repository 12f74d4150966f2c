"""One QEMU process under 'quire run': its console, its monitor (QMP), its end."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

import program
from vmms import places
from vmms.scenario import Failure

# Parameters of every machine of this run.
COMMON_PARAMS = []
TICKS = os.sysconf("SC_CLK_TCK")
# A machine with other load gives a process a part of a processor: limits count processor time,
# and this many times as much passes at most on the clock.
CLOCK_FACTOR = 8


def is_lockstep():
    """Does the interpreter check translated code? A VM has one vCPU then."""
    return "kvm.quire_lockstep=Y" in COMMON_PARAMS


def session_cpu_seconds(leader):
    """Processor time that the processes of a session have used, those that ended included."""
    used = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                used += sum(int(field) for field in fields[11:15])
    return used / TICKS


class Limit:
    """So much processor time of a machine from now on, and a multiple of it on the clock."""

    def __init__(self, machine, seconds):
        self.machine = machine
        self.cpu = machine.cpu_seconds() + seconds
        self.clock = time.monotonic() + seconds * CLOCK_FACTOR

    def is_over(self):
        return self.machine.cpu_seconds() > self.cpu or time.monotonic() > self.clock


class Machine:
    """A running QEMU; leaving the context ends it and removes its folder."""

    def __init__(self, qemu, arguments, params=(), options=()):
        self.qemu = qemu
        self.arguments = [str(word) for word in arguments]
        self.quire = [word for param in (*COMMON_PARAMS, *params)
                      for word in ("--param", param)] + list(options)
        self.stack = contextlib.ExitStack()
        self.folder = None
        self.child = None
        self.monitor = None
        self.seen = 0
        self.last_cpu = 0.0

    def __enter__(self):
        with self.stack:
            self.folder = pathlib.Path(self.stack.enter_context(
                tempfile.TemporaryDirectory(prefix="quire-vmm-")))
            command = [*self.qemu.launcher, *self.quire, "--", *self.qemu.command,
                       "-nodefaults", "-display", "none", *self.arguments,
                       "-chardev", f"socket,id=console,path={self.folder}/console,server=on,"
                       f"wait=off,logfile={self.folder}/log", "-serial", "chardev:console",
                       "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"]
            output = self.stack.enter_context(open(self.folder / "output", "wb"))
            self.child = self.stack.enter_context(program.ending.holding(
                lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                         stderr=subprocess.STDOUT, start_new_session=True)))
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, kind, *_):
        # A QEMU that is ended by a signal has no exit status that says so.
        found = [] if kind else re.findall("quire: sanitize: .*", self.output())
        if found:
            with self.stack:
                self.fail(found[0])
        self.stack.close()

    def cpu_seconds(self):
        self.last_cpu = max(self.last_cpu, session_cpu_seconds(self.child.pid))
        return self.last_cpu

    def text(self):
        """All that the guest has written to its console."""
        path = self.folder / "log"
        return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""

    def output(self):
        return (self.folder / "output").read_text(errors="replace") + self.text()

    def fail(self, what):
        raise Failure(what, self.output())

    def check_alive(self, waiting_for):
        if program.ending.is_set:
            raise program.Interrupted()
        if self.child.poll() is not None:
            self.fail(f"QEMU ended ({self.child.returncode}) before {waiting_for}")

    def wait_for(self, text, seconds=60):
        """Waits until the console shows text behind what an earlier call has found."""
        limit = Limit(self, seconds)
        while True:
            found = self.text().find(text, self.seen)
            if found >= 0:
                self.seen = found + len(text)
                return
            self.check_alive(repr(text))
            if limit.is_over():
                self.fail(f"no {text!r} within {seconds} s of processor time")
            time.sleep(0.1)

    def wait_line(self, start, seconds=60):
        """As wait_for, but to the line's end: the console's log may be read in the middle of a
        line. What follows start on its line."""
        self.wait_for(start, seconds)
        begin = self.seen
        self.wait_for("\n", seconds)
        return self.text()[begin:self.seen - 1]

    def wait_end(self, seconds=60):
        """Waits for QEMU's end, which has to be exit 0."""
        limit = Limit(self, seconds)
        while self.child.poll() is None:
            if program.ending.is_set:
                raise program.Interrupted()
            if limit.is_over():
                self.fail(f"QEMU did not end within {seconds} s of processor time")
            self.cpu_seconds()
            time.sleep(0.05)
        if self.child.returncode:
            self.fail(f"QEMU ended with {self.child.returncode}")

    def connect(self, name, seconds=60):
        """A socket to one of QEMU's, which may not listen yet."""
        limit = Limit(self, seconds)
        client = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        while True:
            try:
                client.connect(str(self.folder / name))
                return client
            except OSError:
                self.check_alive(f"it listened on {name}")
                if limit.is_over():
                    self.fail(f"QEMU does not listen on {name}")
                time.sleep(0.1)

    def type(self, text):
        """Types on the guest's serial console."""
        with self.connect("console") as console:
            console.sendall(text.encode())
            time.sleep(0.2)

    def ask(self, command, seconds=120, **arguments):
        """One QMP command; its result."""
        if not self.monitor:
            self.monitor = self.connect("qmp").makefile("rw")
            self.read_monitor()
            self.ask("qmp_capabilities")
        request = {"execute": command, "arguments": arguments}
        self.monitor.write(json.dumps(request) + "\n")
        self.monitor.flush()
        limit = time.monotonic() + seconds * CLOCK_FACTOR
        while time.monotonic() < limit:
            answer = self.read_monitor()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                self.fail(f"{command}: {answer['error']['desc']}")
        return self.fail(f"{command}: no answer")

    def read_monitor(self):
        line = self.monitor.readline()
        if not line:
            self.check_alive("an answer of its monitor")
            self.fail("QEMU closed its monitor")
        return json.loads(line)

    def human(self, line):
        """One command of the human monitor; what it prints."""
        return self.ask("human-monitor-command", **{"command-line": line})


class Qemu:
    """One QEMU: how it is started and under what."""

    def __init__(self, path, launcher=None):
        self.command = [path]
        self.launcher = launcher or places.RUN

    def exists(self):
        return shutil.which(self.command[0]) is not None

    def version(self):
        done = subprocess.run([*self.command, "--version"], text=True, stdout=subprocess.PIPE,
                              check=True)
        return done.stdout.splitlines()[0]
