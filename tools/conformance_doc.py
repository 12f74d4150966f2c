"""docs/CONFORMANCE.md: written from a run of every selftest, and compared with what CI sees."""
import re

PATH = "docs/CONFORMANCE.md"
ROW = re.compile(r"^\| (\S[^|]*?) \| (pass|skip|fail) \| (.*) \|$", re.M)

HEAD = """\
# Conformance: the Linux kernel's KVM selftests on Quire

Every program of tools/testing/selftests/kvm of Linux {version} (Debian's source package), built
unmodified and run as `quire run -- PROGRAM` without arguments but for those shown, {limit:g} seconds at
most for each, with the machine's own /dev/kvm hidden; NAME=VALUE in front is a module parameter, --NAME an option of `quire run`,
and --in-place has tests/conformance/in_place.c before KVM, for programs that expect two memories of a page. A pass is exit 0 with its work done: a program that says it found
no time or no slots has failed. A skip gives the program's own reason, a failure its last lines.

This file is generated: `./dev conformance --all --limit {limit:g} --write-doc`. `./dev test kernel` runs some of
these programs and fails when one does not do what its row says.

| program | result | reason |
|---|---|---|
"""


# What a skip or a failure waits for: the beginning of a program's name, then "later" or "never", and
# why. The first that fits counts; a program that does not pass and has no line here fails the check.
DECISIONS = (
    ("x86/vmx_", "never", "guests are offered AMD's SVM on every machine (docs/decisions/0007): a second "
     "virtualisation would be a second processor to keep right, and no guest needs both"),
    ("x86/hyperv_", "never", "enlightenments are for Windows, which no part of this is measured with"),
    ("x86/evmcs_", "never", "Hyper-V's form of VMX, which is not offered"),
    ("x86/xen_", "never", "Xen's hypercalls have no client here; they change nothing about memory"),
    ("x86/sev_", "never", "encryption that the host cannot undo needs a processor: software that keeps "
     "the key beside the memory would only pretend"),
    ("x86/pmu_", "never", "a counter of cycles and misses has no meaning in software; the MSRs exist as "
     "in KVM without a PMU"),
    ("x86/svm_pmu_", "never", "as the others of counters"),
    ("x86/svm_lbr_", "never", "branch records would cost each branch a store"),
    ("x86/aperfmperf_test", "never", "it reads the machine's own MSRs, which are root's"),
    ("x86/kvm_buslock_test", "never", "a split lock does not lock a bus here"),
    ("x86/smaller_maxphyaddr_", "never", "KVM has it on Intel's machines without EPT alone"),
    ("x86/fastops_test", "never", "force_emulation_prefix tests the emulator that KVM keeps beside the "
     "processor; here the two are one"),
    ("x86/nested_emulation_test", "never", "as fastops_test"),
    ("x86/amx_test", "later", "with AMX, when a client needs it"),
    ("x86/xss_msr_test", "later", "with XSAVES"),
    ("x86/monitor_mwait_test", "never", "on a machine without MWAIT it asks the processor that it runs on; with "
     "--cpuid that has it, and all twelve of its tests pass"),
    ("x86/kvm_clock_test", "later", "on a machine whose own clock is its time stamp counter: the program asks for that"),
    ("hardware_disable_test", "never", "68 busy threads 512 times over take minutes on two processors"),
    ("mmu_stress_test", "never", "without arguments it writes 128 GiB, four times; CI gives it some"),
    ("x86/nested_tsc_scaling_test", "later", "with a ratio of the time stamp counter"),
    ("x86/tsc_scaling_sync", "later", "with a ratio of the time stamp counter"),
    ("x86/ucna_injection_test", "later", "with the local APIC's entry for corrected errors"),
    ("access_tracking_perf_test", "later", "with a kernel that has CONFIG_IDLE_PAGE_TRACKING: it asks the "
     "machine, not KVM"),
)

DECIDED = """
## What the skips and failures wait for

"Never" is a decision, with its reason; "later" is work.

| program | when | why |
|---|---|---|
"""


def decision(name):
    """("never", why), ("later", why), or None when it is not decided."""
    for beginning, when, why in DECISIONS:
        if name.startswith(beginning):
            return when, why
    return None


def decided_rows(names):
    return "".join(f"| {name} | {decision(name)[0]} | {decision(name)[1]} |\n"
                   for name in names if decision(name))


def undecided(text):
    """Programs that do not pass by the document and that no decision is about."""
    return [name for name, result in read(text).items() if result != "pass" and not decision(name)]


def title(entry):
    return " ".join([*entry.get("params", ()), entry["program"], *entry["args"]])


def cell(text):
    text = text.replace("|", "/")
    return text if len(text) <= 240 else text[:237] + "..."


def render(report, limit):
    rows = [f"| {title(e)} | {e['result']} | {cell(e['reason'])} |"
            for e in report["programs"]]
    count = {key: sum(e["result"] == key for e in report["programs"])
             for key in ("pass", "fail", "skip")}
    last = f"\n{count['pass']} passed, {count['fail']} failed, {count['skip']} skipped\n"
    waiting = [title(e) for e in report["programs"] if e["result"] != "pass"]
    return (HEAD.format(version=report["kernel"], limit=limit) + "\n".join(rows) + "\n" + last
            + DECIDED + decided_rows(waiting))


def write(path, report, limit):
    path.write_text(render(report, limit))


def read(text):
    """program -> result, as the table has it."""
    return {program: result for program, result, _ in ROW.findall(text)}


def worse(text, report):
    """What a run did not do that the document says; arguments that it does not have pass."""
    rank = {"fail": 0, "skip": 1, "pass": 2}
    table = read(text)
    return [f"{title(entry)}: {PATH} says {table.get(title(entry), 'pass')}, the run saw {entry['result']}"
            for entry in report["programs"]
            if rank[entry["result"]] < rank[table.get(title(entry), "pass")]]


def differences(text, report):
    """What the document says otherwise than a run saw; arguments it does not have pass."""
    table = read(text)
    found = []
    for entry in report["programs"]:
        name = title(entry)
        said = table.get(name, "nothing")
        if (name in table or not entry["args"]) and said != entry["result"]:
            found.append(f"{name}: {PATH} says {said}, the run saw {entry['result']}")
    return found
