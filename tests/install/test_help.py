"""What `quire COMMAND --help` prints comes from the commands' tables; manual and completions agree.

Usage: test_help.py QUIRE
"""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = ("run", "stat", "view", "doctor")


def options_of(text):
    """{option: has a value} of a text that --help printed."""
    return {name: bool(value)
            for name, value in re.findall(r"^  --([\w-]+)( [A-Z][\w.=]*)?  +\S", text, re.M)}


class Help(unittest.TestCase):
    quire = None

    def call(self, *words, cwd=None):
        return subprocess.run([self.quire, *words], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False, cwd=cwd)

    def options(self, command):
        done = self.call(command, "--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        options = options_of(done.stdout)
        self.assertIn("help", options)
        return options

    def test_every_command_has_help(self):
        usage = self.call("help")
        self.assertEqual(usage.returncode, 0)
        for command in COMMANDS:
            text = self.call(command, "--help").stdout
            self.assertIn(f"usage: quire {command} ", text)
            self.assertIn(text, usage.stdout)

    def test_wrong_options(self):
        for words in (("run",), ("run", "--param"), ("run", "--none", "true"),
                      ("run", "--cpuid=1", "true"), ("doctor", "--json=1"), ("doctor", "-x"), ("x",)):
            done = self.call(*words)
            self.assertEqual((done.returncode, done.stdout), (2, ""), words)
            self.assertTrue(done.stderr, words)

    def test_messages_say_what_to_do_next(self):
        """What is wrong, and behind a semicolon what helps."""
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for file, text, mode in (("badi.sh", "#!/no/such/shell -e\n", 0o755),
                                     ("text", "no program\n", 0o644)):
                (folder / file).write_text(text)
                (folder / file).chmod(mode)
            for words, said in (
                    (("run", "./badi.sh"), r"\./badi\.sh: bad interpreter /no/such/shell: No such "
                                           r"file or directory; install it, or correct the first line"),
                    (("run", "./text"), r"Permission denied; .*chmod \+x"),
                    (("run", "no-such-program"), r"No such file or directory; .* of PATH has it"),
                    (("run", "./none/at/all"), r"No such file or directory; check the path"),
                    (("run",), r"no program given; quire run --help"),
                    (("run", "--trace-size", "0", "true"), r"--trace-size: bad value '0'; quire run --help"),
                    (("run", "--trace-filter", "none", "true"), r"no event is named 'none'; try 'kvm_\*'"),
                    (("run", "--param", "kvm.none=1", "true"), r"no such parameter; .*--list-params"),
                    (("run", "--param", "kvm.tdp_mmu=7", "true"), r"bad value; .*--list-params"),
                    (("run", "--stats", "./none/x", "true"), r"\./none/x: .*; its folder must be there"),
                    (("run", "--report", ".", "true"), r"\.: Is a directory; name a file"),
                    (("stat", "a", "b"), r"one PID or NAME at most; quire stat --help"),
                    (("view",), r"one PID, NAME or FILE; quire view --help"),
                    (("view", "./text"), r"no VM has a map there; quire run --stats writes"),
                    (("view", "--text", "no-such-program"), r"no process .* is 'no-such-program'; \S+"),
                    (("none",), r"no command 'none'; there are:\n(.*\n)*usage: quire run ")):
                done = self.call(*words, cwd=folder)
                self.assertRegex(done.stderr, said)
                self.assertNotEqual(done.returncode, 0, words)

    def test_values(self):
        """As a word of their own and behind '='; what follows the program is the program's."""
        self.assertEqual(self.call("doctor", "--js", "--", "/bin/true").stdout[0], "{")
        for words in (("--param", "kvm.none=1"), ("--param=kvm.none=1",)):
            self.assertIn("kvm.none", self.call("run", *words, "true").stderr)

    def test_parameters(self):
        """Each parameter that the completions know, with its value, its range and its meaning."""
        done = self.call("run", "--list-params")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        rows = [re.split(r"  +", line.rstrip()) for line in done.stdout.splitlines()[1:]]
        known = re.findall(r"\bkvm\w*\.\w+", (TREE / "cli/completion/_quire").read_text())
        self.assertEqual(sorted(row[0] for row in rows), sorted(known))
        self.assertTrue(all(len(row) == 4 and row[3] for row in rows), rows)
        found = {row[0]: row[1:] for row in rows}
        self.assertEqual(found["kvm.tdp_mmu"][:2], ["Y", "Y or N"])
        self.assertEqual(found["kvm.nx_huge_pages_recovery_period_ms"][:2], ["0", "0 to 3600000"])
        self.assertTrue(found["kvm.eager_page_split"][2].endswith(" *"))
        self.assertFalse(found["kvm.tdp_mmu"][2].endswith(" *"))

    def test_manual(self):
        text = (TREE / "docs/man/quire.1").read_text()
        listed = set(re.findall(r"\bFl -([a-z][a-z-]*)", text))
        wanted = {name for command in COMMANDS for name in self.options(command)}
        self.assertEqual(listed, wanted)
        synopsis = text[:text.index(".Sh DESCRIPTION")]
        for command in COMMANDS:
            part = re.search(rf"\.Cm {command}\n(.*?)(?=\.Nm\n|\Z)", synopsis, re.S).group(1)
            for name, has_value in self.options(command).items():
                if name != "help":
                    self.assertRegex(part, rf"Op Fl -{name}( Ar|\n)")
                    self.assertEqual(has_value, f"Fl -{name} Ar" in part, name)

    def test_our_parameters_are_in_the_manual(self):
        """KVM's own need none; what Linux does not have is explained."""
        text = (TREE / "docs/man/quire.1").read_text()
        listed = self.call("run", "--list-params").stdout
        ours = re.findall(r"^(kvm\.(?:quire_\w+|gmem_\w+|nested_svm)) ", listed, re.M)
        self.assertGreater(len(ours), 8)
        self.assertEqual([name for name in ours if f".Li {name}=" not in text], [])

    def test_completions(self):
        bash = (TREE / "cli/completion/quire.bash").read_text()
        zsh = (TREE / "cli/completion/_quire").read_text()
        for command in COMMANDS:
            options = self.options(command)
            listed = re.search(rf"^\t{command}:\*\).*-W '([^']*)'", bash, re.M).group(1)
            self.assertEqual(set(re.findall(r"--([a-z][a-z-]*)", listed)), set(options), command)
            part = re.search(rf"^{command}\)\n(.*?);;", zsh, re.M | re.S).group(1)
            self.assertEqual(dict((name, bool(value)) for name, value in
                                  re.findall(r"--([a-z][a-z-]*)\[[^\]]*\](:?)", part)),
                             options, command)


if __name__ == "__main__":
    Help.quire = str(pathlib.Path(sys.argv[1]).resolve())
    unittest.main(argv=sys.argv[:1])
