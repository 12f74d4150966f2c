#!/usr/bin/env python3
"""What quire-sim says of a failure: a small plan that fails again, where, and who did what.

Usage: test_story.py QUIRE_SIM_WITH_MUTANTS
"""
import os
import re
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1)
OP = re.compile(r"^thread \d+: .*$", re.M)
PREEMPTION = re.compile(r"^(?:run|end) step \d+ to \d+$", re.M)
# A bug, and the seed that meets it (docs/MUTANTS.md).
BUGS = {"map_unkept": 130, "convert_zeroes": 73, "map_unmarked": 29}
GOOD = """quire-sim plan 1
# a remark
seed 1 1
vm type 0 mmu 0 format 0 limit 0 rings 0 manual 0 zap-all 0 eager-split 0 host-huge 0 file-huge 0 spaces 0 \
linked 0 pool 0 owner 0 rights 0 vcpus 1 threads 2 odds 4
thread 0: store slot 0 first 3 pages 0 page 0 flags 0
thread 1: slot-create slot 1 first 0 pages 8 page 0 flags 0
preemptions 2
run step 2 to 1
end step 1 to 1
"""
# A vCPU has a page in its hands; at step %d another thread makes it private.
HELD = """quire-sim plan 1
seed 1 1
vm type 1 mmu 0 format 0 limit 0 rings 0 manual 0 zap-all 0 eager-split 0 host-huge 0 file-huge 0 spaces 0 \
linked 0 pool 0 owner 2 rights 0 vcpus 1 threads 3 odds 4
thread 0: map slot 0 first 16 pages 3 page 0 flags 1
thread 1: attributes slot 0 first 0 pages 1 page 2 flags 0x8
thread 2: slot-create slot 0 first 16 pages 8 page 0 flags 0x4
preemptions 2
run step 1 to 2
run step %d to 1
"""


def run(*arguments):
    done = subprocess.run([PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=100, check=False)
    return done.returncode, done.stdout, done.stderr


def shrunk(seed, name):
    """A small plan takes some seconds of processor time, and longer on a machine with other work."""
    return run("--from", str(seed), "--seeds", "1", "--mutant", name, "--shrink", "90")


def replay(text, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "plan")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return run("--replay", path, *arguments)


def failure(text):
    return re.findall(r"^# failed: (.*)$", text, re.M)


class Stories(unittest.TestCase):
    def test_shrinks(self):
        for name, seed in BUGS.items():
            with self.subTest(name):
                _, whole, _ = run("--seed", str(seed), "--mutant", name, "--shrink", "0")
                status, text, _ = shrunk(seed, name)
                self.assertEqual(status, 1)
                self.assertGreater(len(OP.findall(whole)), 4 * len(OP.findall(text)))
                self.assertLessEqual(len(OP.findall(text)), 8)
                self.assertLessEqual(len(PREEMPTION.findall(text)), 3)
                # The whole text is the plan: it fails again, in the same way, and without the bug it passes.
                again, told, _ = replay(text, "--mutant", name)
                self.assertEqual((again, failure(told)), (1, failure(text)))
                self.assertEqual(OP.findall(told), OP.findall(text))
                self.assertEqual(replay(text)[:2], (0, "the plan passed\n"))

    def test_held_page_converted(self):
        """The model lets a conversion be refused until the page is unmapped, whenever it comes."""
        for step in range(2, 150):
            self.assertEqual(replay(HELD % step)[:2], (0, "the plan passed\n"), step)
        # Some of these steps are while the vCPU has it: a library that does not refuse is noticed.
        noticed = [step for step in range(2, 150) if replay(HELD % step, "--mutant", "pins_unseen")[0]]
        self.assertTrue(noticed)

    def test_says_where(self):
        _, text, _ = shrunk(130, "map_unkept")
        self.assertEqual(failure(text), ["a page in a vCPU's hands is freed"])
        self.assertRegex(text, r"(?m)^# commit \S+$")
        self.assertRegex(text, r"atomic_\w+: 0x[0-9a-f]+ held 0x?[0-9a-f]*\n#       \w+ src/[\w/]+\.c:\d+\n")
        self.assertRegex(text, r"# stack of the failure:\n#       \w+ cli/sim/\w+\.c:\d+\n")
        self.assertRegex(text, r"# stack at the last point of thread \d:\n#       \w+ \w+/")
        _, text, _ = shrunk(115, "slot_unflushed")
        self.assertRegex(text, r"# entries of gfn 0x?[0-9a-f]*, and what was done to the last:\n"
                               r"(?:#   0x[0-9a-f]+ = 0x[0-9a-f]+(?:, a leaf)?\n)+"
                               r"#   thread \d in operation \d+: \w+ .*\n#     atomic_\w+: 0x")

    def test_says_what_was_written(self):
        """What a write leaves in a word is what the thread's next operation on it, in the same turn, finds there."""
        _, text, _ = shrunk(130, "map_unkept")
        turns = re.split(r"(?m)^#   thread .*, \d+ points$", text)
        pairs = []
        for turn in turns[1:]:
            points = re.findall(r"(?m)^#     (atomic_\w+): (0x\w+) held (0\w*)(?:, then (0\w*))?$", turn)
            for what, word, _, then in points:
                self.assertTrue("load" not in what or not then, what)
            for first, second in zip(points, points[1:]):
                if first[1] == second[1] and first[3]:
                    pairs.append((first[3], second[2]))
                    self.assertEqual(*pairs[-1])
        self.assertTrue(pairs)
        self.assertRegex(text, r"(?m)^#     atomic_\w+: 0x\w+ held (0\w*), then (?!\1$)0\w*$")

    def test_plan_has_its_preemptions(self):
        """Those of a run at random, all of them, are the same run again: threads that spin among them."""
        _, whole, _ = run("--seed", "130", "--mutant", "map_unkept", "--shrink", "0")
        _, text, _ = run("--from", "130", "--seeds", "1", "--mutant", "map_unkept", "--shrink", "0")
        self.assertIn(failure(text)[0], whole)
        self.assertRegex(text, r"(?m)^preemptions \d+$")
        self.assertEqual(failure(replay(text, "--mutant", "map_unkept")[1]), failure(text))

    def test_entry_that_the_checker_found(self):
        """Its history is told, in its VM's tables, whatever the operation names that ended just before."""
        _, text, _ = run("--from", "514", "--seeds", "1", "--mutant", "block_unchecked", "--shrink", "0")
        self.assertIn("src/change/check.c", failure(text)[0])
        self.assertRegex(text, r"# entries of gfn 0x?[0-9a-f]*, and what was done to the last:\n"
                               r"(?:#   0x[0-9a-f]+ = 0x[0-9a-f]+\n)+#   0x[0-9a-f]+ = 0x[0-9a-f]+, a leaf\n"
                               r"#   thread \d in operation \d+: \w+ .*\n#     atomic_\w+: 0x")

    def test_first_alone(self):
        """Nothing is said but the plan and remarks on the first failure."""
        _, text, errors = shrunk(130, "map_unkept")
        self.assertEqual(len(failure(text)), 1)
        rest = [line for line in text.splitlines() if not line.startswith(("#", "thread ", "run ", "end "))]
        self.assertEqual([line.split()[0] for line in rest], ["quire-sim", "seed", "vm", "preemptions"])
        self.assertEqual(errors, "")

    def test_crash(self):
        status, text, _ = shrunk(57, "slots_unsynced")
        self.assertEqual((status, failure(text)), (1, ["signal 11"]))
        self.assertNotIn("not told", text)
        self.assertRegex(text, r"# stack of the failure:\n#       \w+ src/\w+/\w+\.[ch]:\d+\n")
        self.assertEqual(failure(replay(text, "--mutant", "slots_unsynced")[1]), ["signal 11"])

    def test_what_a_seed_prints_is_a_plan(self):
        status, text, _ = run("--seed", "7")
        self.assertEqual(status, 0)
        self.assertEqual(replay(text)[:2], (0, "the plan passed\n"))
        # As the Web hands it on.
        self.assertEqual(replay(text.replace("\n", "\r\n"))[:2], (0, "the plan passed\n"))

    def test_quoted(self):
        """As a mail quotes it, once or twice; a line that is not quoted as the others is refused, with its number."""
        text = GOOD.replace("# a remark\n", "# a remark\n\n")
        quoted = "".join(f"> {line}".rstrip(" ") for line in text.splitlines(keepends=True)).replace("> \n", ">\n")
        for plan in (quoted, "".join(f"> {line}" for line in quoted.splitlines(keepends=True)), quoted.replace("> ", ">"),
                     quoted.replace("\n", "\r\n")):
            self.assertEqual(replay(plan)[:2], (0, "the plan passed\n"), plan)
        status, _, errors = replay(quoted.replace("> seed", "seed"))
        self.assertEqual(status, 2)
        self.assertRegex(errors, r":4: not quoted as the first line\n$")
        self.assertRegex(replay(quoted.replace("store", "stare"))[2], r":6: no such operation\n$")

    def test_refused(self):
        self.assertEqual(replay(GOOD)[:2], (0, "the plan passed\n"))
        for old, new, line, why in (
                ("quire-sim plan 1", "a letter", 1, "not a plan of quire-sim"),
                ("seed 1 1", "seed one", 3, "not a line of a plan"),
                ("mmu 0", "mmu 2", 4, "a VM out of range"),
                ("mmu 0", "mnu 0", 4, "not a VM"),
                ("vcpus 1", "vcpus 2", 4, "a VM out of range"),
                ("linked 0", "linked 1", 4, "a VM out of range"),
                ("store slot", "stare slot", 5, "no such operation"),
                ("first 3", "first 1024", 5, "an operation out of range"),
                ("thread 1", "thread 2", 6, "no such thread"),
                ("flags 0\npre", "flags 0 more\npre", 6, "not an operation"),
                ("pages 8", "pages 577", 6, "an operation out of range"),
                ("preemptions 2", "preemptions 9000", 7, "not a line of a plan"),
                ("step 2 to 1", "step 2 to 8", 8, "a preemption out of range"),
                ("step 2 to 1", "step 2 to 2", 8, "a preemption out of range"),
                ("run step 2", "end step 2", 9, "a preemption before the last"),
                ("preemptions 2", "preemptions 3", 9, "preemptions are missing")):
            with self.subTest(new):
                self.assertIn(old, GOOD)
                status, _, errors = replay(GOOD.replace(old, new))
                self.assertEqual(status, 2)
                self.assertRegex(errors, rf"^quire-sim: .*plan:{line}: {why}\n$")
        self.assertEqual(replay("")[0], 2)
        self.assertEqual(run("--replay", "/nonexistent")[0], 2)


if __name__ == "__main__":
    unittest.main()
