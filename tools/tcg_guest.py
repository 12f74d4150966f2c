"""Runs tests of a build in a guest of QEMU's own translator, under Debian 12's kernel.

There memory may really fail (MADV_HWPOISON), /dev/kvm has no node, the kernel is older than the newest
calls that Quire asks it by, and users have no rights. usage: tcg_guest.py [--all] BUILD
"""
import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import cache
import program
from vmms import initramfs, kernel

NOBODY = 65534
SKIPPED = 77
# Of the whole guest, and of one task in it.
GUEST_SECONDS, TASK_SECONDS = 380, 90
ALL_SECONDS, ALL_TASK_SECONDS = 1800, 300
# Of a task that went wrong: what is shown of its end, and of the lines that say why.
LAST_LINES, MAX_REASONS = 20, 4
REASON = re.compile(r"^\S+\.[ch]:\d+: |^FAIL |: ended by signal |^no end within ")
QUIRE = "/quire/quire"
# What programs of the rules call, or libc when a thread ends.
SYSTEM = ("/bin/sh", "/bin/true", "/lib/x86_64-linux-gnu/libgcc_s.so.1")
# Those whose calls depend on the kernel's age or the user's rights; the others are for --all.
AS_NOBODY = ("exits", "gmem", "host_memory", "libc", "misc", "names", "objects", "prefault", "raw",
             "uring", "vfs")
FILTERS = ("test_a_tenders_filter", "test_devices_behind_a_tenders_filter",
           "test_a_filter_of_all_threads")
# Of the tests of memory that fails, those of a static client. On the engine a SIGBUS is never blocked.
ON_ENGINE = ("anonymous_memory", "under_a_running_guest", "guest_memfd", "anonymous_memory_at_once",
             "every_mapping_at_once", "private_page_at_once", "code_at_once",
             "early_news_for_the_first_thread", "early_news_for_a_later_thread",
             "a_handler_that_does_not_return", "no_handler")
AS_ROOT = ("gmem", "host_memory", "libc")


@dataclasses.dataclass
class Task:
    """One line of the guest's plan."""
    name: str
    user: int
    command: list

    def line(self, seconds):
        return " ".join([self.name, str(self.user), str(seconds), *self.command])


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every program, as root and as nobody")
    parser.add_argument("build", type=pathlib.Path)
    return parser.parse_args(argv)


def rules(build):
    """The programs of tests/rules that are built, by the names of their tests."""
    return {path.name.removeprefix("test_"): path
            for path in sorted((build / "tests/rules").glob("test_*"))
            if path.is_file() and not path.name.endswith("_sanitized")
            and path.name != "test_nx_recovery"}


def failure_tasks():
    def task(name, options, tests=(), program="test_memory_failure"):
        return Task(name, 0, [QUIRE, "run", *options, "--", f"/tests/{program}", *tests])

    return [task("memory_failure", ()),
            task("memory_failure_shadowed", ("--param", "kvm.tdp_mmu=N")),
            task("memory_failure_huge", ("--param", "kvm.quire_gmem_huge_pages=Y"),
                 ("guest_memfd", "guest_memfd_of_two_mebibytes")),
            task("memory_failure_static", (), ON_ENGINE, "test_static_memory_failure")]


def tasks(names, is_all):
    made = [Task("doctor", NOBODY, [QUIRE, "doctor"])]
    for name in names:
        run = [QUIRE, "run", "--", f"/tests/test_{name}"]
        if is_all or name in AS_NOBODY:
            made.append(Task(name, NOBODY, run))
        if is_all or name in AS_ROOT:
            made.append(Task(f"{name}_by_root", 0, run))
    made.append(Task("filters", 0, [QUIRE, "run", "--", "/tests/test_surroundings", *FILTERS]))
    # Last: the kernel keeps in mind that a file system of memory lost a page, and syncfs() says so.
    return [*made, *failure_tasks()]


def libraries(path):
    """Files that the dynamic linker brings for a program."""
    said = subprocess.run(["ldd", str(path)], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False).stdout
    return re.findall(r"(/\S+) \(", said)


def contents(build):
    """What is in the guest's file system, by its name there."""
    files = {"quire/quire": build / "cli/quire",
             "quire/libquire_preload.so": build / "preload/libquire_preload.so",
             "quire/quire-engine": build / "engine/quire-engine",
             **{f"tests/{name}": build / "tests/tcg_guest" / name
                for name in ("test_memory_failure", "test_static_memory_failure")}}
    files.update({f"tests/{path.name}": path for path in rules(build).values()})
    files.update({name.lstrip("/"): pathlib.Path(name) for name in SYSTEM})
    # The decoder's library, where it is shared.
    files.update({f"quire/{path.name}": path for path in (build / "preload").glob("libZydis.so.*")})
    for path in list(files.values()):
        files.update({name.lstrip("/"): pathlib.Path(name) for name in libraries(path)})
    return files


def archive(options, folder, plan):
    files = contents(options.build)
    (folder / "plan").write_text(plan)
    files["plan"] = folder / "plan"
    parents = {str(parent) for name in files for parent in pathlib.PurePath(name).parents}
    folders = sorted(parents - {".", *initramfs.FOLDERS})
    return initramfs.write(folder / "initramfs", options.build / "tests/tcg_guest/guest_init",
                           list(files.items()), folders)


def command(image):
    # The processor is one whose PEXT is quick, or the vCPU translates nothing.
    return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,vendor=GenuineIntel",
            # Of two nodes, so that a page may be asked to move.
            "-smp", "2", "-m", "1536", "-object", "memory-backend-ram,id=near,size=1024M",
            "-object", "memory-backend-ram,id=far,size=512M", "-numa", "node,memdev=near,cpus=0-1",
            "-numa", "node,memdev=far", "-nodefaults", "-display", "none", "-no-reboot",
            "-kernel", str(kernel.obtain().elf), "-initrd", str(image),
            # A clock that programs cannot read without the kernel.
            "-append", "console=ttyS0 panic=-1 quiet clocksource=acpi_pm", "-serial", "stdio"]


def split(text):
    """What each task printed, by its name: the lines before the one that ends it. And its exit."""
    lines, printed, exits = [], {}, {}
    for line in text.splitlines():
        end = re.fullmatch(r"guest: (\S+) (\d+) \d+", line)
        if end:
            printed[end[1]], exits[end[1]] = lines, int(end[2])
            lines = []
        else:
            lines.append(line)
    return printed, exits, lines


def complaints(text, wanted):
    """What is wrong with what the guest said: the ends of tasks that failed, then a line each."""
    printed, exits, rest = split(text)
    failures = {task.name for task in failure_tasks()}
    shown, wrong = [], []
    for task in wanted:
        status = exits.get(task.name)
        if status == 0 or (status == SKIPPED and task.name not in failures):
            continue
        # The first task without an end has what came after the last end.
        lines = printed.get(task.name, rest)
        if status is None:
            rest = []
        shown += [f"----- {task.name}", *lines[-LAST_LINES:]]
        said = "no end" if status is None else "skipped" if status == SKIPPED else f"exit {status}"
        # Last, for the report of many tests shows the end of what each printed.
        wrong += [f"{task.name}: {said}",
                  *(f"  {line}" for line in lines if REASON.search(line))][:MAX_REASONS + 1]
    if not re.search(r"^/dev/kvm +absent", text, re.M):
        wrong.append("the guest has a /dev/kvm")
    return shown, wrong


def main(argv):
    options = parse(argv)
    if not shutil.which("qemu-system-x86_64"):
        print("no qemu-system-x86_64, and no right to install it")
        return SKIPPED
    wanted = tasks(list(rules(options.build)), options.all)
    seconds = ALL_TASK_SECONDS if options.all else TASK_SECONDS
    plan = "".join(task.line(seconds) + "\n" for task in wanted)
    with tempfile.TemporaryDirectory(prefix="quire-guest-") as name:
        folder = pathlib.Path(name)
        status, text, took = program.start_and_wait(
            command(archive(options, folder, plan)), folder,
            ALL_SECONDS if options.all else GUEST_SECONDS)
    print(text)
    shown, wrong = complaints(text, wanted)
    if status != 0:
        wrong.append("QEMU did not end" if status is None else f"QEMU: exit {status}")
    print("\n".join([*shown, *wrong] if wrong else [f"{len(wanted)} tasks in {took:.0f} s"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except cache.Unavailable as error:
        sys.exit(str(error))
