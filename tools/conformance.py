"""Runs the kernel's KVM selftests under 'quire run' and says what came of each."""
import argparse
import json
import os
import pathlib
import re
import signal
import sys
import tempfile

import conformance_doc
import hide_kvm
import hugepages
import program
import progress
import selftests

TREE = pathlib.Path(__file__).resolve().parent.parent
KSFT_SKIP = 4

# The programs that have to pass in CI, with their arguments, by what they are about.
CI_PROGRAMS = ("guest_memfd_test", "set_memory_region_test", "guest_print_test",
               "kvm_create_max_vcpus", "coalesced_io_test", "vm_types_test",
               "kvm_binary_stats_test", "memslot_perf_test -l 1 -s 512",
               "memslot_perf_test -l 1 -f 3 -e 3", "memslot_modification_stress_test",
               "memslot_modification_stress_test -q",
               "demand_paging_test -u MISSING -b 128M",
               "demand_paging_test -u MINOR -s shmem -b 128M",
               "x86/private_mem_kvm_exits_test", "x86/private_mem_conversions_test",
               "kvm_page_table_test -b 128M -s anonymous",
               "kvm_page_table_test -b 128M -s anonymous_thp",
               "kvm_page_table_test -b 128M -s anonymous_hugetlb_2mb",
               "pre_fault_memory_test", "x86/nx_huge_pages_test.sh",
               "x86/exit_on_emulation_failure_test", "x86/set_sregs_test",
               "x86/userspace_io_test", "mmu_stress_test -c 2 -m 8 -s 1",
               "access_tracking_perf_test -b 64M",
               "dirty_log_test -M dirty-log", "dirty_log_test -M clear-log",
               "dirty_log_test -M dirty-ring", "dirty_log_perf_test -b 128M",
               "dirty_log_perf_test -b 128M -s anonymous_hugetlb_2mb",
               "x86/dirty_log_page_splitting_test -b 64M",
               "x86/nested_dirty_log_test", "x86/nested_tdp_fault_test",
               "x86/nested_close_kvm_test", "x86/nested_invalid_cr3_test",
               "x86/nested_set_state_test", "x86/nested_exceptions_test", "x86/smm_test", "x86/svm_vmcall_test",
               "x86/state_test",
               "x86/svm_nested_shutdown_test", "x86/svm_nested_vmcb12_gpa",
               "x86/svm_nested_clear_efer_svme", "x86/svm_nested_pat_test",
               "x86/svm_nested_soft_inject_test", "x86/triple_fault_event_test",
               "dirty_log_perf_test -n -b 128M",
               "--cpuid x86/monitor_mwait_test",
               "kvm.gmem_in_place_conversion=Y guest_memfd_test",
               "kvm.gmem_in_place_conversion=Y --in-place x86/private_mem_conversions_test",
               "kvm.gmem_in_place_conversion=Y --in-place x86/private_mem_conversions_test -n 2 -m 4",
               "kvm.gmem_in_place_conversion=Y --in-place x86/private_mem_kvm_exits_test")
# Those where files own the attributes of their pages.
IN_PLACE = tuple(line for line in CI_PROGRAMS if "gmem_in_place_conversion=Y" in line)

# The interpreter checks translated code: a VM has one vCPU, and everything takes longer.
LOCKSTEP = "kvm.quire_lockstep=Y"
# Two vCPUs, or an alarm of their own that would come first.
NOT_IN_LOCKSTEP = ("kvm_binary_stats_test", "x86/state_test", "memslot_perf_test -l 1 -s 512",
                   "kvm.gmem_in_place_conversion=Y --in-place x86/private_mem_conversions_test -n 2 -m 4")

# Those that need of the machine's kernel what it may have been built without.
MAY_SKIP = ("access_tracking_perf_test",)

# Parameters of every program of this run.
COMMON_PARAMS = []

# Runs besides every program without arguments; module parameters and options of 'quire run' stand
# in front.
NO_SPLIT = "kvm.eager_page_split=N"
# It looks for MWAIT in the processor that it runs on.
MWAIT = "--cpuid x86/monitor_mwait_test"
VARIANTS = tuple(f"{param}dirty_log_perf_test -b 128M -s {source}{manual}"
                 for param in ("", NO_SPLIT + " ")
                 for source in ("anonymous", "anonymous_thp", "anonymous_hugetlb_2mb", "shmem",
                                "shared_hugetlb")
                 for manual in ("", " -g")) + tuple(
    # In L2.
    f"{param}dirty_log_perf_test -n -b 128M -s {source}"
    for param in ("", NO_SPLIT + " ")
    for source in ("anonymous", "anonymous_thp")) + (MWAIT,) + IN_PLACE

# Not an option of 'quire run': what stands before KVM in a program that was not written for it.
SHIMS = {"--in-place": "tests/conformance/libin_place.so"}
# Ours in front, or the library of the run would answer first.
PRELOAD = 'LD_PRELOAD="$0 $LD_PRELOAD" exec "$@"'

# What a program prints when it ends well without having tested anything.
NO_WORK = re.compile(r"no full loops done|too short test time|no time\b|not enough time"
                     r"|no (memory |mem)?slots|done 0 iterations|^# totals: pass:0 fail:0 ",
                     re.I | re.M)

# What it prints when a part of it had to be left out: no work either, unless other parts did some.
LEFT_OUT = re.compile(r"slot count too high for this test", re.I)
WORK = re.compile(r"done [1-9]\d* iterations", re.I)


# Lines of an assertion's report that say nothing: stack frames and process numbers.
NOISE = re.compile(r"^\s*(\d+\s+(0x[0-9a-f]+: |\(inlined by\))|\(inlined by\)|pid=\d+ |Random seed: "
                   r"|TAP version|=+ Test Assertion Failure =+)")


def clean(text):
    """One printable line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def last_lines(text, count=4):
    lines = [clean(line) for line in text.splitlines() if not NOISE.match(line)]
    return " / ".join([line for line in lines if line][-count:])


def skip_reason(text):
    """The program's own words: the text after the last SKIP."""
    found = re.findall(r"# SKIP\s*(.*)", text)
    reason = clean(found[-1]).lstrip("- ") if found else last_lines(text, 1)
    return reason or "the program gave no reason"


def line_of(text, match):
    """The whole line of a match."""
    return text[text.rfind("\n", 0, match.start()) + 1:].split("\n", 1)[0]


def classify(status, text, limit):
    """(result, reason) from an exit status (None: it ran out of time) and what was printed."""
    if status is None:
        return "fail", clean(f"no end within {limit} s; {last_lines(text)}")
    if status == KSFT_SKIP:
        return "skip", skip_reason(text)
    if status < 0:
        return "fail", clean(f"killed by {signal.Signals(-status).name}; {last_lines(text)}")
    if status != 0:
        return "fail", clean(f"exit {status}; {last_lines(text)}")
    idle, left_out = NO_WORK.search(text), LEFT_OUT.search(text)
    if idle or (left_out and not WORK.search(text)):
        return "fail", clean(f"ended well without its work: {line_of(text, idle or left_out)}")
    return "pass", clean(f"in part: {line_of(text, left_out)}") if left_out else ""


def run_one(quire, folder, words, limit):
    """Runs [PARAMETER=VALUE ...] [--OPTION ...] NAME [ARGS ...] to its end or its limit; returns its
    entry of the JSON object."""
    count = next(i for i, word in enumerate(words) if "=" not in word and word[:2] != "--")
    params, name, args = words[:count], words[count], list(words[count + 1:])
    shims = [quire.parent / SHIMS[param] for param in params if param in SHIMS]
    options = [word for param in (*COMMON_PARAMS, *params) if param not in SHIMS
               for word in ([param] if param[:2] == "--" else ["--param", param])]
    command = [str(quire), "run", *options, "--",
               *(word for shim in shims for word in ("sh", "-c", PRELOAD, str(shim))),
               str(folder / name), *args]
    with hugepages.reserved(hugepages.needed(name, args)) as missing:
        status, text, seconds = program.start_and_wait(command, folder, limit)
    result, reason = classify(status, text, limit)
    if missing and result != "pass":
        reason = f"{missing} huge pages are missing; {reason}"
    return {"program": name, "params": list(params), "args": args, "result": result,
            "reason": reason, "missing_pages": missing, "seconds": round(seconds, 2)}


def find_program(folder, name):
    """Accepts a name with or without its folder."""
    for candidate in (name, f"x86/{name}"):
        path = folder / candidate
        if path.is_file() and os.access(path, os.X_OK):
            return candidate
    raise selftests.Unavailable(f"the selftests have no program {name}")


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev conformance", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--limit", type=float, default=120, help="seconds a program may take")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter for every program")
    parser.add_argument("--sanitize", metavar="KINDS",
                        help="as of 'quire run', for every program; what it finds is a failure")
    parser.add_argument("--only", metavar="TEXT", default="", help="what has TEXT in its name")
    parser.add_argument("--offline", action="store_true", help="never download")
    parser.add_argument("--all", action="store_true", help="every program")
    parser.add_argument("--write-doc", action="store_true",
                        help="write docs/CONFORMANCE.md; goes with --all")
    parser.add_argument("--known", action="store_true",
                        help="fail only where docs/CONFORMANCE.md says better")
    parser.add_argument("--posted", type=pathlib.Path, metavar="FILE",
                        help="a copy of guest_memfd_conversions_test.c as posted, which no kernel has")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="NAME [ARGS]",
                        help="one program and its arguments; without any, those of CI")
    options = parser.parse_args(argv)
    if options.all and options.program:
        parser.error("--all and a NAME exclude each other")
    if options.posted and (options.program or options.all):
        parser.error("--posted goes alone")
    if options.write_doc and (not options.all or options.only or options.sanitize):
        parser.error("--write-doc takes a run of --all")
    return options


def run_posted(options, quire, folder):
    """Builds and runs the program of --posted; its entry."""
    with tempfile.TemporaryDirectory() as made:
        target = pathlib.Path(made) / options.posted.stem
        selftests.compile_posted(folder, options.posted, TREE / "tests/conformance/posted.h", target)
        words = ["kvm.gmem_in_place_conversion=Y", target.name]
        return run_one(quire, pathlib.Path(made), words, options.limit)


def select(options, folder):
    """The runs, each a list of words."""
    if options.program:
        return [[find_program(folder, options.program[0]), *options.program[1:]]]
    lines = (*selftests.programs(folder), *VARIANTS) if options.all else CI_PROGRAMS
    lines = [line for line in lines if options.only in line]
    if LOCKSTEP in options.param:
        lines = [line for line in lines if line not in NOT_IN_LOCKSTEP]
    return [line.split() for line in lines]


def show(entry):
    """One line, flushed: a reader sees how far a long run has come."""
    line = f"{conformance_doc.title(entry):<44} {entry['result']:<5} {entry['seconds']:>7.1f} s  {entry['reason']}"
    print(line.rstrip(), flush=True)


def totals(entries):
    count = {key: sum(e["result"] == key for e in entries) for key in ("pass", "fail", "skip")}
    return f"{count['pass']} passed, {count['fail']} failed, {count['skip']} skipped"


def run_all(options):
    """Returns the JSON object of the issue's format."""
    quire = TREE / "build/quire"
    try:
        version, folder = selftests.obtain(options.offline)
        wanted = select(options, folder)
    except selftests.Unavailable as error:
        if not options.offline:
            raise
        lines = [options.program] if options.program else [line.split() for line in CI_PROGRAMS]
        entries = [{"program": words[0], "params": [], "args": words[1:], "result": "skip",
                    "reason": clean(str(error)), "seconds": 0.0} for words in lines]
        return {"kernel": "", "programs": entries}
    if not os.access(quire, os.X_OK):
        raise selftests.Unavailable(f"{quire} is missing: the build made no such program")
    hidden = hide_kvm.hide()
    selftests.say(f"Linux {version}; the machine's own /dev/kvm: {hidden}")
    entries = [run_posted(options, quire, folder)] if options.posted else []
    with progress.Progress("conformance", 0 if options.posted else len(wanted), "runs") as shown:
        for words in [] if options.posted else wanted:
            with shown.doing(" ".join(words)):
                entries.append(run_one(quire, folder, words, options.limit))
            if not options.json:
                with shown.aside():
                    show(entries[-1])
    return {"kernel": version, "programs": entries}


def main(argv):
    options = parse(argv)
    COMMON_PARAMS.extend(options.param)
    if options.sanitize:
        COMMON_PARAMS.extend([f"--sanitize={options.sanitize}",
                              f"--sanitize-suppressions={TREE / 'tests/conformance/suppressions.txt'}"])
    try:
        report = run_all(options)
    except (selftests.Unavailable, OSError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    if options.write_doc:
        conformance_doc.write(TREE / conformance_doc.PATH, report, options.limit)
    print(json.dumps(report, indent=1) if options.json else totals(report["programs"]))
    if options.known:
        wrong = conformance_doc.worse((TREE / conformance_doc.PATH).read_text(), report)
        print("".join(f"{line}\n" for line in wrong), end="", file=sys.stderr)
        return 1 if wrong else 0
    return 1 if any(e["result"] == "fail" for e in report["programs"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
