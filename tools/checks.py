"""Every check that CI makes, quick ones first: one line each, and a count at the end.

Usage: checks.py [--offline]. A check is a line 'pass|fail|skip  name  seconds  remark'; what a failed
one printed stands in build/checks/.
"""
import json
import os
import pathlib
import subprocess
import sys
import time

import conformance
import conformance_doc
import hide_kvm

TREE = pathlib.Path(__file__).resolve().parent.parent
BUILD = TREE / "build"
LOGS = BUILD / "checks"
PRODUCTS = ("quire", "libquire.so.0", "libquire.a", "libquire_preload.so")


class Checks:
    """Counts results and prints each as it comes."""

    def __init__(self):
        self.count = {"pass": 0, "fail": 0, "skip": 0}

    def add(self, name, result, seconds, remark=""):
        self.count[result] += 1
        print(f"{result:<5} {name:<44} {seconds:>7.1f} s  {remark}".rstrip(), flush=True)

    def command(self, name, command, env=None, limit=600):
        """A check that is one command; true when it exited 0 within its limit of seconds."""
        log = LOGS / (name.replace(" ", "-").replace("/", "-") + ".log")
        start = time.monotonic()
        with open(log, "wb") as out:
            try:
                status = subprocess.run(command, cwd=TREE, env=env, stdin=subprocess.DEVNULL,
                                        stdout=out, stderr=subprocess.STDOUT, check=False,
                                        timeout=limit).returncode
            except subprocess.TimeoutExpired:
                status = f"none within {limit} s"
        lines = log.read_text(errors="replace").strip().splitlines()
        remark = f"exit {status}, {log.relative_to(TREE)}" if status else ""
        self.add(name, "fail" if status else "pass", time.monotonic() - start, remark)
        if status:
            print("\n".join("      " + line for line in lines[-12:]), flush=True)
        return status == 0


def meson_results(checks, label, build, names):
    """Runs Meson tests and counts each; a run that leaves no record is one failure."""
    if not names:
        checks.add(f"{label}: tests", "fail", 0, f"{build.name} has no tests")
        return
    record = build / "meson-logs/testlog.json"
    record.unlink(missing_ok=True)
    start = time.monotonic()
    done = subprocess.run(["meson", "test", "-C", str(build), *names], cwd=TREE, check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    (LOGS / f"{label}-tests.log").write_text(done.stdout)
    entries = []
    if record.exists():
        entries = [json.loads(line) for line in record.read_text().splitlines() if line]
    for entry in entries:
        result = {"OK": "pass", "EXPECTEDFAIL": "pass", "SKIP": "skip"}.get(entry["result"], "fail")
        name = entry["name"].split(" / ")[-1]
        checks.add(f"{label}: {name}", result, entry["duration"])
        if result == "fail":
            output = entry.get("stdout", "") + entry.get("stderr", "")
            print("\n".join("      " + line for line in output.splitlines()[-12:]), flush=True)
    if len(entries) < len(names):
        lines = done.stdout.splitlines()
        checks.add(f"{label}: tests", "fail", time.monotonic() - start,
                   f"{len(names) - len(entries)} did not run")
        print("\n".join("      " + line for line in lines[-12:]), flush=True)


def test_names(build, folder=""):
    """Names of the Meson tests that run a program built below a folder of the tree."""
    listed = subprocess.run(["meson", "introspect", "--tests", str(build)], check=True, text=True,
                            stdout=subprocess.PIPE).stdout
    names = []
    for test in json.loads(listed):
        if str(build / folder) in " ".join(test["cmd"]) or not folder:
            names.append(test["name"])
    return names


def configured(checks, name, folder, compiler, options):
    """A second build folder, set up when it is new or when a folder has joined the build."""
    made = folder / "build.ninja"
    again = []
    if made.exists():
        files = [path for path in TREE.rglob("meson.build")
                 if not path.relative_to(TREE).parts[0].startswith("build")]
        if all(path.stat().st_mtime <= made.stat().st_mtime for path in files):
            return True
        again = ["--reconfigure"]
    return checks.command(f"{name}: configure", ["meson", "setup", *again, str(folder), *options],
                          env={**os.environ, "CC": compiler})


def check_products(checks):
    for name in PRODUCTS:
        found = (BUILD / name).exists()
        checks.add(f"build/{name}", "pass" if found else "fail", 0)


def check_gcc(checks):
    folder = TREE / "build-gcc"
    if configured(checks, "gcc", folder, "gcc", ["-Dwerror=true"]):
        checks.command("gcc: compile without a warning", ["ninja", "-C", str(folder)])


def check_sanitizers(checks):
    folder = TREE / "build-asan"
    options = ["-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debugoptimized"]
    if configured(checks, "asan", folder, "clang", options):
        names = [name for part in ("tests/unit", "tests/fuzz", "examples/headers")
                 for name in test_names(folder, part)]
        os.environ.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
        meson_results(checks, "asan", folder, names)


def check_threads(checks):
    """Races that only real threads show, bounded: './dev soak' goes on for longer."""
    checks.command("tsan: stress", ["sh", "tests/stress/run_tsan.sh", "10"])


def check_conformance(checks, offline):
    """The programs that must pass here, and what docs/CONFORMANCE.md says of them."""
    command = [sys.executable, "tools/conformance.py", "--json", "--limit", "120"]
    done = subprocess.run(command + (["--offline"] if offline else []), cwd=TREE, check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        checks.add("conformance", "fail", 0, f"exit {done.returncode}, no report")
        return
    for entry in report["programs"]:
        result, reason = entry["result"], entry["reason"]
        if result == "fail" and entry.get("missing_pages"):
            result = "skip"
        elif (result == "skip" and report["kernel"]
              and entry["program"] not in conformance.MAY_SKIP):
            # The others need nothing else that a machine may lack.
            result, reason = "fail", f"it skipped: {reason}"
        checks.add("kernel: " + conformance_doc.title(entry), result, entry["seconds"], reason)
    if not report["kernel"]:
        return
    document = TREE / conformance_doc.PATH
    text = document.read_text() if document.exists() else ""
    wrong = conformance_doc.differences(text, report)
    checks.add("docs/CONFORMANCE.md agrees", "fail" if wrong else "pass", 0)
    print("".join(f"      {line}\n" for line in wrong), end="", flush=True)


def main(argv):
    LOGS.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    # No check may pass by help of the machine's own KVM.
    print(f"the machine's own /dev/kvm: {hide_kvm.hide()}", flush=True)
    check_products(checks)
    checks.command("tidy", [sys.executable, "tools/tidy.py"])
    meson_results(checks, "clang", BUILD, test_names(BUILD))
    check_gcc(checks)
    check_sanitizers(checks)
    check_threads(checks)
    if (BUILD / "examples/private-vm/private-vm").exists():
        checks.command("demo", ["build/quire", "run", "--", "build/examples/private-vm/private-vm"],
                       limit=120)
    else:
        checks.add("demo", "fail", 0, "the build made no examples/private-vm")
    check_conformance(checks, "--offline" in argv)
    count = checks.count
    print(f"{count['pass']} passed, {count['fail']} failed, {count['skip']} skipped", flush=True)
    return 1 if count["fail"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
