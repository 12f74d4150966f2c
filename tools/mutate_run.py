"""Runs the tests of ./dev mutate: what each test function reaches without a mutant, and which notices one.

A piece is one test function of a program, in all formats that the program runs it in, or the whole program
where it has none that can be run alone.
A mutant meets those pieces alone that came by its place, in a run where it would have computed something
else; those first that noticed most for their time. The pieces of a program that take little are one run.

A run that does not end is told in two ways, neither of which asks how loaded the machine is. It came to one
site eight times as often as its pieces come to the site that they visit most without the mutant, and two million
times more (that site is in the loop over all pages of the simulated machine, so that work done page by page is far
from it); or each of its threads waits for another one, without a time limit. The rest timed out, which is no death.
"""
import array
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import resource
import select
import signal
import subprocess
import tempfile
import threading
import time

import program
import progress

SITES_MAX = 16384  # as tools/mutate_site.h has it
REACHED_BYTES = SITES_MAX * 9
FAILED, ENDLESS = b"[  FAILED  ]", b"[  ENDLESS ]"
KILLED, WITHOUT_END, SURVIVED, LATE, UNREACHED = (
    "killed", "without end", "survived", "timed out", "reached by no test")
LEAST_SECONDS = 5  # of processor time that any run has
TIMES_AS_LONG = 25
LEAST_VISITS, TIMES_AS_OFTEN = 2_000_000, 8
LATE_MAX = 2  # runs of one mutant
SHORT_SECONDS, RUN_SECONDS = 0.2, 1.0  # such pieces are put together, to runs of at most so long
LONGER_SECONDS = 90  # of the longer tests, what one mutant meets of them in the second round, without it
LOOK_SECONDS = 1.0
WAITS = {"202": 4, "61": None, "247": None}  # x86-64: futex, whose time limit is its word 4; wait4, waitid
PASSED = "passed"


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]


def waits_for_ever(thread):
    """Whether it is in a call that only another thread or process can end."""
    words = (thread / "syscall").read_text().split()
    if words[0] not in WAITS:
        return False
    limit = WAITS[words[0]]
    return limit is None or int(words[limit], 16) == 0


def is_asleep(session):
    """Whether every thread of a session waits for another one of it."""
    try:
        threads = [thread for process in program.processes_of(session) for thread in (process / "task").iterdir()]
        return bool(threads) and all(map(waits_for_ever, threads))
    except (OSError, IndexError):
        return False


class Run:
    """One run of a program, until it ends, says that something failed or has no end, or has had its time."""

    def __init__(self, record, cpu_limit, more, is_asleep=is_asleep):
        def prepare():
            program.first_to_go()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_limit), math.ceil(cpu_limit) + 1))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        child = subprocess.Popen(record["cmd"], cwd=record["workdir"], env={**os.environ, **record["env"], **more},
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 start_new_session=True, preexec_fn=prepare)
        self.child, self.is_asleep = child, is_asleep
        self.is_late, self.is_endless, self.has_failed = False, False, False
        # A machine has other work: the processor's time counts, and what sleeps gets much more.
        self.read(time.monotonic() + 30 + 30 * cpu_limit)
        ended_early = self.is_late or self.is_endless or self.has_failed
        if ended_early:
            program.end_session(child.pid)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        self.end_group()
        child.stdout.close()
        self.cpu_seconds = used.ru_utime + used.ru_stime
        if not ended_early:
            # A program may have spent it in children.
            self.is_late = (child.returncode in (-signal.SIGXCPU, -signal.SIGKILL) or
                            child.returncode != 0 and self.cpu_seconds >= cpu_limit)
            self.has_failed = child.returncode != 0 and not self.is_late

    def end_group(self):
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def read(self, deadline):
        """cmocka goes on after a failure; a mutant is dead by then."""
        rest, asleep = b"", 0
        while not (self.has_failed or self.is_endless or self.is_late):
            self.is_late = time.monotonic() > deadline
            if not select.select([self.child.stdout], [], [], LOOK_SECONDS)[0]:
                # Twice: one that was just woken has not yet left its call.
                asleep = asleep + 1 if self.is_asleep(self.child.pid) else 0
                self.is_endless = asleep >= 3
                continue
            data = os.read(self.child.stdout.fileno(), 65536)
            if not data:
                return
            lines = (rest + data).split(b"\n")
            self.is_endless = any(line.startswith(ENDLESS) for line in lines)
            self.has_failed = any(line.startswith(FAILED) for line in lines)
            rest = lines[-1][-len(FAILED):]


@dataclasses.dataclass
class Piece:
    """What a test function takes and reaches without a mutant."""
    program: str
    name: str  # "": the whole program
    seconds: float
    visits: int  # of the site that it came to most
    reached: bytes


def reached_in(path):
    """(a byte a site: whether a mutant there makes a difference; the visits of the most visited site)"""
    data = path.read_bytes()
    visits = array.array("Q", data[:SITES_MAX * 8])
    return data[SITES_MAX * 8:], max(visits)


class Programs:
    """The tests' programs as pieces: measured once for each build of a program."""

    def __init__(self, records, folder, longest):
        self.records = {record["name"]: record for record in records}
        self.folder, self.longest = folder / "pieces", longest
        self.pieces, self.broken, self.left_out = {}, [], []
        self.folder.mkdir(exist_ok=True)
        self.digests = {name: digest(record["cmd"][0]) for name, record in self.records.items()}
        self.measure_all()

    def lengthen(self, longest):
        """Takes tests as long as that as well."""
        self.longest, self.left_out = longest, []
        self.measure_all()

    def measure_all(self):
        with progress.Progress("mutate", len(self.records), "programs") as shown:
            for name, record in self.records.items():
                with shown.doing(name):
                    self.measure(name, record, shown)

    def measure(self, name, record, shown):
        path = self.folder / f"{name}.json"
        key = f"{self.digests[name]} {record['cmd'][1:]}"
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.get("of") != key:
            known = {"of": key, "names": self.names_of(record), "pieces": {}}
        names = known["names"]
        self.pieces[name] = []
        for label in names if len(names) > 1 else [""]:
            told = known["pieces"].get(label)
            # Not told again: how it went with a shorter time.
            if not told or (told["seconds"] is None and told["limit"] < self.longest):
                told = known["pieces"][label] = self.measure_piece(record, label)
                path.write_text(json.dumps(known))
                if told["seconds"] and told["seconds"] > 5:
                    with shown.aside():
                        print(f"{name}: {label}: {told['seconds']:.1f} s", flush=True)
            if told["failed"]:
                self.broken.append(f"{name} {label}".strip())
            elif told["seconds"] is None or told["seconds"] > self.longest:
                self.left_out.append(f"{name} {label}".strip())
            else:
                reached = bytearray(SITES_MAX)
                for site in told["reached"]:
                    reached[site] = 1
                self.pieces[name].append(Piece(name, label, told["seconds"], told["visits"], bytes(reached)))

    @staticmethod
    def names_of(record):
        """Of its test functions; none where it is not cmocka's."""
        if not record["pieces"]:
            return []
        with tempfile.NamedTemporaryFile("r") as names:
            Run(record, LEAST_SECONDS, {"QUIRE_MUTANT_NAMES": names.name})
            return list(dict.fromkeys(names.read().splitlines()))

    def measure_piece(self, record, label):
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(REACHED_BYTES)
            run = Run(record, self.longest, {"QUIRE_MUTANT_REACHED": file.name, **wanted([label])})
            reached, visits = reached_in(pathlib.Path(file.name))
        return {"seconds": None if run.is_late else run.cpu_seconds, "limit": self.longest,
                "failed": run.has_failed or run.is_endless, "visits": visits,
                "reached": [site for site, byte in enumerate(reached) if byte]}


def wanted(names):
    return {} if names == [""] else {"QUIRE_MUTANT_PIECES": "".join(f",{name}" for name in names) + ","}


class Unit:
    """Pieces of one program that are one run."""

    def __init__(self, pieces):
        self.program = pieces[0].program
        self.names = sorted(piece.name for piece in pieces)
        self.seconds = max(0.01, sum(piece.seconds for piece in pieces))
        self.visits = sum(piece.visits for piece in pieces)
        self.kind = self.program, len(pieces) == 1 and pieces[0].seconds > SHORT_SECONDS and self.names[0]

    def __str__(self):
        return f"{self.program} {','.join(self.names)}".strip()


def units_of(pieces):
    """The pieces of one program, in runs."""
    short, seconds = [], 0
    for piece in sorted(pieces, key=lambda piece: piece.seconds):
        if piece.seconds > SHORT_SECONDS:
            yield Unit([piece])
            continue
        if seconds + piece.seconds > RUN_SECONDS and short:
            yield Unit(short)
            short, seconds = [], 0
        short.append(piece)
        seconds += piece.seconds
    if short:
        yield Unit(short)


class Judge:
    """Lets mutants meet the tests. What a mutant passed is kept: a longer campaign goes on from there."""

    def __init__(self, programs, passed_path):
        self.programs, self.path = programs, passed_path
        self.lock = threading.Lock()
        self.met, self.noticed = {}, {}
        self.passed = {}
        for number, line in enumerate(passed_path.read_text().splitlines() if passed_path.exists() else (), 1):
            fields = line.split("\t")
            if len(fields) != 4:
                raise ValueError(f"{passed_path}:{number}: not four fields")
            self.passed[tuple(fields[:3])] = fields[3]

    def worth(self, unit, folder):
        """How likely a run notices a mutant of the folder of src/, for its time."""
        likely = 1.0 if unit.program.startswith(folder) else 0.2
        noticed = self.noticed.get((unit.kind, folder), 0) + likely
        return noticed / (self.met.get((unit.kind, folder), 0) + 1) / unit.seconds

    def units(self, number, folder):
        found = [unit for pieces in self.programs.pieces.values()
                 for unit in units_of(p for p in pieces if p.reached[number])]
        return sorted(found, key=lambda unit: -self.worth(unit, folder))

    def judge(self, number, key, folder, most=math.inf):
        """(what came of the mutant, by which test); new runs end when they took @most seconds without it."""
        units, late, seconds = self.units(number, folder), [], 0
        for unit in units:
            memo = key, str(unit), self.programs.digests[unit.program]
            outcome = self.passed.get(memo)
            if not outcome:
                seconds += unit.seconds
                if seconds > most:
                    continue
                outcome = self.run(unit, number, folder)
                if outcome in (KILLED, WITHOUT_END):
                    return outcome, str(unit)
                self.note(memo, outcome)
            if outcome == LATE:
                late.append(str(unit))
                if len(late) == LATE_MAX:
                    break
        if late:
            return LATE, late[0]
        return (SURVIVED, f"{len(units)} runs") if units else (UNREACHED, "")

    def run(self, unit, number, folder):
        run = Run(self.programs.records[unit.program], LEAST_SECONDS + TIMES_AS_LONG * unit.seconds, {
            "QUIRE_MUTANT": str(number), **wanted(unit.names),
            "QUIRE_MUTANT_VISITS": str(LEAST_VISITS + TIMES_AS_OFTEN * unit.visits)})
        outcome = (WITHOUT_END if run.is_endless else LATE if run.is_late else
                   KILLED if run.has_failed else PASSED)
        with self.lock:
            place = unit.kind, folder
            self.met[place] = self.met.get(place, 0) + 1
            self.noticed[place] = self.noticed.get(place, 0) + (outcome in (KILLED, WITHOUT_END))
        return outcome

    def note(self, memo, outcome):
        with self.lock, open(self.path, "a", encoding="utf-8") as file:
            self.passed[memo] = outcome
            file.write("\t".join([*memo, outcome]) + "\n")
