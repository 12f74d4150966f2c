"""Searches for inputs that break Quire: libFuzzer on the programs of tests/fuzz, under sanitizers.

NAME alone searches on from what was found before, in build/fuzz/NAME/corpus. With --seeds each seed starts from the
stored inputs alone, so that any machine finds the same; seeds that were done at this commit are not done again. An
input that breaks something is printed as text, with a # line that says what: it goes to the end of
tests/fuzz/corpus/NAME.txt, where './dev test' replays it.
"""
import argparse
import contextlib
import hashlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import fuzz_results
import fuzz_text
import meson_tests
import progress

TREE = pathlib.Path(__file__).resolve().parent.parent
BUILD = TREE / "build-asan"
WORK = TREE / "build/fuzz"
STORED = TREE / "tests/fuzz/corpus"
OPTIONS = ["-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debugoptimized",
           "-Dfuzz=-fsanitize=fuzzer"]
NAMES = ("descriptor", "instruction", "ioctl", "nested", "paging")
OF_CLIENTS = ("descriptor", "ioctl", "nested")  # they run under quire run
INPUT_BYTES = 64 * fuzz_text.RECORD_BYTES
INPUTS_OF_A_SEED = 32
LATE_SECONDS = 180  # more than that after its time, a search stands still and tests/fuzz/watch.c has not ended it
SECONDS_OF_A_RUN = 0.5  # ten times what the slowest fuzzer takes on a busy machine: for a limit, where runs are counted
NO_END = -1000  # a status
ABORT_SECONDS = 10  # libFuzzer writes the input down meanwhile
SHORT_BYTES = 14 * fuzz_text.RECORD_BYTES
# Weighing each feature's frequency takes most of the time where an input reaches thousands.
FLAGS = ["-entropic=0", f"-max_len={INPUT_BYTES}", "-rss_limit_mb=4000", "-detect_leaks=0",
         "-print_final_stats=1", "-verbosity=1"]
# A symbolizer that they start would have the library before it that quire run preloads: symbolized() is later.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0:symbolize=0", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", metavar="NAME", choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--jobs", type=int, metavar="N", default=1, help="searches at a time (1)")
    parser.add_argument("--seconds", type=int, metavar="S", default=60, help="for so long (60)")
    parser.add_argument("--from", type=int, metavar="K", default=0, dest="first", help="the first seed (0)")
    parser.add_argument("--seeds", type=int, metavar="N", help="N seeds, each with the same number of runs")
    parser.add_argument("--runs", type=int, metavar="R", default=2000, help="of each seed (2000)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="what came of these seeds")
    parser.add_argument("--merge", nargs="+", metavar="FILE", help="put files of --json together, into --json")
    parser.add_argument("--replay", metavar="FILE", type=pathlib.Path, help="run the inputs of a file: text, or libFuzzer's")
    parser.add_argument("--minimize", action="store_true", help="the stored inputs, made anew from all that were found")
    # Of the tests: which program, and under which command.
    parser.add_argument("--program", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--quire", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if (options.name is None) == (options.merge is None):
        parser.error("either a NAME or --merge")
    for number in (options.jobs, options.seconds, options.runs, 1 if options.seeds is None else options.seeds):
        if number < 1:
            parser.error("--jobs, --seconds, --seeds and --runs take numbers from 1")
    return options


class Fuzzer:
    """One program, and how it is started."""

    def __init__(self, name, program=None, quire=None):
        self.name, self.folder = name, WORK / name
        self.program = program.resolve() if program else BUILD / f"tests/fuzz/fuzz_{name}"
        self.quire = quire.resolve() if quire else (BUILD / "cli/quire" if name in OF_CLIENTS else None)
        self.stored = STORED / f"{name}.txt"

    def build(self):
        argv = meson_tests.configure_command(TREE, BUILD, OPTIONS)
        if argv:
            subprocess.run(argv, cwd=TREE, check=True, env={**os.environ, "CC": "clang"}, stdout=subprocess.DEVNULL)
        targets = [f"tests/fuzz/fuzz_{self.name}"]
        targets += ["cli/quire", "preload/libquire_preload.so"] if self.quire else []
        subprocess.run([sys.executable, str(TREE / "tools/progress.py"), "--what", "fuzz", "--unit", "steps", "--log",
                        str(BUILD / "compile.log"), "--", "ninja", "-C", str(BUILD), *targets], check=True)

    def command(self, *words):
        start = [str(self.quire), "run", "--"] if self.quire else []
        return [*start, str(self.program), *FLAGS, *map(str, words)]

    def start(self, log, *words):
        return subprocess.Popen(self.command(*words), env={**os.environ, **ENVIRONMENT}, cwd=log.parent,
                                stdin=subprocess.DEVNULL, stdout=log.open("wb"), stderr=subprocess.STDOUT)

    def run(self, log, seconds, *words):
        """The status, and what was printed. What takes longer than @seconds has no end: libFuzzer tells the input."""
        with stopping([self.start(log, *words)]) as (child,):
            try:
                status = child.wait(seconds + LATE_SECONDS)
            except subprocess.TimeoutExpired:
                abort(child)
                status = NO_END
            text = symbolized(log.read_text(errors="replace"))
        if status == NO_END:
            text += f"\n{self.name}: an input has no end: killed after {seconds + LATE_SECONDS:.0f} s\n"
        return status, text

    def expand_stored(self, folder):
        fuzz_text.write_folder(fuzz_text.from_text(self.stored), folder)


def symbolized(text):
    """Addresses of stacks as functions and lines."""
    frames = re.findall(r"\((/\S+)\+(0x[0-9a-f]+)\)", text)
    names = {}
    for path in {path for path, _ in frames if os.access(path, os.R_OK)}:
        places = sorted({place for of, place in frames if of == path})
        lines = subprocess.run(["addr2line", "-f", "-s", "-e", path, *places], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, check=False).stdout.splitlines()
        names.update(zip(((path, place) for place in places), zip(lines[::2], lines[1::2])))
    return re.sub(r"\((/\S+)\+(0x[0-9a-f]+)\)",
                  lambda frame: "{} {}".format(*names.get(frame.groups(), ("", frame.group()))), text)


def below(pid):
    """The processes that @pid has started, and those that they have."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                found += [int(child), *below(child)]
    return found


def abort(child):
    """libFuzzer's handler writes down what it is running, on whichever thread it hears of it. quire run ends after it."""
    for pid in below(child.pid) or [child.pid]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGABRT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(ABORT_SECONDS)


@contextlib.contextmanager
def stopping(children):
    """What is started ends with us."""
    try:
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def commit():
    """What the sources are, with what is not committed."""
    def git(*words):
        return subprocess.run(["git", *words], cwd=TREE, stdout=subprocess.PIPE, check=True).stdout
    changes = git("diff", "HEAD", "--", "src", "vcpu", "frontend", "boundary", "preload", "hosts", "tests/fuzz")
    name = git("rev-parse", "--short=12", "HEAD").decode().strip()
    return f"{name}+{hashlib.sha1(changes).hexdigest()[:8]}" if changes else name


def tell_crash(path, text):
    """An input as it is stored, behind what it broke."""
    data = path.read_bytes()
    why = re.findall(r"^(?:SUMMARY: (?!libFuzzer: deadly).*|.*runtime error: .*|.*Assertion .*)$", text, re.M)
    before = re.findall(r"^(.*)\n==\d+== ERROR: libFuzzer: deadly signal$", text, re.M)
    lines = [f"# {line.strip()[:200]}\n" for line in [*why[:1], *before[:1]]]
    return "".join(lines or [f"# {path.name}\n"]) + fuzz_text.to_text(data)


def artifacts_in(folder):
    """{input that broke something: when it last did}; slow-unit-* are none."""
    return {path: path.stat().st_mtime_ns for path in sorted(folder.iterdir())
            if path.name.startswith(("crash-", "timeout-", "oom-", "leak-"))}


def crashes_in(folder, text, before=()):
    """Those that came after @before, an earlier look; one that breaks something again is among them."""
    known = dict(before)
    return [tell_crash(path, text) for path, when in artifacts_in(folder).items() if known.get(path) != when]


def show_crash(fuzzer, told):
    print(f"{fuzzer.name}: an input broke something; as it stands in {os.path.relpath(fuzzer.stored, TREE)}:\n\n{told}",
          flush=True)


def number_in(text, pattern):
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def test(fuzzer, seconds):
    """What './dev test' runs: from the stored inputs, always the same way."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "corpus").mkdir()
        (folder / "found").mkdir()
        fuzzer.expand_stored(folder / "corpus")
        status, text = fuzzer.run(folder / "log", seconds, f"-max_total_time={seconds}", "-seed=1",
                                  f"-artifact_prefix={folder}/found/", folder / "corpus")
        told = crashes_in(folder / "found", text)
        for one in told:
            show_crash(fuzzer, one)
    print("\n".join(text.splitlines()[-40:]))
    runs = number_in(text, r"stat::number_of_executed_units: (\d+)")
    print(f"{fuzzer.name}: {runs:,} runs")
    return 1 if status or told or not runs else 0


def is_going(children):
    return any(child.poll() is None for child in children)


def search(fuzzer, options):
    """So many searches side by side, each of which reads what the others find."""
    corpus, found = fuzzer.folder / "corpus", fuzzer.folder / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    before, seed = artifacts_in(found), int(time.time())
    fuzzer.expand_stored(corpus)
    logs = [fuzzer.folder / f"log-{job}" for job in range(options.jobs)]
    begun = time.monotonic()
    with stopping([fuzzer.start(log, f"-max_total_time={options.seconds}", f"-seed={seed + job}", "-reload=1",
                                f"-artifact_prefix={found}/", corpus) for job, log in enumerate(logs)]) as children:
        with progress.Progress(f"fuzz {fuzzer.name}", options.seconds, "s") as shown:
            while is_going(children) and time.monotonic() - begun < options.seconds + LATE_SECONDS:
                shown.set(min(int(time.monotonic() - begun), options.seconds))
                time.sleep(0.2)
            is_late = is_going(children)
    texts = [symbolized(log.read_text(errors="replace")) for log in logs]
    told = crashes_in(found, "\n".join(texts), before)
    for one in told:
        show_crash(fuzzer, one)
    failed = [text for child, text in zip(children, texts) if child.returncode]
    if is_late:
        print(f"{fuzzer.name}: an input has no end, or the machine is slow: killed {LATE_SECONDS} s after its time")
    if failed and not told:
        print("\n".join(failed[0].splitlines()[-40:]))
    runs = sum(number_in(text, r"stat::number_of_executed_units: (\d+)") for text in texts)
    print(f"{fuzzer.name}: {runs:,} runs, {len(list(corpus.iterdir())):,} inputs in {os.path.relpath(corpus, TREE)}, "
          f"{len(told)} crashes")
    return 1 if told or failed else 0


def run_seed(fuzzer, seed, runs):
    """One seed, from the stored inputs: what came of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for part in ("new", "stored", "found"):
            (folder / part).mkdir()
        fuzzer.expand_stored(folder / "stored")
        status, text = fuzzer.run(folder / "log", runs * SECONDS_OF_A_RUN, f"-runs={runs}", f"-seed={seed}",
                                  f"-artifact_prefix={folder}/found/", folder / "new", folder / "stored")
        told = crashes_in(folder / "found", text)
        if status and not told:
            raise SystemExit(f"{fuzzer.name}: seed {seed} ended with {status}:\n{text[-2000:]}")
        # Of hundreds the last ones, which reach what is rare.
        new = sorted((folder / "new").iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name))
        inputs = [fuzz_text.to_text(path.read_bytes()) for path in new[-INPUTS_OF_A_SEED:]]
    return {"seed": seed, "runs": number_in(text, r"stat::number_of_executed_units: (\d+)") or number_in(text, r"#(\d+)"),
            "features": number_in(text, r" ft: (\d+)"), "crash": told[0] if told else None, "inputs": inputs}


def run_seeds(fuzzer, options):
    """Those that were not done at this commit; each is written down as it ends."""
    state = fuzzer.folder / "results.json"
    fuzzer.folder.mkdir(parents=True, exist_ok=True)
    now = fuzz_results.Results(fuzzer.name, commit(), options.runs)
    if state.exists():
        before = fuzz_results.read(state, may_be_cut=True)
        now = before if before.head == now.head else now
    asked = range(options.first, options.first + options.seeds)
    with progress.Progress(f"fuzz {fuzzer.name}", len(asked), "seeds") as shown:
        for seed in asked:
            if seed not in now.seeds:
                now.add(run_seed(fuzzer, seed, options.runs))
                now.write(state)
            shown.add()
    result = fuzz_results.Results(**now.head)
    for seed in asked:
        result.add(now.seeds[seed])
    return tell_results(result, options.json)


def tell_results(results, path):
    if path:
        results.write(path)
    for seed in results.crashes():
        print(f"seed {seed['seed']}:\n{seed['crash']}")
    print(results.text())
    return 1 if results.crashes() else 0


def merge(options):
    """The files as one; their inputs join those of this machine's searches."""
    results = fuzz_results.merge(options.merge)
    if results.head["fuzzer"] not in NAMES:
        raise fuzz_text.BadInput(options.merge[0], 1, f"there is no fuzzer {results.head['fuzzer']}")
    corpus = WORK / results.head["fuzzer"] / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in results.seeds.values():
        fuzz_text.write_folder([bytes.fromhex(text.replace("\n", "")) for text in seed["inputs"]], corpus)
    return tell_results(results, options.json)


def replay(fuzzer, path):
    """Each input by itself, so that the first does not hide the others."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = path.read_bytes()
        is_text = all(byte in b"\n\t" or 32 <= byte < 127 for byte in data[:4096])
        inputs = fuzz_text.from_text(path) if is_text else [data]
        failed = 0
        for number, data in enumerate(inputs, 1):
            (folder / "input").write_bytes(data)
            status, text = fuzzer.run(folder / "log", 0, folder / "input", f"-artifact_prefix={folder}/")
            failed += status != 0
            print(f"{path}: input {number}: {'broke something' if status else 'passes'}")
            if status:
                print(f"{text[-6000:]}\n{fuzz_text.to_text(data)}")
    return 1 if failed else 0


def features_of(fuzzer, paths):
    """{path: what it reaches}, by libFuzzer's own step for it. (-merge starts a shell, which is not sanitized.)"""
    with tempfile.TemporaryDirectory() as name:
        folder, features = pathlib.Path(name), {}
        control = folder / "control"
        control.write_text("\n".join([str(len(paths)), "0", *map(str, paths)]) + "\n")
        # One that breaks something ends it, and is passed over by the next.
        for _ in range(20):
            status, text = fuzzer.run(folder / "log", len(paths) * SECONDS_OF_A_RUN, "-merge_inner=1", f"-merge_control_file={control}")
            if status == 0:
                break
        for line in control.read_text().splitlines():
            words = line.split()
            if words[0] == "FT":
                features[paths[int(words[1])]] = set(words[2:])
    if not features:
        raise SystemExit(text[-3000:])
    return features


def minimize(fuzzer, limit=12):
    """Short inputs, each of which reaches most of what those before it do not. One behind a remark is kept as it is."""
    kept = [block for block in fuzzer.stored.read_text().split("\n\n") if "#" in block] if fuzzer.stored.exists() else []
    short = [path for path in sorted((fuzzer.folder / "corpus").iterdir()) if path.stat().st_size <= SHORT_BYTES]
    left = features_of(fuzzer, short)
    blocks, reached = [], set()
    while left and len(blocks) < limit:
        best = max(left, key=lambda path: (len(left[path] - reached), path.name))
        reached |= left.pop(best)
        blocks.append(fuzz_text.to_text(best.read_bytes()))
    fuzzer.stored.parent.mkdir(exist_ok=True)
    fuzzer.stored.write_text("\n".join([*(block.strip() + "\n" for block in kept), *blocks]))
    print(f"{os.path.relpath(fuzzer.stored, TREE)}: {len(kept)} kept, {len(blocks)} of {len(short)} others")
    return 0


def main(argv):
    options = parse(argv)
    try:
        if options.merge:
            return merge(options)
        fuzzer = Fuzzer(options.name, options.program, options.quire)
        if options.program:
            return test(fuzzer, options.seconds)
        fuzzer.build()
        if options.replay:
            return replay(fuzzer, options.replay)
        if options.minimize:
            return minimize(fuzzer)
        return run_seeds(fuzzer, options) if options.seeds else search(fuzzer, options)
    except (fuzz_text.BadInput, OSError) as error:
        print(f"dev: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"dev: {' '.join(map(str, error.cmd[:2]))} failed; {BUILD}/compile.log and meson-logs/ say why",
              file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
