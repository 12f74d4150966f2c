"""Reserves the machine's huge pages for the programs that need some, and puts the setting back."""
import contextlib
import pathlib
import re

SETTING = pathlib.Path("/proc/sys/vm/nr_hugepages")
MEMINFO = pathlib.Path("/proc/meminfo")
PAGE_BYTES = 2 << 20
# Each slot's mapping is one page longer, to be aligned in.
SPARE_PAGES = 8

# Of hugetlbfs by default, whatever their arguments; and with two machines one after the other.
USERS = ("x86/dirty_log_page_splitting_test",)
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def option(args, name, default):
    """The word after an option of one letter, or what sticks to it."""
    for i, arg in enumerate(args):
        if arg == name and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(name) and len(arg) > len(name):
            return arg[len(name):]
    return default


def needed(name, args):
    """How many 2 MiB pages a program's guest memory takes."""
    source = option(args, "-s", "anonymous_hugetlb" if name in USERS else "anonymous")
    if "hugetlb" not in source:
        return 0
    size = re.fullmatch(r"(\d+)([KMG]?)", option(args, "-b", "1G").upper())
    vcpus = option(args, "-v", "1")
    if not size or not vcpus.isdigit():
        return 0
    memory = int(size.group(1)) * UNITS[size.group(2)] * int(vcpus)
    return -(-memory // PAGE_BYTES) * (2 if name in USERS else 1) + SPARE_PAGES


def free():
    found = re.search(r"^HugePages_Free:\s+(\d+)", MEMINFO.read_text(), re.M)
    return int(found.group(1)) if found else 0


@contextlib.contextmanager
def reserved(count):
    """Yields how many pages are missing of those wanted; writing the setting takes root."""
    if not count or free() >= count:
        yield 0
        return
    before = SETTING.read_text()
    try:
        with contextlib.suppress(OSError):
            SETTING.write_text(str(int(before) + count - free()))
        yield max(0, count - free())
    finally:
        if SETTING.read_text() != before:
            SETTING.write_text(before)
