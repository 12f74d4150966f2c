"""Tests of ./dev fuzz: inputs as text, results that are merged, campaigns that go on; with a program in libFuzzer's place."""
import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import fuzz  # noqa: E402
import fuzz_results  # noqa: E402
import fuzz_text  # noqa: E402
import progress  # noqa: E402

RECORD = bytes(range(24))
# Says what libFuzzer says; its seed 3 finds something. Each start is noted in the file $STARTS.
PROGRAM = """\
#!/bin/sh
for word; do
	case $word in
	-seed=*) seed=${word#-seed=} ;;
	-artifact_prefix=*) prefix=${word#-artifact_prefix=} ;;
	*/new) new=$word ;;
	esac
done
echo "$seed" >>"$STARTS"
[ -z "${new:-}" ] || printf 'abcdefghijklmnopqrstuvwx' >"$new/one"
echo "#7 NEW cov: 10 ft: $((100 + seed)) corp: 1/24b"
echo "stat::number_of_executed_units: 50"
if [ "$seed" = "${FATAL:-3}" ]; then
	printf 'ABCDEFGHIJKLMNOPQRSTUVWX' >"${prefix}crash-1234"
	echo 'src/x.c:3:4: runtime error: index 7 out of bounds'
	exit 77
fi
"""


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        program = self.folder / "program"
        program.write_text(PROGRAM)
        program.chmod(0o755)
        self.starts = self.folder / "starts"
        self.enterContext(unittest.mock.patch.dict(os.environ, STARTS=str(self.starts)))
        self.enterContext(unittest.mock.patch.object(fuzz, "WORK", self.folder / "work"))
        self.enterContext(unittest.mock.patch.object(fuzz, "commit", lambda: "c0ffee"))
        self.enterContext(unittest.mock.patch.object(progress, "Progress", progress_of_nothing))
        self.fuzzer = fuzz.Fuzzer("paging", program)
        self.fuzzer.stored = self.file("stored.txt", RECORD.hex() + "\n")

    def file(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def started(self):
        return self.starts.read_text().split() if self.starts.exists() else []

    def seeds(self, *words):
        """The status and what was printed."""
        options = fuzz.parse(["paging", "--runs", "50", *words])
        with contextlib.redirect_stdout(io.StringIO()) as said:
            return fuzz.run_seeds(self.fuzzer, options), said.getvalue()


@contextlib.contextmanager
def progress_of_nothing(*_):
    yield unittest.mock.Mock()


class Text(Case):
    def refused(self, path, text):
        with self.assertRaises(fuzz_text.BadInput) as end:
            fuzz_text.from_text(path)
        self.assertEqual(str(end.exception), f"{path}:{text}")

    def test_there_and_back(self):
        text = f"# why\n{RECORD.hex()}\n{RECORD.hex()}\n\n\n{RECORD.hex()}\n"
        inputs = fuzz_text.from_text(self.file("a.txt", text))
        self.assertEqual(inputs, [RECORD + RECORD, RECORD])
        self.assertEqual(fuzz_text.to_text(inputs[0]), f"{RECORD.hex()}\n" * 2)
        self.assertEqual(fuzz_text.to_text(RECORD + b"rest"), f"{RECORD.hex()}\n")

    def test_bad_files_are_refused_with_their_line(self):
        why = "not a record, which is 24 bytes in hex"
        self.refused(self.file("a.txt", f"# x\n{RECORD.hex()}\nzz\n"), f"3: {why}")
        self.refused(self.file("b.txt", f"{RECORD.hex()}00\n"), f"1: {why}")
        self.refused(self.file("c.txt", "# nothing\n"), "1: there is no input")
        path = self.folder / "d.txt"
        path.write_bytes(b"# x\n\xff\xfe\n")
        self.refused(path, "2: not a record in hex")
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(fuzz_text.main([str(path), str(self.folder)]), 2)
        self.assertIn("d.txt:2:", said.getvalue())


class Results(Case):
    def results(self, name, *seeds, commit="c0ffee"):
        results = fuzz_results.Results("paging", commit, 5)
        for seed in seeds:
            results.add({"seed": seed, "runs": 5, "features": 1, "crash": None, "inputs": []})
        results.write(self.folder / name)
        return str(self.folder / name)

    def refused(self, path, text):
        with self.assertRaises(fuzz_text.BadInput) as end:
            fuzz_results.read(path)
        self.assertIn(f"{path}:{text}", str(end.exception))

    def test_merged_from_several_machines(self):
        merged = fuzz_results.merge([self.results("a", 4, 5, 6), self.results("b", 0, 1, 6)])
        self.assertEqual(sorted(merged.seeds), [0, 1, 4, 5, 6])
        self.assertEqual(merged.text(), "paging: 5 seeds (0 to 1, 4 to 6), 25 runs, 0 crashes")

    def test_other_commits_are_not_merged(self):
        with self.assertRaises(fuzz_text.BadInput) as end:
            fuzz_results.merge([self.results("a", 1), self.results("b", 2, commit="badc0de")])
        self.assertIn("b:1: is of", str(end.exception))

    def test_bad_files_are_refused_with_their_line(self):
        good = pathlib.Path(self.results("a", 1, 2)).read_text().splitlines()
        self.refused(self.file("b", f"{good[0]}\n{good[1]}\n{{\"seed\": \n"), "3: no JSON")
        self.refused(self.file("c", f"{good[0]}\n{{\"seed\": 1}}\n"), "2: a seed without runs")
        self.refused(self.file("d", f"{good[0]}\n[]\n"), "2: a seed without seed")
        self.refused(self.file("e", "[]\n"), "1: not the results of ./dev fuzz")
        self.refused(self.file("f", ""), "1: there is nothing")
        self.refused(self.file("g", f"{good[0]}\n{good[1]}"), "2: the line has no end")
        crash = good[1].replace("null", "7")
        self.refused(self.file("h", f"{good[0]}\n{crash}\n"), "2: a seed without crash")
        for text in ('"zz"', "7", '"' + RECORD.hex() + '"'):
            told = good[1].replace("[]", f"[{text}]")
            self.refused(self.file("i", f"{good[0]}\n{told}\n"), "2: an input that is not records in hex")
        self.refused(self.file("j", good[0].replace('"paging"', "[]") + "\n"), "1: not the results of ./dev fuzz")

    def test_merge_is_a_command(self):
        out = self.folder / "out"
        words = ["--merge", self.results("a", 1), self.results("b", 2), "--json", str(out)]
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(fuzz.main(words), 0)
        self.assertEqual(sorted(fuzz_results.read(out).seeds), [1, 2])
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(fuzz.main(["--merge", str(self.file("x", "x\n"))]), 2)
            # Its inputs are for a folder of its name.
            bad = self.file("y", pathlib.Path(words[1]).read_text().replace("paging", "../paging"))
            self.assertEqual(fuzz.main(["--merge", str(bad)]), 2)
        self.assertIn("x:1: no JSON", said.getvalue())
        self.assertIn("y:1: there is no fuzzer ../paging", said.getvalue())


class Campaign(Case):
    def test_seeds_that_are_done_are_not_done_again(self):
        self.assertEqual(self.seeds("--seeds", "2")[0], 0)
        status, said = self.seeds("--from", "1", "--seeds", "2", "--json", str(self.folder / "out"))
        self.assertEqual((status, self.started()), (0, ["0", "1", "2"]))
        self.assertIn("paging: 2 seeds (1 to 2), 100 runs, 0 crashes", said)
        seeds = fuzz_results.read(self.folder / "out").seeds
        self.assertEqual([seeds[seed]["features"] for seed in (1, 2)], [101, 102])
        self.assertEqual(seeds[1]["inputs"], [b"abcdefghijklmnopqrstuvwx".hex() + "\n"])

    def test_one_that_is_killed_goes_on(self):
        self.seeds("--seeds", "2")
        state = self.fuzzer.folder / "results.json"
        state.write_text(state.read_text()[:-9])
        self.assertEqual(self.seeds("--seeds", "2")[0], 0)
        self.assertEqual(self.started(), ["0", "1", "1"])

    def test_another_commit_begins_anew(self):
        self.seeds("--seeds", "1")
        with unittest.mock.patch.object(fuzz, "commit", lambda: "badc0de"):
            self.seeds("--seeds", "1")
        self.assertEqual(self.started(), ["0", "0"])

    def test_what_is_found_is_told_as_text(self):
        status, said = self.seeds("--from", "3", "--seeds", "1")
        self.assertEqual(status, 1)
        self.assertIn("# src/x.c:3:4: runtime error: index 7 out of bounds\n" + b"ABCDEFGHIJKLMNOPQRSTUVWX".hex(), said)
        # It is still known when nothing is run.
        self.assertEqual(self.seeds("--from", "3", "--seeds", "1")[0], 1)
        self.assertEqual(self.started(), ["3"])

    def test_the_test_fails_by_it(self):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(fuzz.test(self.fuzzer, 1), 0)
            os.environ["FATAL"] = "1"
            self.assertEqual(fuzz.test(self.fuzzer, 1), 1)
        self.assertIn(b"ABCDEFGHIJKLMNOPQRSTUVWX".hex(), said.getvalue())

    def test_a_program_that_runs_nothing_fails(self):
        self.fuzzer.program = pathlib.Path("/bin/true")
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(fuzz.test(self.fuzzer, 1), 1)

    def test_a_search_goes_on(self):
        options = fuzz.parse(["paging", "--seconds", "1", "--jobs", "2"])
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(fuzz.search(self.fuzzer, options), 0)
        self.assertIn("paging: 100 runs, 1 inputs", said.getvalue())

    def search(self):
        options = fuzz.parse(["paging", "--seconds", "1"])
        with contextlib.redirect_stdout(io.StringIO()) as said, \
                unittest.mock.patch.object(fuzz.time, "time", lambda: 3.0):
            return fuzz.search(self.fuzzer, options), said.getvalue()

    def test_a_search_tells_again_what_breaks_again(self):
        """The second finds the same input; what is slow is no crash."""
        for _ in range(2):
            status, said = self.search()
            self.assertEqual(status, 1)
            self.assertIn(b"ABCDEFGHIJKLMNOPQRSTUVWX".hex(), said)
            self.assertIn(", 1 crashes", said)
        os.environ["FATAL"] = "none"
        (self.fuzzer.folder / "found/slow-unit-12").write_bytes(RECORD)
        status, said = self.search()
        self.assertEqual(status, 0)
        self.assertIn(", 0 crashes", said)

    def test_a_search_that_cannot_start_says_why(self):
        program = self.file("program", "#!/bin/sh\necho no device\nexit 3\n")
        self.fuzzer.program = program
        program.chmod(0o755)
        status, said = self.search()
        self.assertEqual(status, 1)
        self.assertIn("no device\n", said)

    def test_a_search_that_does_not_end_is_killed(self):
        program = self.file("program", "#!/bin/sh\necho at input 7\nexec sleep 1000\n")
        self.fuzzer.program = program
        program.chmod(0o755)
        with unittest.mock.patch.object(fuzz, "LATE_SECONDS", 0):
            status, said = self.search()
        self.assertEqual(status, 1)
        self.assertIn("paging: an input has no end", said)


class NoEnd(Case):
    """A program that never ends, below a shell as under quire run; at SIGABRT it writes its input down, as libFuzzer does."""

    PROGRAM = """\
#!/bin/sh
[ -n "$BELOW" ] || { BELOW=1 "$0" "$@"; exit $?; }
for word; do
	case $word in -artifact_prefix=*) prefix=${word#-artifact_prefix=} ;; esac
done
trap 'kill $!; printf ABCDEFGHIJKLMNOPQRSTUVWX >"${prefix}crash-1"; exit 77' ABRT
sleep 1000 &
: >"${0%/*}/ready"
wait
"""

    def setUp(self):
        super().setUp()
        program = self.file("program", self.PROGRAM)
        program.chmod(0o755)
        self.fuzzer.program = program
        self.ready, self.abort = program.with_name("ready"), fuzz.abort
        self.enterContext(unittest.mock.patch.object(fuzz, "abort", self.abort_once_ready))
        self.enterContext(unittest.mock.patch.object(fuzz, "LATE_SECONDS", 0.2))
        self.enterContext(unittest.mock.patch.object(fuzz, "SECONDS_OF_A_RUN", 0.001))

    def abort_once_ready(self, child):
        """On a slow machine the program may not have come to its trap by the time it is late."""
        end = time.monotonic() + 60
        while not self.ready.exists() and time.monotonic() < end:
            time.sleep(0.01)
        self.ready.unlink()
        self.abort(child)

    def test_a_seed_tells_its_input(self):
        status, said = self.seeds("--seeds", "1")
        self.assertEqual(status, 1)
        self.assertIn(b"ABCDEFGHIJKLMNOPQRSTUVWX".hex(), said)

    def test_a_replay_goes_on_with_the_next_input(self):
        inputs = self.file("inputs", f"{RECORD.hex()}\n\n{RECORD.hex()}\n")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(fuzz.replay(self.fuzzer, inputs), 1)
        self.assertEqual(said.getvalue().count("paging: an input has no end"), 2)


class Arguments(unittest.TestCase):
    def refused(self, *words):
        with contextlib.redirect_stderr(io.StringIO()):
            with self.assertRaises(SystemExit) as end:
                fuzz.parse(words)
        self.assertEqual(end.exception.code, 2)

    def test_bad_ones(self):
        for words in ((), ("nothing",), ("paging", "--jobs", "0"), ("paging", "--seeds", "0"), ("paging", "--merge", "x")):
            self.refused(*words)


class Lists(unittest.TestCase):
    """The names stand in four places."""

    def test_they_agree(self):
        sources = sorted(path.stem[5:] for path in (TREE / "tests/fuzz").glob("fuzz_*.c"))
        self.assertEqual(sources, sorted(fuzz.NAMES))
        self.assertEqual(sorted(path.stem for path in fuzz.STORED.glob("*.txt")), sorted(fuzz.NAMES))
        meson = (TREE / "tests/fuzz/meson.build").read_text()
        self.assertEqual(sorted(re.findall(r"^  '(\w+)': ", meson, re.M)), sorted(fuzz.NAMES))
        soak = (TREE / "tests/soak/soak.sh").read_text()
        self.assertIn(f"for name in {' '.join(fuzz.NAMES)}; do", soak)

    def test_what_is_stored_is_text_and_small(self):
        for name in fuzz.NAMES:
            path = fuzz.STORED / f"{name}.txt"
            self.assertTrue(fuzz_text.from_text(path))
            self.assertLess(path.stat().st_size, 32 << 10)

    def test_an_input_is_of_the_same_size_everywhere(self):
        header = (TREE / "tests/fuzz/target.h").read_text()
        self.assertIn(f"#define FUZZ_RECORD_BYTES {fuzz_text.RECORD_BYTES}u", header)
        self.assertIn(f"#define FUZZ_RECORDS_MAX {fuzz.INPUT_BYTES // fuzz_text.RECORD_BYTES}u", header)
        service = (TREE / ".clusterfuzzlite/build.sh").read_text()
        self.assertIn(f"max_len = {fuzz.INPUT_BYTES}", service)
        subprocess.run(["bash", "-n", TREE / ".clusterfuzzlite/build.sh"], check=True)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
