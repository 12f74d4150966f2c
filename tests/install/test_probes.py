"""Probes (USDT) of what is installed: each trace event, with its fields and a semaphore.

usage: test_probes.py BUILD-FOLDER
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

# What readelf says is in the user's language otherwise.
os.environ["LC_ALL"] = "C"
TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
PROBE = re.compile(r"Provider: quire\n\s+Name: (\w+)\n\s+Location: (\w+), Base: (\w+), "
                   r"Semaphore: (\w+)\n\s+Arguments: (.*)\n")


def events():
    """From the header: each event's name, and how many fields it has."""
    text = (TREE / "include/quire/trace.h").read_text().partition("#define QUIRE_TRACE_EVENTS")[2]
    parts = re.split(r"X\(\w+,\s*(\w+),", text.partition("\n\n")[0])[1:]
    return {name: len(re.findall(r"\bF\(", fields))
            for name, fields in zip(parts[::2], parts[1::2])}


def probes(path):
    """Of a file: by name, the words of readelf."""
    notes = subprocess.run(["readelf", "-n", path], check=True, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL).stdout
    found = PROBE.findall(notes)
    assert len({name for name, *_ in found}) == len(found), f"{path}: a name twice"
    return {name: words for name, *words in found}


class Probes(unittest.TestCase):
    def check(self, path):
        wanted, found = events(), probes(path)
        self.assertGreater(len(wanted), 30)
        self.assertEqual({name: len(words[3].split()) for name, words in found.items()}, wanted)
        # One semaphore for all: a trace point looks at one word.
        semaphores = {int(words[2], 16) for words in found.values()}
        self.assertEqual(len(semaphores), 1)
        self.assertNotIn(0, semaphores)
        self.assertEqual(len({words[0] for words in found.values()}), len(found))
        self.assertIn(".probes", subprocess.run(["readelf", "-SW", path], check=True, text=True,
                                                stdout=subprocess.PIPE).stdout)

    def test_an_embedders_library(self):
        self.check(BUILD / "src/libquire.so.0")

    def test_what_quire_run_preloads(self):
        self.check(BUILD / "preload/libquire_preload.so")

    def test_a_program_with_the_archive(self):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder, "program")
            sources = [TREE / "examples/embed" / name for name in ("embed.c", "hosted.c", "port.c")]
            subprocess.run(["gcc", "-I", TREE / "include", *sources, BUILD / "src/libquire.a", "-o",
                            program], check=True)
            self.check(program)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
