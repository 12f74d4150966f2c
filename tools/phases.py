#!/usr/bin/env python3
"""What the phases of KVM's dirty_log_perf_test cost the library, in instructions, beside real KVM.

usage: tools/phases.py [BUILD]           the table
       tools/phases.py [BUILD] --trace   what trace points cost while tracing is off

Needs valgrind. The library's part is what callgrind counts inside calls of quire_ functions. The
second form compares with a library without trace points, by instructions and by CPU time.
"""
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile

PHASES = ["populate", "enable", "dirty1", "get1", "clear1", "dirty2", "get2", "clear2", "disable"]
PAGES = 16384
# Where the linker puts the code moves populate_4k by a tenth: both are linked in so many orders.
ROUNDS = 30

# Linux 7.3.4, dirty_log_perf_test -c 1,0 -v 1 -b 64M -i 2: millions of instructions of kernel, test
# and guest together.
KVM = {
    "epsY_anon_manual": [305.690, .017, 1.798, .001, 2.915, 73.107, .001, 3.093, .050],
    "epsY_anon_g": [305.787, 6.910, 72.985, 2.328, None, 73.056, 2.518, None, .035],
    "epsY_anon_2M_manual": [25.490, .018, 2.036, .001, 4.764, 73.057, .001, 2.795, 3.427],
    "epsY_anon_2M_manual_nested": [25.633, .018, 1.358, .001, 9.542, 180.198, .001, 3.707, 12.369],
    "epsY_anon_2M_g": [25.481, 8.658, 73.884, 2.631, None, 74.008, 2.505, None, 3.549],
    "epsY_anon_2M_g_nested": [27.555, 9.184, 180.697, 2.580, None, 181.034, 2.573, None, 11.603],
    "epsN_anon_manual": [305.503, .018, 2.034, .001, 2.670, 74.088, .001, 2.760, .053],
    "epsN_anon_g": [305.478, 6.550, 73.701, 2.460, None, 73.110, 2.399, None, .022],
    "epsN_anon_2M_manual": [25.487, .018, 1.617, .001, .332, 148.396, .001, 2.493, 3.721],
    "epsN_anon_2M_manual_nested": [26.559, .017, 1.340, .001, 1.148, 186.460, .001, 2.535, 11.577],
    "epsN_anon_2M_g": [25.491, .028, 75.806, 2.548, None, 73.644, 2.527, None, 3.481],
    "epsN_anon_2M_g_nested": [26.397, .280, 186.623, 2.615, None, 180.484, 2.648, None, 12.692],
    "epsY_anon_manual_w10a": [304.486, .018, 2.497, .001, 2.781, 2.327, .001, .005, .050],
    "epsY_anon_2M_manual_w10a": [25.710, .018, 2.880, .001, 4.241, 2.224, .001, .021, 3.479],
    "epsN_anon_manual_w10a": [303.486, .018, 2.760, .001, 2.518, 2.353, .001, .004, .022],
    "epsN_anon_2M_manual_w10a": [25.493, .020, 3.038, .001, .312, 2.370, .001, .004, .083],
}

NAME = re.compile(r"\((\d+)\)(?: (.*))?")


class Names:
    """Callgrind gives a name with a number once, then the number alone."""

    def __init__(self):
        self.known = {}

    def read(self, text):
        number, name = NAME.match(text).groups()
        if name:
            self.known[number] = name.split("'")[0]
        return self.known[number]


def library_part(path):
    """Instructions inside calls of quire_ functions made from outside of the library."""
    names, caller, callee, total, phase = Names(), "", None, 0, None
    with open(path) as file:
        for line in file:
            if line.startswith("desc: Trigger: --dump-after=phase_"):
                phase = line.split("=phase_")[1].strip()
            elif line.startswith("fn="):
                caller = names.read(line[3:].strip())
            elif line.startswith("cfn="):
                callee = names.read(line[4:].strip())
            elif callee and not line.startswith(("calls=", "cfi=", "cfl=", "cob=")):
                if callee.startswith("quire_") and not caller.startswith("quire_"):
                    total += int(line.split()[1])
                callee = None
    return phase, total


def count(program, run):
    with tempfile.TemporaryDirectory() as directory:
        # Valgrind cannot read every compiler's debugging information; names of functions are enough.
        subprocess.run(["objcopy", "-g", program, f"{directory}/program"], check=True)
        command = ["valgrind", "--tool=callgrind", "-q", "--separate-callers=0",
                   f"--callgrind-out-file={directory}/out"]
        for phase in PHASES:
            command += [f"--zero-before=phase_{phase}", f"--dump-after=phase_{phase}"]
        subprocess.run(command + [f"{directory}/program", run], check=True)
        parts = (library_part(os.path.join(directory, name)) for name in os.listdir(directory)
                 if name.startswith("out"))
        return {phase: total for phase, total in parts if phase}


def print_table(build):
    print("| run | " + " | ".join(PHASES) + " |")
    print("|---" * (1 + len(PHASES)) + "|")
    for run, kvm in KVM.items():
        ours = count(f"{build}/cli/bench/quire-phases", run)
        cells = ["-" if theirs is None else f"{ours[phase] / 1e6:.3f} / {theirs:.3f}"
                 for phase, theirs in zip(PHASES, kvm)]
        print(f"| {run} | " + " | ".join(cells) + " |", flush=True)


def populate_ns(program):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([program, "--json", file.name, "populate_4k/1t"], check=True,
                       stdout=subprocess.DEVNULL)
        return json.load(file)["benchmarks"][0]["cpu_time"]


def link_shuffled(build, library, seed, program):
    """quire-bench with @library, its object files in an order that @seed decides."""
    objects = []
    for folder in (f"src/{library}.a.p", "cli/bench/quire-bench.p", "vcpu/libquire_vcpu.a.p",
                   "hosts/process/libquire_process.a.p"):
        folder = os.path.join(build, folder)
        objects += sorted(os.path.join(folder, name) for name in os.listdir(folder)
                          if name.endswith(".o"))
    random.Random(seed).shuffle(objects)
    wrapped = ("biglock_write_lock", "biglock_write_unlock", "flush_debt_pay")
    subprocess.run(["cc", "-o", program, *objects, *(f"-Wl,--wrap={name}" for name in wrapped),
                    "-lZydis", "-lpthread"], check=True)


def print_trace_cost(build):
    counts = [count(f"{build}/cli/bench/quire-phases{suffix}", "epsY_anon_manual")["populate"]
              for suffix in ("", "-untraced")]
    print(f"instructions a fault of populate: {counts[0] / PAGES:.1f} with trace points, "
          f"{counts[1] / PAGES:.1f} without: {100 * (counts[0] / counts[1] - 1):+.2f} %")
    times = {"libquire": [], "libquire_untraced": []}
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(ROUNDS):
            for library in sorted(times, reverse=seed % 2):
                link_shuffled(build, library, seed, f"{directory}/bench")
                times[library].append(populate_ns(f"{directory}/bench"))
    for name, call in (("median", statistics.median), ("lowest", min), ("highest", max)):
        with_points, without = (call(one) for one in times.values())
        print(f"CPU time of populate_4k/1t, {name} of {ROUNDS} random orders of linking: "
              f"{with_points:.1f} ns with, {without:.1f} ns without: "
              f"{100 * (with_points / without - 1):+.2f} %")


def main(arguments):
    trace = "--trace" in arguments
    places = [argument for argument in arguments if argument != "--trace"]
    build = places[0] if places else "build"
    wanted = ["cli/bench/quire-phases", "cli/bench/quire-bench"]
    if trace:
        wanted += ["cli/bench/quire-phases-untraced"]
    subprocess.run(["ninja", "-C", build, *wanted], check=True, stdout=subprocess.DEVNULL)
    (print_trace_cost if trace else print_table)(build)


if __name__ == "__main__":
    main(sys.argv[1:])
