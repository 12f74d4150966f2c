"""The build's options: the library alone, without Zydis; machines that it is not for."""
import os
import pathlib
import subprocess
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
MACHINE_32 = """
[binaries]
c = 'gcc'
ar = 'ar'
[built-in options]
c_args = ['-m32']
[host_machine]
system = 'linux'
cpu_family = 'x86'
cpu = 'i686'
endian = 'little'
[properties]
skip_sanity_check = true
"""


class Options(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def run_words(self, *words):
        done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "CC": "gcc"}, check=False)
        return done.returncode, done.stdout

    def succeed(self, *words):
        status, text = self.run_words(*words)
        self.assertEqual(status, 0, text[-4000:])
        return text

    def setup_build(self, *options):
        build = str(self.folder / "build")
        said = self.succeed("meson", "setup", str(TREE), build, "-Dbuildtype=debug", *options)
        return build, said

    def test_the_library_alone(self):
        build, said = self.setup_build("-Dvcpu=false", "-Dtests=false")
        self.assertNotIn("Zydis", said)
        self.assertNotIn("cmocka", said)
        self.succeed("ninja", "-C", build)
        program = str(self.folder / "embed")
        sources = [str(TREE / "examples/embed" / name) for name in ("embed.c", "hosted.c", "port.c")]
        self.succeed("gcc", "-I", str(TREE / "include"), *sources, f"{build}/src/libquire.a",
                     "-o", program)
        self.assertIn("console: 42", self.succeed(program))
        self.assertFalse(list(pathlib.Path(build).glob("cli/quire")))

    def test_what_each_switch_leaves_out(self):
        for option, there, gone in (("vcpu", "src/libquire.a", "vcpu/libquire_vcpu.a"),
                                    ("frontend", "vcpu/libquire_vcpu.a",
                                     "preload/libquire_preload.so"),
                                    ("cli", "preload/libquire_preload.so", "cli/quire")):
            with self.subTest(option=option):
                build = str(self.folder / option)
                self.succeed("meson", "setup", str(TREE), build, f"-D{option}=false")
                rules = pathlib.Path(build, "build.ninja").read_text()
                self.assertIn(f"build {there}", rules)
                self.assertNotIn(f"build {gone}", rules)

    def test_32_bit_machines_are_refused_in_a_sentence(self):
        machine = self.folder / "machine"
        machine.write_text(MACHINE_32)
        status, said = self.run_words("meson", "setup", "--cross-file", str(machine), str(TREE),
                                      str(self.folder / "build"))
        self.assertNotEqual(status, 0)
        self.assertIn("Quire needs a 64-bit machine", said)


if __name__ == "__main__":
    unittest.main()
