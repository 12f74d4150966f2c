"""How far long work is: a bar on a terminal, a line each 10 s elsewhere; both on standard error.

usage: progress.py [--what NAME] [--unit NAME] [--log FILE] -- COMMAND...
runs COMMAND, which says "DONE TOTAL" a line at the descriptor that QUIRE_PROGRESS_FD names. With --log
its output goes to that file, and Ninja's "[DONE/TOTAL]" is read from it. The status is COMMAND's.
"""
import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

LINE_S = 10.0  # between lines where no terminal shows a bar
REDRAW_S = 0.25
FIRST_S = 0.5  # what is done sooner needs no bar
VARIABLE = "QUIRE_PROGRESS_FD"
BAR_COLUMNS = 30
COUNTS = re.compile(rb"(\d+) (\d+)")
NINJA = re.compile(rb"\[(\d+)/(\d+)\]")


def duration(seconds):
    seconds = round(seconds)
    hours = f"{seconds // 3600}:" if seconds >= 3600 else ""
    return f"{hours}{seconds // 60 % 60:0{2 if hours else 1}}:{seconds % 60:02}"


class Progress:
    """Some work of a known size. Any thread may tell of it; leaving the context ends it."""

    def __init__(self, what, total=0, unit="", stream=None, line_s=None, clock=time.monotonic):
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self.line_s, self.clock = line_s or LINE_S, clock
        self.begun = self.shown_at = clock()
        self.running = {}  # what is being done now, and since when
        self.is_drawn = False
        self.lock = threading.RLock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.tick, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        with self.lock:
            self.clear()

    def set(self, done, total=None):
        """Says how much is done, and of how much."""
        with self.lock:
            self.done = done
            self.total = self.total if total is None else total

    def add(self, count=1):
        with self.lock:
            self.done += count
            self.total = max(self.total, self.done)

    @contextlib.contextmanager
    def doing(self, name):
        """One step, which is named while it lasts; at its end it is done."""
        with self.lock:
            self.running[name] = self.clock()
        try:
            yield
        finally:
            with self.lock:
                self.running.pop(name, None)
                self.add()

    @contextlib.contextmanager
    def aside(self):
        """Something else is printed meanwhile. It says enough for a while, too."""
        with self.lock:
            self.clear()
            yield
            self.shown_at = self.clock()

    def text(self):
        """How much is done, how fast that goes, how long the rest takes at that rate."""
        now = self.clock()
        took = max(now - self.begun, 1e-9)
        rate = self.done / took
        shown = f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"
        unit = f" {self.unit}" if self.unit else ""
        words = [f"{self.done:,} of {self.total:,}{unit}" if self.total else
                 f"{self.done:,}{unit}" if self.done else f"{duration(took)} so far"]
        # Of work that is to last so many seconds the rate says nothing.
        is_timed = self.unit == "s"
        if self.done and not is_timed:
            words.append(shown)
        if self.done and self.total >= self.done:
            left = (self.total - self.done) / (1 if is_timed else rate)
            words.append(f"{duration(left)} left")
        text = ", ".join(words)
        if self.running:
            name, since = min(self.running.items(), key=lambda one: one[1])
            text += f"; {name} ({duration(now - since)})"
        return text

    def tick(self):
        """The thread's: draws or says it, again and again."""
        while not self.ended.wait(REDRAW_S if self.is_terminal else min(self.line_s / 4, 1.0)):
            with self.lock:
                now = self.clock()
                if self.is_terminal and now - self.begun >= FIRST_S:
                    self.draw()
                elif not self.is_terminal and now - self.shown_at >= self.line_s:
                    self.shown_at = now
                    print(f"{self.what}: {self.text()}", file=self.stream, flush=True)

    def draw(self):
        full = BAR_COLUMNS * min(self.done, self.total) // self.total if self.total else 0
        bar = "=" * full + " " * (BAR_COLUMNS - full)
        line = f"{self.what} [{bar}] {self.text()}"
        columns = shutil.get_terminal_size().columns
        print(f"\r{line[:columns - 1]}\033[K", end="", file=self.stream, flush=True)
        self.is_drawn = True

    def clear(self):
        if self.is_drawn:
            print("\r\033[K", end="", file=self.stream, flush=True)
            self.is_drawn = False


class Silent:
    """In the place of a Progress where nothing is to be shown."""

    @contextlib.contextmanager
    def aside(self):
        yield

    @contextlib.contextmanager
    def doing(self, _name):
        yield


def read_counts(stream, pattern, progress, log=None):
    """What a command says of itself, until its end. What makes no sense is passed over."""
    for line in stream:
        found = pattern.match(line)
        if found:
            progress.set(*(int(number) for number in found.groups()))
        if log:
            log.write(line)
            log.flush()


def read_descriptor(descriptor, progress):
    with os.fdopen(descriptor, "rb") as stream:
        read_counts(stream, COUNTS, progress)


def pass_on(stream, progress):
    """What a command prints on the terminal that has the bar."""
    for line in stream:
        with progress.aside():
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def run(words, what, unit="", log=None, **options):
    """Runs the command, and shows how far it is; returns its status."""
    end, writer = os.pipe()
    environment = {**os.environ, VARIABLE: str(writer)}
    with Progress(what, unit=unit, **options) as progress:
        passes_on = progress.is_terminal and sys.stdout.isatty() and not log
        output = {"stdout": subprocess.PIPE} if log or passes_on else {}
        if log:
            output["stderr"] = subprocess.STDOUT
        child = subprocess.Popen([str(word) for word in words], env=environment,
                                 pass_fds=(writer,), **output)
        os.close(writer)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: child.send_signal(number))
        # A terminal's interrupt is the command's, too: its end is waited for.
        signal.signal(signal.SIGINT, lambda *_: None)
        # A grandchild may keep the pipe: it is not waited for.
        threading.Thread(target=read_descriptor, args=(end, progress), daemon=True).start()
        if log:
            with open(log, "wb") as kept:
                read_counts(child.stdout, NINJA, progress, kept)
        elif passes_on:
            pass_on(child.stdout, progress)
        status = child.wait()
    return status if status >= 0 else 128 - status


def main(argv):
    parser = argparse.ArgumentParser(prog="progress.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--what", default="work")
    parser.add_argument("--unit", default="")
    parser.add_argument("--log")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(argv)
    return run(options.command, options.what, options.unit, options.log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
