"""What 'meson install' brings, and programs built against it: C and C++, shared and static.

usage: test_install.py BUILD-FOLDER
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else TREE / "build"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
COMPILERS = (("gcc", "-std=c11"), ("clang", "-std=c11"),
             ("g++", "-std=c++17", "-x", "c++"), ("clang++", "-std=c++17", "-x", "c++"))
PROCESS_SOURCES = [str(TREE / "examples/headers/process.c")]
PROCESS_SAYS = "a VM of this process's own memory did what it should\n"
# A zsh of its own types each of the words and a tab, and then says what its line is: $1 has _quire.
ZSH = r"""
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1=; unsetopt zle_bracketed_paste; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D"
zpty -w z 'setopt no_auto_list no_beep; show() { print -r -- "<$BUFFER>"; BUFFER=; }; zle -N show'
zpty -w z 'bindkey "^I" complete-word "^X" show'
for typed in "${@:2}"; do
	zpty -w -n z "$typed"$'\t\x18'
	zpty -r -m z said '*<quire*>*'
	print -r -- "${${said##*<}%%>*}"
done
zpty -d z
"""
SOURCES = [str(TREE / "examples/embed" / name) for name in ("embed.c", "hosted.c", "port.c")]


def run(*words, **more):
    return subprocess.run(words, text=True, check=True, stdout=subprocess.PIPE, **more).stdout


def names_of_headers(library="quire"):
    """Every function that a public header of the library declares with QUIRE_API."""
    found = set()
    for path in (TREE / "include/quire").glob("*.h"):
        if (path.stem == "process") != (library == "quire-process"):
            continue
        text = re.sub(r"/\*.*?\*/|^#.*?$", "", path.read_text(), flags=re.S | re.M)
        found |= set(re.findall(r"QUIRE_API\b[^;(]*?\b(\w+)\(", text))
    return found


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.temporary.name)
        run("meson", "install", "-C", str(BUILD), "--no-rebuild", "--quiet", "--destdir",
            str(cls.root))
        cls.config = next(cls.root.rglob("quire.pc"))
        cls.lib = cls.config.parent.parent
        cls.env = {**os.environ, "PKG_CONFIG_PATH": str(cls.config.parent),
                   "PKG_CONFIG_SYSROOT_DIR": str(cls.root), "LD_LIBRARY_PATH": str(cls.lib)}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def has(self, pattern):
        found = list(self.root.rglob(pattern))
        self.assertTrue(found, pattern)
        return found[0]

    def test_files(self):
        for path in (TREE / "include/quire").glob("*.h"):
            self.has(f"include/quire/{path.name}")
        for pattern in ("libquire.so", "libquire.so.0", "libquire.a", "man/man3/quire.3*"):
            self.has(pattern)

    def test_files_of_the_command(self):
        if not (BUILD / "cli/quire").exists():
            self.skipTest("built without the command")
        for pattern in ("man/man1/quire.1*", "bash-completion/completions/quire", "_quire",
                        "quire/libquire_preload.so"):
            self.has(pattern)
        done = run(str(self.has("bin/quire")), "doctor", "--", "/bin/true")
        self.assertIn("/bin/true", done)

    def libraries(self):
        """The name of each, its symbols' version, and what an archive leaves to others."""
        # The linker makes the table of offsets, which gcc's code names.
        yield "quire", "QUIRE_0.1", lambda name: name in {"memcpy", "memset", "memcmp", "_GLOBAL_OFFSET_TABLE_"}
        if self.has_process():
            # libquire and libc.
            yield "quire-process", "QUIRE_PROCESS_0.2", lambda name: not name.startswith("process_")

    def has_process(self):
        return bool(list(self.root.rglob("quire-process.pc")))

    def test_names_of_the_shared_libraries(self):
        for name, version, _ in self.libraries():
            library = str(self.lib / f"lib{name}.so.0")
            lines = run("nm", "-D", "--defined-only", "--with-symbol-versions",
                        library).splitlines()
            names = dict(line.split()[2].split("@@") for line in lines if "@@" in line)
            self.assertEqual(set(names), names_of_headers(name))
            self.assertLessEqual(set(names.values()), {version})
            # What has no version is the version itself.
            rest = {line.split()[2] for line in lines if "@@" not in line}
            self.assertEqual(rest, set(names.values()))
            self.assertIn(f"[lib{name}.so.0]", run("readelf", "-d", library))

    def test_names_of_the_archives(self):
        for name, _, is_elsewhere in self.libraries():
            archive = str(self.lib / f"lib{name}.a")
            self.assertEqual(run("ar", "t", archive).split(), [f"{name}.o"])
            listed = run("nm", "--extern-only", "--format=posix", archive).splitlines()
            names = [line.split() for line in listed if len(line.split()) > 1]
            self.assertEqual({words[0] for words in names if words[1] not in "Uw"},
                             names_of_headers(name))
            self.assertEqual([words[0] for words in names
                              if words[1] in "Uw" and not is_elsewhere(words[0])], [])

    def build_and_run(self, compiler, link, package="quire", sources=SOURCES):
        """What the program printed, and the libraries that it names."""
        flags = run("pkg-config", *link, "--cflags", "--libs", package, env=self.env).split()
        program = str(self.root / "program")
        run(*compiler, *WARNINGS, *sources, *flags, *link, "-o", program)
        needed = run("readelf", "-d", program)
        return run(program, env=self.env), re.findall(r"NEEDED.*\[(.*)\]", needed)

    def test_programs_with_this_process_as_host(self):
        if not self.has_process():
            self.skipTest("not for this machine")
        for compiler in COMPILERS:
            with self.subTest(compiler=compiler):
                said, needed = self.build_and_run(compiler, (), "quire-process", PROCESS_SOURCES)
                self.assertEqual(said, PROCESS_SAYS)
                self.assertLessEqual({"libquire-process.so.0", "libquire.so.0"}, set(needed))
                said, needed = self.build_and_run(compiler, ("-static",), "quire-process",
                                                  PROCESS_SOURCES)
                self.assertEqual(said, PROCESS_SAYS)
                self.assertEqual(needed, [])

    def test_programs(self):
        for compiler in COMPILERS:
            with self.subTest(compiler=compiler):
                said, needed = self.build_and_run(compiler, ())
                self.assertIn("console: 42\n", said)
                self.assertIn("libquire.so.0", needed)
                said, needed = self.build_and_run(compiler, ("-static",))
                self.assertIn("console: 42\n", said)
                self.assertEqual(needed, [])


class Completion(unittest.TestCase):
    def complete(self, *words):
        script = ('. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _quire; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        return run("bash", "-c", script, str(TREE / "cli/completion/quire.bash"),
                   *words).split()

    def test_bash(self):
        self.assertEqual(self.complete("quire", "r"), ["run"])
        self.assertEqual(self.complete("quire", "run", "--st"), ["--stats"])
        self.assertEqual(self.complete("quire", "doctor", "--j"), ["--json"])
        self.assertEqual(self.complete("quire", "stat", "--count", "3", "--i"), ["--interval"])
        self.assertEqual(self.complete("quire", "run", "--param", "kvm.eager"),
                         ["kvm.eager_page_split="])
        # What the program is given is the program's.
        self.assertNotIn("--stats", self.complete("quire", "run", "true", "--st"))

    @unittest.skipUnless(shutil.which("zsh"), "no zsh")
    def test_zsh(self):
        wanted = {"quire r": "quire run ", "quire run --st": "quire run --stats ",
                  "quire doctor --j": "quire doctor --json ",
                  "quire stat --count 3 --i": "quire stat --count 3 --interval ",
                  "quire run --param kvm.eager": "quire run --param kvm.eager_page_split=",
                  # What the program is given is the program's.
                  "quire run true --st": "quire run true --st"}
        said = run("zsh", "-fc", ZSH, "zsh", str(TREE / "cli/completion"), *wanted,
                   stdin=subprocess.DEVNULL, timeout=120)
        self.assertEqual(said.splitlines(), list(wanted.values()))

    def test_every_parameter_is_known(self):
        text = (TREE / "frontend/param/params.c").read_text()
        names = {f"{module}.{name}" for macro, module in
                 (("KVM", "kvm"), ("INTEL", "kvm_intel"), ("AMD", "kvm_amd"))
                 for name in re.findall(r"^\s+" + macro + r'_(?:BOOL|UINT)\("(\w+)"', text, re.M)}
        names |= {".".join(pair) for pair in re.findall(r'\{"(kvm\w*)", "(\w+)", PARAM_', text)}
        self.assertIn("kvm.tdp_mmu", names)
        for file in ("quire.bash", "_quire"):
            listed = re.findall(r"\bkvm\w*\.\w+", (TREE / "cli/completion" / file).read_text())
            self.assertEqual(sorted(listed), sorted(names), file)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
