"""The public headers by themselves: both languages, both compilers, any order, no warning."""
import itertools
import pathlib
import subprocess
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
HEADERS = sorted(f"quire/{path.name}" for path in (TREE / "include/quire").glob("*.h"))
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Werror")
LANGUAGES = (("gcc", "c", "c11"), ("clang", "c", "c11"),
             ("g++", "c++", "c++17"), ("clang++", "c++", "c++17"))


def compile_text(text, compiler, language, standard, *words):
    """What the compiler says of a source that is one text; empty when it takes it."""
    done = subprocess.run([compiler, f"-std={standard}", *WARNINGS, *words, "-fsyntax-only",
                           "-I", str(TREE / "include"), "-x", language, "-"],
                          input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False)
    return done.stdout if done.returncode else ""


def including(names):
    return "".join(f"#include <{name}>\n" for name in names)


class Headers(unittest.TestCase):
    def accepted(self, text, *words):
        for compiler, language, standard in LANGUAGES:
            more = ("-Wold-style-cast",) if language == "c++" else ("-Wstrict-prototypes",)
            with self.subTest(compiler=compiler, text=text):
                said = compile_text(text, compiler, language, standard, *more, *words)
                self.assertEqual(said, "")

    def test_each_alone(self):
        for name in HEADERS:
            self.accepted(including([name]))

    def test_any_order(self):
        # Each header comes before and after each other one.
        self.accepted(including(HEADERS))
        self.accepted(including(reversed(HEADERS)))
        self.accepted(including(itertools.chain(HEADERS[1::2], HEADERS[::2])))

    def test_twice(self):
        self.accepted(including(HEADERS + HEADERS))

    def test_freestanding(self):
        self.accepted(including(HEADERS), "-ffreestanding")

    def test_names_have_c_linkage(self):
        # A name with C++ linkage could not be declared again as one of C.
        for name in HEADERS:
            text = (TREE / "include" / name).read_text()
            if "QUIRE_API " in text.replace("#define QUIRE_API ", ""):
                self.assertIn('extern "C" {', text, name)

    def test_32_bit_machines_are_refused_in_a_sentence(self):
        for compiler, language, standard in LANGUAGES:
            said = compile_text(including(["quire/types.h"]), compiler, language, standard,
                                "-ffreestanding", "-m32")
            with self.subTest(compiler=compiler):
                self.assertIn("Quire needs a 64-bit machine", said)


if __name__ == "__main__":
    unittest.main()
