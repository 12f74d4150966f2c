"""'./dev bench': rows of build/quire-bench, and guests in QEMU against QEMU's own translator."""
import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Callable

import packages
import progress
import selftests
from vmms import boots, catalog, counters, libguestfs, paths, places
from vmms.scenario import Failure

PROGRAM = places.TREE / "build/cli/bench/quire-bench"
ROUNDS = 5
PEER = "the same QEMU with -accel tcg"
# How a row of quire-bench looks, without times of single operations.
LINE = "{:<20} {:>13.3f} {} {:>12.3f}-{:<12.3f} {:>12.3f} {} {:>8.2f} {:>7} {}"


@dataclasses.dataclass
class Result:
    """One row: its rounds, and those of its floor."""
    name: str
    floor_text: str
    bound: float
    taken: list
    floor: list
    is_lower_better: bool = True
    unit: str = "s "

    @property
    def ratio(self):
        return statistics.median(a / b for a, b in zip(self.taken, self.floor))

    def is_within(self):
        return self.ratio <= self.bound if self.is_lower_better else self.ratio >= self.bound

    def line(self):
        return LINE.format(self.name, statistics.median(self.taken), self.unit, min(self.taken),
                           max(self.taken), statistics.median(self.floor), self.unit, self.ratio,
                           f"{self.bound:.2f}", "ok" if self.is_within() else "over")

    def as_json(self):
        return {"name": self.name, "run_name": self.name, "run_type": "iteration",
                "repetitions": len(self.taken), "iterations": 1,
                "real_time": statistics.median(self.taken),
                "cpu_time": statistics.median(self.taken), "time_unit": self.unit.strip(),
                "lowest": min(self.taken), "highest": max(self.taken),
                "floor": statistics.median(self.floor), "floor_text": self.floor_text,
                "ratio": round(self.ratio, 4), "bound": self.bound,
                "within_bound": self.is_within()}


def say(text):
    print(f"   {text}", file=sys.stderr, flush=True)


def cpu_seconds(command, log, last="quire: poweroff", **options):
    """Processor time of the command and all that it started and waited for; it must say last."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                             **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options})
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace") if log.exists() else ""
    if child.returncode or last not in said:
        raise Failure(f"{command[0]} ended with {child.returncode}", said)
    return used.ru_utime + used.ru_stime


def boot_seconds(form, stats):
    """A boot to power-off: under Quire with statistics to a file, or with QEMU's own translator."""
    with tempfile.TemporaryDirectory(prefix="quire-bench-") as folder:
        log = pathlib.Path(folder) / "log"
        words = [str(word) for word in boots.arguments(form, "poweroff")]
        if not stats:
            words[words.index("kvm")] = "tcg"
        command = [*catalog.QEMU.command, "-nodefaults", "-display", "none", *words,
                   "-serial", f"file:{log}"]
        if stats:
            command = [*catalog.QEMU.launcher, "--stats", str(stats), "--", *command]
        return cpu_seconds(command, log)


def boots_in_turns(name, form, bound, peers):
    """Rows of one form: the time against the peer's, and how much ran translated."""
    taken, floor, shares = [], [], []
    with tempfile.TemporaryDirectory(prefix="quire-bench-") as folder:
        stats = pathlib.Path(folder) / "stats.json"
        for at in range(ROUNDS):
            taken.append(boot_seconds(form, stats))
            shares.append(counters.share(counters.totals(stats)))
            text = f"{name}, {at + 1} of {ROUNDS}: {taken[-1]:.2f} s"
            if peers:
                floor.append(boot_seconds(form, None))
                text += f", {PEER} {floor[-1]:.2f} s"
            say(text)
    if peers:
        yield Result(name, PEER, bound, taken, floor)
    yield Result(name.replace("boot", "share").replace("bzimage", "share/bzimage"),
                 "all instructions, in percent", counters.SHARE_PERCENT / 100, shares,
                 [100.0] * ROUNDS, False, "% ")


def in_turns(name, bound, rounds, seconds):
    """A row that means nothing without a peer: seconds("kvm") and seconds("tcg"), in turns."""
    taken, floor = [], []
    for at in range(rounds):
        taken.append(seconds("kvm"))
        floor.append(seconds("tcg"))
        say(f"{name}, {at + 1} of {rounds}: {taken[-1]:.2f} s, {PEER} {floor[-1]:.2f} s")
    yield Result(name, PEER, bound, taken, floor)


def traced_in_turns():
    """dirty_log_perf_test with --trace against the same without: its own time, and what is written at the end."""
    _, folder = selftests.obtain()
    taken, floor = [], []
    with tempfile.TemporaryDirectory(prefix="quire-bench-") as name:
        log = pathlib.Path(name) / "log"
        for at in range(ROUNDS):
            for options, list_of in (((), floor), (("--trace", f"{name}/trace.dat"), taken)):
                with open(log, "wb") as output:
                    list_of.append(cpu_seconds(
                        [*catalog.QEMU.launcher, *options, "--", str(folder / "dirty_log_perf_test")],
                        log, "Disabling dirty logging time", stdout=output,
                        stderr=subprocess.STDOUT))
            say(f"vmm/trace, {at + 1} of {ROUNDS}: {taken[-1]:.2f} s, without --trace {floor[-1]:.2f} s")
    yield Result("vmm/trace", "the same run without --trace", 1.15, taken, floor)


def path_seconds(path):
    return lambda accelerator: paths.seconds(catalog.QEMU, accelerator, path, cpu_seconds)


def guestfs_seconds(accelerator):
    """libguestfs' own test, its appliance included."""
    with tempfile.TemporaryDirectory(prefix="quire-bench-") as folder:
        log = pathlib.Path(folder) / "log"
        command = [*(catalog.QEMU.launcher if accelerator == "kvm" else []),
                   *(["--"] if accelerator == "kvm" else []), "libguestfs-test-tool"]
        with open(log, "wb") as output:
            return cpu_seconds(command, log, "TEST FINISHED OK", stdout=output,
                               stderr=subprocess.STDOUT, cwd=folder,
                               env=libguestfs.environment(folder, f"force_{accelerator}"))


@dataclasses.dataclass
class Row:
    """Something that takes seconds, and yields results."""
    name: str
    about: str
    run: Callable
    needs_peer: bool = False
    client: str = "qemu"


def peer_rows():
    """Paths through a guest's kernel, and a client that runs as many programs."""
    made = [Row(f"vcpu/{path}", f"{paths.COUNTS[path]:,} times in a guest of ours; floor: {PEER}",
                lambda path=path: in_turns(f"vcpu/{path}", 1.0, ROUNDS, path_seconds(path)), True)
            for path in paths.COUNTS]
    return [*made, Row("vmm/guestfs", f"libguestfs-test-tool; floor: {PEER}",
                       lambda: in_turns("vmm/guestfs", 1.5, 3, guestfs_seconds), True,
                       "libguestfs")]


def rows(peers):
    pvh, packed = boots.Form(), boots.Form(image="bzImage")
    return [Row("vmm/boot", f"Debian's kernel from PVH to power-off; floor: {PEER} (--peers)",
                lambda: boots_in_turns("vmm/boot", pvh, 1.5, peers)),
            Row("vmm/bzimage", "the same from bzImage, which unpacks itself",
                lambda: boots_in_turns("vmm/bzimage", packed, 1.5, peers)),
            Row("vmm/trace", "dirty_log_perf_test with --trace; floor: the same run without",
                traced_in_turns, client=None), *peer_rows()]


def wanted(row, options):
    """vmm/share comes with vmm/boot; without peers a row that needs one is not measured."""
    if row.needs_peer and not options.peers:
        return False
    return not options.name or any(
        row.name.startswith(name) or (name.startswith("vmm/share") and not row.needs_peer)
        for name in options.name)


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--peers", action="store_true",
                        help="rows vmm, and paths of rows vcpu, against Debian's QEMU with its own "
                        "translator")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path)
    parser.add_argument("--list", action="store_true", help="print the rows, measure nothing")
    parser.add_argument("name", nargs="*", help="the beginning of a row's name; none: all, but "
                        "rows vmm only with --peers")
    return parser.parse_args(argv)


def run_program(options):
    """Rows of quire-bench: its exit status."""
    ours = ("vmm", *(row.name for row in peer_rows()))
    names = [name for name in options.name if not name.startswith(ours)]
    if options.name and not names:
        return 0
    words = [*(["--list"] if options.list else []),
             *(["--json", str(options.json)] if options.json else []), *names]
    if options.list:
        return subprocess.run([str(PROGRAM), *words], check=False).returncode
    return progress.run([PROGRAM, *words], "bench", "rows")


def add_json(path, results):
    """Into quire-bench's file, or into a new one."""
    whole = json.loads(path.read_text()) if path.exists() else {"context": {}, "benchmarks": []}
    names = {result.name for result in results}
    whole["benchmarks"] = [one for one in whole["benchmarks"] if one["name"] not in names]
    whole["benchmarks"] += [result.as_json() for result in results]
    path.write_text(json.dumps(whole, indent=1) + "\n")


def run_boots(options):
    for row in peer_rows():
        if row.name in options.name and not options.peers:
            print(f"dev: {row.name} needs --peers", file=sys.stderr)
    results = []
    for row in [row for row in rows(options.peers) if wanted(row, options)]:
        missing = packages.missing_of(catalog.find(row.client).packages if row.client else ())
        if missing and packages.install(missing).result != "pass":
            print(f"dev: {row.name} needs {' '.join(missing)}", file=sys.stderr)
            return 1
        for result in row.run():
            print(result.line(), flush=True)
            results.append(result)
    if options.json:
        add_json(options.json, results)
    return 0


def main(argv):
    options = parse(argv)
    status = run_program(options)
    has_boots = options.peers or any(
        name.startswith("vmm") or name in [row.name for row in peer_rows()] for name in options.name)
    if options.list:
        for row in rows(True):
            print(f"{row.name:<20} {row.about}")
    elif has_boots:
        try:
            status = run_boots(options) or status
        except Failure as error:
            print(f"dev: {error}\n{error.output[-3000:]}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
