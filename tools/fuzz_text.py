"""Inputs of the fuzzers as text: a record a line, in hex; an empty line between two inputs; '#' begins a remark.

usage: fuzz_text.py FILE FOLDER   writes each input of FILE into FOLDER, as libFuzzer keeps them
"""
import hashlib
import pathlib
import re
import sys

RECORD_BYTES = 24  # as tests/fuzz/target.h has it
RECORD = re.compile(f"[0-9a-f]{{{2 * RECORD_BYTES}}}")


class BadInput(Exception):
    """A file that is not what it should be; says its line."""

    def __init__(self, path, line, why):
        super().__init__(f"{path}:{line}: {why}")


def from_text(path):
    """The inputs of a text file, as bytes."""
    inputs, parts = [], []
    number = 0
    try:
        lines = pathlib.Path(path).read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        line = pathlib.Path(path).read_bytes()[:error.start].count(b"\n") + 1
        raise BadInput(path, line, "not a record in hex") from error
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            continue
        if line and not RECORD.fullmatch(line):
            raise BadInput(path, number, f"not a record, which is {RECORD_BYTES} bytes in hex")
        if line:
            parts.append(bytes.fromhex(line))
        elif parts:
            inputs.append(b"".join(parts))
            parts = []
    if parts:
        inputs.append(b"".join(parts))
    if not inputs:
        raise BadInput(path, max(number, 1), "there is no input")
    return inputs


def to_text(data):
    """One input, without what is no whole record."""
    whole = len(data) // RECORD_BYTES * RECORD_BYTES
    return "".join(data[at:at + RECORD_BYTES].hex() + "\n" for at in range(0, whole, RECORD_BYTES))


def write_folder(inputs, folder):
    for data in inputs:
        (pathlib.Path(folder) / hashlib.sha1(data).hexdigest()).write_bytes(data)


def main(argv):
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        write_folder(from_text(argv[0]), argv[1])
    except (BadInput, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
