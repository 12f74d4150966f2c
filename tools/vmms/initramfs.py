"""Archives that the kernel unpacks as its first file system ("newc")."""
import pathlib
import threading

FOLDER, PROGRAM, PLAIN, CONSOLE = 0o40755, 0o100755, 0o100644, 0o20600
PAGE = 4096
FOLDERS = ("dev", "proc", "sys", "tmp", "modules")


def entry(number, name, mode, data=b"", device=(0, 0)):
    raw = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + raw
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def write(path, init, extra=(), folders=()):
    """An archive with init and, as (name, file), what else it needs; modules go into modules/.
    Other folders are to be named, each behind the one that it is in.

    It ends four bytes into a page: QEMU's microvm puts the archive into the last pages of memory,
    and its firmware the ACPI tables at the end of the very last, over what the archive has there."""
    parts = [entry(at + 1, name, FOLDER) for at, name in enumerate((*FOLDERS, *folders))]
    parts.append(entry(1000, "dev/console", CONSOLE, device=(5, 1)))
    parts.append(entry(1001, "init", PROGRAM, pathlib.Path(init).read_bytes()))
    for at, (name, file) in enumerate(extra):
        mode = PROGRAM if file.stat().st_mode & 0o100 else PLAIN
        parts.append(entry(2000 + at, name, mode, file.read_bytes()))
    parts.append(entry(0, "TRAILER!!!", 0))
    size = sum(map(len, parts))
    parts.append(b"\0" * ((PAGE + 4 - size) % PAGE))
    # Another scenario may be reading one of the same name.
    new = path.with_name(f"{path.name}.{threading.get_ident()}")
    new.write_bytes(b"".join(parts))
    new.rename(path)
    return path
