"""What there is to check: the suites, in the order of a run, and the tiers that they make up."""
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Callable

import arm64
import check_report
import check_runner
import conformance
import conformance_doc
import distributions
import fuzz
import meson_tests
import selftests
import trace_formats
from vmms import catalog, qemu10
from vmms import checks as vmms_checks

TREE = pathlib.Path(__file__).resolve().parent.parent
BUILD = TREE / "build"
PRODUCTS = ("quire", "libquire.so.0", "libquire.a", "libquire_preload.so")

# Meson's tests that take more than twenty seconds: they begin first, and --quick leaves them out.
SLOW = ("interleave", "mutants", "options", "shadow", "shadow-mutants", "simulations", "lost-writes",
        "lost-writes-mutants", "tcg-guest")


@dataclasses.dataclass
class Suite:
    """Checks that belong together. phases() yields lists, each to end before the next begins."""
    name: str
    about: str
    phases: Callable
    names: Callable = lambda: []
    is_quick: bool = False
    # Neighbours of one group run together, so that no processor waits for the last of a suite.
    group: str = ""


def passed(check):
    return check.outcome is not None and check.outcome.result == "pass"


def command(suite, name, argv, limit=600, env=None, **flags):
    return check_runner.Check(suite, name, check_runner.command(argv, TREE, limit, env), **flags)


def product_outcome(name):
    found = (BUILD / name).exists()
    return check_report.Outcome("pass" if found else "fail")


def products():
    yield [check_runner.Check("products", f"build/{name}", lambda name=name: product_outcome(name))
           for name in PRODUCTS]


def tidy():
    yield [command("tidy", "tidy", [sys.executable, "tools/tidy.py"])]


def meson_suite(name):
    def records():
        return [r for r in meson_tests.Build(BUILD).tests() if r["suite"] == name]

    def phases():
        build = meson_tests.Build(BUILD)
        wanted = records()
        compiling = command(name, f"{name}: compile",
                            ["ninja", "-C", str(BUILD), *build.targets(wanted)], is_alone=True)
        yield [compiling]
        if passed(compiling):
            yield [build.check(record, None, SLOW) for record in wanted]

    return Suite(name, "tests of the build", phases,
                 lambda: [f"{name}: {record['name']}" for record in records()], is_quick=True,
                 group="tests of the build")


def second_build(suite, folder, compiler, options):
    """A build folder of another compiler or with other options, configured if it must be."""
    argv = meson_tests.configure_command(TREE, folder, options)
    if argv:
        env = {**os.environ, "CC": compiler}
        yield [command(suite, f"{suite}: configure", argv, env=env, is_alone=True)]


def configured(folder):
    return (folder / "build.ninja").exists()


def again(records):
    """What these tests are in a second build: one preemption a run, one table format where pages are gigabytes, and
    no bugs put in on purpose.

    The build without sanitizers explores every interleaving, and shows that each bug is caught.
    """
    def shorter(record):
        env = {"QUIRE_PREEMPTIONS": "1", **record["env"]}
        return {**record, "env": {"QUIRE_FORMATS": "1", **env} if record["name"].endswith("gigantic") else env}

    return [shorter(record) for record in records if not record["name"].endswith("-mutants")]


def gcc_records():
    """The unit tests and stored inputs: what they compare must not hang on an order that a compiler may choose.
    And what an archive of gcc's leaves to its user."""
    build = meson_tests.Build(TREE / "build-gcc")
    units = [record for part in ("tests/unit", "tests/fuzz")
             for record in build.programs_below(part)]
    return again(units) + [record for record in build.tests() if record["name"] == "installed"]


def gcc_names():
    if not configured(TREE / "build-gcc"):
        return ["gcc: compile without a warning", "gcc: tests"]
    return ["gcc: compile without a warning",
            *[f"gcc: {record['name']}" for record in gcc_records()]]


def gcc():
    folder = TREE / "build-gcc"
    yield from second_build("gcc", folder, "gcc", ["-Dwerror=true"])
    if not configured(folder):
        return
    build, records = meson_tests.Build(folder), gcc_records()
    compiling = command("gcc", "gcc: compile without a warning",
                        ["ninja", "-C", str(folder), "all", *build.targets(records)],
                        is_alone=True)
    yield [compiling]
    if passed(compiling):
        yield [build.check(record, "gcc", SLOW) for record in records]


def asan_records():
    """Meson's records of the tests that run under sanitizers; needs their folder configured."""
    build = meson_tests.Build(TREE / "build-asan")
    return again(record for part in ("tests/unit", "tests/fuzz", "examples/headers")
                 for record in build.programs_below(part))


def asan_names():
    if not configured(TREE / "build-asan"):
        return ["asan: tests"]
    return [f"asan: {record['name']}" for record in asan_records()]


def asan():
    folder = TREE / "build-asan"
    yield from second_build("asan", folder, "clang", fuzz.OPTIONS)
    if not configured(folder):
        return
    build, records = meson_tests.Build(folder), asan_records()
    compiling = command("asan", "asan: compile",
                        ["ninja", "-C", str(folder), *build.targets(records)], is_alone=True)
    yield [compiling]
    if passed(compiling):
        os.environ.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
        yield [build.check(record, "asan", SLOW) for record in records]


def tsan():
    yield [command("tsan", "tsan: stress", ["sh", "tests/stress/run_tsan.sh", "10"],
                   is_alone=True)]


def demo():
    yield [command("demo", "demo", ["build/quire", "run", "--",
                                    "build/examples/private-vm/private-vm"], limit=120)]


# What './dev demo --vm' shows, in this order.
DEMO_VM_LINES = (r"^QEMU emulator version .*, unmodified", r"^Debian's kernel is up after [\d.]+ s",
                 r"^ +.*quire: up ", r"^It migrated to a second QEMU: [1-9][\d,]* pages",
                 r"no page was bad\.$", r"^The first QEMU:$", r"^   memory +pages_4k [1-9]",
                 r"^   exits +exits [1-9]", r"^The second QEMU:$")


def missing_line(text, patterns):
    """The first pattern that no line has behind those of the earlier ones; None: all are there."""
    at = 0
    for pattern in patterns:
        found = re.compile(pattern, re.M).search(text, at)
        if not found:
            return pattern
        at = found.end()
    return None


def demo_vm_outcome():
    outcome = check_runner.command(["./dev", "demo", "--vm"], TREE, 300)()
    missing = missing_line(outcome.output, DEMO_VM_LINES) if outcome.result == "pass" else None
    if missing:
        return check_report.Outcome("fail", f"it did not show {missing!r}", outcome.output)
    return outcome


def demo_vm():
    yield [check_runner.Check("demo-vm", "demo --vm", demo_vm_outcome)]


def page():
    yield [command("page", "page: drawn",
                   [sys.executable, "tests/run_report/test_page.py", str(BUILD / "cli/quire"),
                    str(BUILD / "tests/run_report/test_report_client")])]


def coverage():
    """What tests run of the sources, in a build of its own that counts; the long form is ./dev soak's."""
    yield [command("coverage", "coverage: lines and branches",
                   [sys.executable, "tools/coverage.py", "--quick", "--gate"], limit=1200, is_alone=True)]


def package():
    yield [command("package", "package: made twice, installed, used, removed",
                   [sys.executable, "tests/package/test_package.py"], limit=1800, is_alone=True)]


def arm64_checks():
    """The library and the simulated host for another processor, run in QEMU's user emulation."""
    folder = TREE / "build-arm64"
    machine = [] if configured(folder) else ["--cross-file", str(arm64.machine_file())]
    yield from second_build("arm64", folder, "", machine)
    if not configured(folder):
        return
    compiling = command("arm64", "arm64: compile", ["ninja", "-C", str(folder)], is_alone=True)
    yield [compiling]
    if not passed(compiling):
        return
    build = meson_tests.Build(folder, arm64.emulator())
    # Of the pairs, which take ten times as long here, those of this processor's own tables.
    yield [build.check(record, "arm64", ("interleave-arm64-48",)) for record in build.tests()
           if record["name"] not in SLOW and record["cmd"][0].startswith(str(folder)) and
           (not record["name"].startswith("interleave") or record["name"] == "interleave-arm64-48")]
    yield [command("arm64", "arm64: simulations", [*arm64.emulator(), "build-arm64/cli/sim/quire-sim",
                                                   "--seeds", "2000"]),
           check_runner.Check("arm64", "arm64: the same run for a seed", same_simulation)]


# Each part of the build that can be left out. What needs it goes with it.
PARTS = ("vcpu", "frontend", "cli")


def part_checks():
    """The build without each part, and the tests that are left; in one folder, so that little is compiled twice."""
    folder = TREE / "build-options"
    for off in PARTS:
        name = f"options: without {off}"
        settings = [f"-D{part}={'false' if part == off else 'true'}" for part in PARTS]
        words = ["meson", "configure", str(folder)] if configured(folder) else ["meson", "setup", str(folder)]
        yield [command("options", f"{name}: configure", [*words, *settings], env={**os.environ, "CC": "clang"},
                       is_alone=True)]
        if not configured(folder):
            return
        # Meson writes its list of tests anew at the next build.
        yield [command("options", f"{name}: compile", ["ninja", "-C", str(folder)], 1800, is_alone=True)]
        build = meson_tests.Build(folder)
        wanted = [record for record in build.tests()
                  if record["suite"] not in ("sim", "tools") and record["name"] not in SLOW]
        compiling = command("options", f"{name}: compile the tests",
                            ["ninja", "-C", str(folder), *build.targets(wanted)], 1800, is_alone=True)
        yield [compiling]
        if passed(compiling):
            yield [build.check(record, name) for record in wanted]


def is_walker(record):
    return record["name"].startswith(("kernel-", "walkers-"))


# What Debian 12's QEMU walks in part: tests/walkers/test_walkers.py.
NEWER_WALKERS = ("walkers-riscv", "walkers-power")


def newer_walk(record):
    """The same test by QEMU of the next Debian release."""
    program, *arguments = record["cmd"]
    return check_runner.command([program, "--root", str(qemu10.obtain_walkers()), *arguments],
                                BUILD, record["timeout"])()


def walker_checks():
    """The library's tables under the processors of other people's emulators."""
    build = meson_tests.Build(BUILD)
    wanted = [record for record in build.tests() if is_walker(record)]
    compiling = command("walkers", "walkers: compile",
                        ["ninja", "-C", str(BUILD), *build.targets(wanted)], is_alone=True)
    yield [compiling]
    if passed(compiling):
        yield [*[build.check(record, "walkers") for record in wanted],
               *[check_runner.Check("walkers", f"walkers: {record['name']} by QEMU 10",
                                    lambda record=record: newer_walk(record))
                 for record in wanted if record["name"] in NEWER_WALKERS]]


def distribution_checks():
    """The quick tests of this tree in a root of each other distribution."""
    yield [command("roots", f"roots: {name}", [sys.executable, "tools/distributions.py", name],
                   limit=3600, is_alone=True) for name in distributions.ROOTS]


def same_simulation():
    """A simulated run says the same, byte for byte, on both processors."""
    said = [check_runner.command([*words, "cli/sim/quire-sim", "--seed", "7"], folder, 120)()
            for words, folder in (([], BUILD), (arm64.emulator(), TREE / "build-arm64"))]
    if any(outcome.result != "pass" for outcome in said):
        return next(outcome for outcome in said if outcome.result != "pass")
    same = said[0].output == said[1].output and "thread 0:" in said[0].output
    return check_report.Outcome("pass" if same else "fail", "" if same else "the runs differ")


class Kernel:
    """The kernel's programs that must pass here, and what docs/CONFORMANCE.md says of them."""

    def __init__(self):
        self.offline = False
        self.version = ""
        self.folder = None
        self.entries = []

    def obtain(self):
        try:
            self.version, self.folder = selftests.obtain(self.offline)
        except selftests.Unavailable as error:
            result = "skip" if self.offline else "fail"
            return check_report.Outcome(result, conformance.clean(str(error)))
        return check_report.Outcome("pass", f"Linux {self.version}")

    def run_one(self, line):
        entry = conformance.run_one(BUILD / "quire", self.folder, line.split(), 120)
        self.entries.append(entry)
        result, reason = entry["result"], entry["reason"]
        if result == "fail" and entry["missing_pages"]:
            result = "skip"
        elif result == "skip" and entry["program"] not in conformance.MAY_SKIP:
            # The others need nothing else that a machine may lack.
            result, reason = "fail", f"it skipped: {reason}"
        return check_report.Outcome(result, reason)

    def document(self):
        text = (TREE / conformance_doc.PATH).read_text()
        report = {"programs": self.entries, "kernel": self.version}
        wrong = conformance_doc.differences(text, report)
        return check_report.Outcome("fail" if wrong else "pass", "", "\n".join(wrong))

    def trace_formats(self):
        """The events of a trace are described as the kernel's headers describe them."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "trace.dat"
            subprocess.run([BUILD / "quire", "run", "--trace", path, "--", "true"], check=True)
            wrong = trace_formats.differences(path.read_bytes(), self.folder.parents[3])
        return check_report.Outcome("fail" if wrong else "pass", "", "\n".join(wrong))

    def names(self):
        return [f"kernel: {line}" for line in (*conformance.CI_PROGRAMS, "trace formats")]

    def phases(self):
        yield [check_runner.Check("kernel", "kernel: the programs", self.obtain, is_alone=True)]
        if not self.folder:
            return
        # The setting of huge pages is one for the machine.
        yield [check_runner.Check("kernel", f"kernel: {line}", lambda line=line: self.run_one(line),
                                  is_alone="hugetlb" in line or "splitting" in line)
               for line in conformance.CI_PROGRAMS]
        yield [check_runner.Check("kernel", f"{conformance_doc.PATH} agrees", self.document),
               check_runner.Check("kernel", "kernel: trace formats", self.trace_formats)]


def client_suite(client):
    """What CI runs of a client: one of each kind."""
    def scenarios():
        return [scenario for scenario in client.scenarios() if scenario.in_ci]

    def phases():
        yield [vmms_checks.check(scenario) for scenario in scenarios()]

    return Suite(client.name, client.about, phases,
                 lambda: [f"{client.name}: {scenario.name}" for scenario in scenarios()],
                 group="real VMMs")


def client_suites(tier):
    return [client_suite(client) for client in catalog.CLIENTS if client.tier == tier]


class Plan:
    """All suites of this tree."""

    def __init__(self, offline=False):
        self.kernel = Kernel()
        self.kernel.offline = offline
        tests = sorted({record["suite"] for record in meson_tests.Build(BUILD).tests()})
        self.suites = [
            Suite("products", "what a build makes", products,
                  lambda: [f"build/{name}" for name in PRODUCTS], is_quick=True),
            Suite("tidy", "rules of style", tidy, lambda: ["tidy"], is_quick=True),
            *[meson_suite(name) for name in tests],
            Suite("demo", "a small KVM program", demo, lambda: ["demo"], is_quick=True),
            Suite("gcc", "the tree compiles with gcc, and its unit tests pass", gcc, gcc_names),
            Suite("asan", "unit tests and fuzzers under sanitizers", asan, asan_names),
            Suite("tsan", "races that only real threads show", tsan, lambda: ["tsan: stress"]),
            *client_suites("newcomer")]
        # By name alone.
        self.optional = [
            Suite("arm64", "the library on another processor", arm64_checks,
                  lambda: ["arm64: tests"]),
            Suite("options", "the build without each part", part_checks,
                  lambda: [f"options: without {off}: tests" for off in PARTS]),
            Suite("walkers", "processors that are not ours walk the tables", walker_checks,
                  lambda: ["walkers: kernel-qemu", "walkers: kernel-bochs", "walkers: walkers-arm64",
                           "walkers: walkers-riscv", "walkers: walkers-power",
                           *[f"walkers: {name} by QEMU 10" for name in NEWER_WALKERS]]),
            Suite("roots", "the quick tests under other distributions", distribution_checks,
                  lambda: [f"roots: {name}" for name in distributions.ROOTS])]
        self.clients = [
            *client_suites("clients"),
            Suite("demo-vm", "the README's first example", demo_vm, lambda: ["demo --vm"],
                  group="real VMMs"),
            Suite("page", "the page of a run in a browser", page, lambda: ["page: drawn"]),
            Suite("coverage", "what tests run of the sources", coverage,
                  lambda: ["coverage: lines and branches"]),
            Suite("package", "the Debian packages", package,
                  lambda: ["package: made twice, installed, used, removed"]),
            Suite("kernel", "the Linux kernel's own KVM selftests", self.kernel.phases,
                  self.kernel.names)]

    def all(self):
        return [*self.suites, *self.clients, *self.optional]

    def tier(self, name):
        """The suites of "quick", "newcomer", "clients" or "all"."""
        return {"quick": [suite for suite in self.suites if suite.is_quick],
                "newcomer": self.suites, "clients": self.clients, "all": [*self.suites, *self.clients]}[name]

    def select(self, words, tier):
        """The suites that words name; raises KeyError with the first that names none."""
        if not words:
            return self.tier(tier)
        known = {suite.name: [suite] for suite in self.all()}
        known.update({name: self.tier(name) for name in ("clients", "all")})
        wanted = {suite.name for word in words for suite in known[word]}
        return [suite for suite in self.all() if suite.name in wanted]
