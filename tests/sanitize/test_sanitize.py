"""What `quire run --sanitize` says of VMMs with a mistake, and that it is silent about their twins.

test_sanitize.py QUIRE FOLDER: the VMMs are FOLDER/vmm_KIND."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

QUIRE, VMMS = sys.argv[1], pathlib.Path(sys.argv[2])
HAS_ENGINE = (VMMS / "static_vmm_slot").exists()
DEADLINE_S = 60
# The status of a VMM for which the host lacks something.
SKIPPED = 77
READ = "a read of memory that the guest holds private"
# A use without frame pointers, or in a signal handler: the stack ends there.
NO_FRAMES = ("without_frame", "cramped")
# What the reports are to hold: of a kind and a scenario, the sentence, and a function of each stack.
FAULTY = {
    ("slot", "unmapped"): ("KVM_RUN with memory of a slot that was unmapped", "guest_store", "drop_half"),
    ("slot", "unmapped_in_time"): ("KVM_RUN with memory of a slot that was unmapped", "guest_store", "drop_half"),
    ("slot", "two_vms"): ("KVM_RUN with memory of a slot that was unmapped", "guest_store", "drop_half"),
    ("slot", "replaced"): ("KVM_RUN with memory of a slot that was replaced by another mapping", "guest_store",
                           "replace_half"),
    ("slot", "moved"): ("KVM_RUN with memory of a slot that was moved away", "guest_store", "move_half"),
    ("slot", "emptied"): ("KVM_RUN with memory of a slot that lost its pages to another address", "guest_load", "take_pages"),
    ("slot", "emptied_by_move"): ("KVM_RUN with memory of a slot that lost its pages to another address", "guest_store",
                                  "move_pages_to"),
    ("slot", "shared_segment"): ("KVM_RUN with memory of a slot that was unmapped", "guest_try_load", "detach"),
    ("slot", "touched"): ("a guest touches memory of a slot that was replaced by another mapping", "thread_main",
                          "replace_half"),
    ("slot", "window"): ("a guest touches memory of a slot that was replaced by a mapping without rights", "guest_try_load",
                         "reserve_half"),
    ("private", "reads"): (READ, "read_word", "make_private"),
    ("private", "writes"): ("a write to memory that the guest holds private", "write_word", "make_private"),
    ("private", "slot_later"): (READ, "read_word", "make_private"),
    ("private", "with_a_handler"): (READ, "read_word", "make_private"),
    ("private", "given_back"): (READ, "read_word", "make_private"),
    ("private", "ended"): (READ, "read_word", "make_private"),
    ("private", "jumps"): (READ, "read_word", "make_private"),
    ("private", "cramped"): (READ, "read_word", "make_private"),
    ("private", "many_mappings"): (READ, "read_word", "make_private"),
    ("private", "by_userfaultfd"): ("a system call on memory that the guest holds private", "bring_page", "make_private"),
    ("private", "without_frame"): (READ, "read_without_frame", "make_private"),
    ("slot", "forked"): ("KVM_RUN with memory of a slot that was unmapped", "guest_store", "drop_half"),
}


# A VMM's guest_memfd converts in place; what is private raises SIGBUS as without a sanitizer.
IN_PLACE = "a {} memory that the guest holds private in place"
# Of a change that came after the fork a child does not know the stack: None.
FAULTY_IN_PLACE = {
    "reads": (IN_PLACE.format("read of"), "read_word", "make_private"),
    "writes": (IN_PLACE.format("write to"), "write_word", "make_private"),
    "forked": (IN_PLACE.format("read of"), "read_word", "make_private"),
    "never_shared": (IN_PLACE.format("read of"), "read_word", "vm_gmem"),
    "child_converted": (IN_PLACE.format("read of"), "read_word", None),
    "child_without_libc": (IN_PLACE.format("read of"), "read_word", "make_private"),
    "linked": (IN_PLACE.format("read of"), "read_word", "make_private"),
}


class Run:
    def __init__(self, kind, *arguments, kinds="", options=(), form=""):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "found.json")
            done = subprocess.run([QUIRE, "run", f"--sanitize={kinds or kind}", "--sanitize-json", path, *options, "--",
                                   VMMS / f"{form}vmm_{kind}", *arguments], stderr=subprocess.PIPE, text=True,
                                  timeout=DEADLINE_S, check=False)
            self.found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        if done.returncode == SKIPPED:
            raise unittest.SkipTest(f"not on this host: {arguments[0]}")
        self.status, self.text = done.returncode, done.stderr


def functions(stack):
    return [frame.get("function") for frame in stack["frames"]]


class Scenarios(unittest.TestCase):
    def test_faulty(self):
        for (kind, scenario), (sentence, used, changed) in FAULTY.items():
            with self.subTest(kind=kind, scenario=scenario):
                run = Run(kind, scenario, "faulty", "0")
                self.assertEqual(run.status, 66, run.text)
                self.assertEqual([(one["kind"], one["what"]) for one in run.found], [(kind, sentence)], run.text)
                self.assertIn(used, functions(run.found[0]["used"]))
                self.assertIn(changed, functions(run.found[0]["changed"]))
                self.assertIn(f"== quire: sanitize: {kind}: {sentence}\n", run.text)
                self.assertIn(f" in {changed} (", run.text)

    def run_in_place(self, scenario, how, form):
        return Run("in_place", scenario, how, "0", kinds="private", form=form, options=[
            "--param", "kvm.gmem_in_place_conversion=Y", "--param", "kvm.quire_gmem_link=Y"])

    def test_in_place(self):
        for form in ("", "static_") if HAS_ENGINE else ("",):
            for scenario, (sentence, used, changed) in FAULTY_IN_PLACE.items():
                with self.subTest(scenario=scenario, form=form):
                    run = self.run_in_place(scenario, "faulty", form)
                    self.assertEqual(([one["what"] for one in run.found], run.status), ([sentence], 66), run.text)
                    self.assertIn(used, functions(run.found[0]["used"]))
                    # On the engine a call's own function of libc may hide its caller.
                    if changed:
                        self.assertIn("ioctl" if form else changed, functions(run.found[0]["changed"]))
                    else:
                        self.assertNotIn("changed", run.found[0])
                    run = self.run_in_place(scenario, "mended", form)
                    self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    def test_in_place_by_the_kernel(self):
        """write(2), writev(2) and read(2), each at a place of its own."""
        for form in ("", "static_") if HAS_ENGINE else ("",):
            for scenario in ("by_the_kernel", "by_the_childs_kernel"):
                with self.subTest(scenario=scenario, form=form):
                    run = self.run_in_place(scenario, "faulty", form)
                    self.assertEqual(([one["what"] for one in run.found], run.status),
                                     ([IN_PLACE.format("system call on")] * 3, 66), run.text)
                    run = self.run_in_place(scenario, "mended", form)
                    self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    def test_mended(self):
        for kind, scenario in FAULTY:
            with self.subTest(kind=kind, scenario=scenario):
                run = Run(kind, scenario, "mended", "0")
                self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    def test_all_kinds(self):
        """Detectors leave each other's findings alone. "given_back" maps memory anew, which "slot" reports."""
        for (kind, scenario), (sentence, _, _) in FAULTY.items():
            if scenario == "given_back":
                continue
            for how, found in (("faulty", [(kind, sentence)]), ("mended", [])):
                with self.subTest(kind=kind, scenario=scenario, how=how):
                    run = Run(kind, scenario, how, "0", kinds="tlb,private,dirty,slot")
                    self.assertEqual([(one["kind"], one["what"]) for one in run.found], found, run.text)

    def test_by_the_kernel(self):
        """Each call is a place of its own, and none fails."""
        run = Run("private", "by_the_kernel", "faulty", "0")
        self.assertEqual((run.status, [one["what"] for one in run.found]),
                         (66, ["a system call on memory that the guest holds private"] * 2), run.text)
        self.assertEqual([one["guest"][0] for one in run.found], ["0x10008000", "0x1000a000"])
        run = Run("private", "by_the_kernel", "mended", "0")
        self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    def test_races(self):
        """How much is found is a matter of luck; no access fails."""
        for form in ("", "static_") if HAS_ENGINE else ("",):
            with self.subTest(form=form):
                run = Run("private", "races", "faulty", "0", form=form)
                self.assertEqual(run.status, 66 if run.found else 0, run.text)

    def test_by_sockets(self):
        """The same of calls that no file of KVM's takes."""
        for form in ("", "static_") if HAS_ENGINE else ("",):
            with self.subTest(form=form):
                run = Run("private", "by_sockets", "faulty", "0", form=form)
                self.assertEqual((run.status, [one["guest"][0] for one in run.found]),
                                 (66, ["0x10008000", "0x1000a000", "0x1000c000", "0x1000f000", "0x10009000",
                                       "0x1000b000"]), run.text)
                run = Run("private", "by_sockets", "mended", "0", form=form)
                self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    def test_by_another_process(self):
        """It is refused, or it has a debugger's rights: nothing is said."""
        for how in ("faulty", "mended"):
            for form in ("", "static_") if HAS_ENGINE else ("",):
                with self.subTest(how=how, form=form):
                    run = Run("private", "by_another_process", how, "0", form=form)
                    self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    @unittest.skipUnless(HAS_ENGINE, "no quire-engine in this build")
    def test_static(self):
        """On quire-engine: the same findings; a call's own function of libc may hide its caller."""
        for (kind, scenario), (sentence, _, _) in FAULTY.items():
            with self.subTest(kind=kind, scenario=scenario):
                run = Run(kind, scenario, "faulty", "0", form="static_")
                self.assertEqual((run.status, [one["what"] for one in run.found]), (66, [sentence]), run.text)
                stacks = [run.found[0]["used"], run.found[0]["changed"]]
                if scenario in NO_FRAMES:
                    stacks.pop(0)
                for stack in stacks:
                    self.assertTrue({"__libc_start_call_main", "start_thread"} & set(functions(stack)), run.text)
                run = Run(kind, scenario, "mended", "0", form="static_")
                self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    @unittest.skipUnless(HAS_ENGINE, "no quire-engine in this build")
    def test_static_places(self):
        """Two calls of one function of libc's are two places."""
        self.assertEqual(len(Run("private", "by_the_kernel", "faulty", "0", form="static_").found), 2)
        found = Run("slot", "twice", "faulty", "0", form="static_").found
        self.assertEqual(len(found), 2, found)

    def test_freed(self):
        """libc's own call is not seen, what is missing is. On the engine the call is seen."""
        found, = Run("slot", "freed", "faulty", "0").found
        self.assertEqual(found["what"], "a guest touches memory of a slot where nothing is mapped")
        self.assertEqual((found["slot"], found["guest"]), (5, ["0x10000000", "0x10001000"]))
        self.assertIn("guest_try_load", functions(found["used"]))
        self.assertNotIn("changed", found)
        if HAS_ENGINE:
            found, = Run("slot", "freed", "faulty", "0", form="static_").found
            self.assertEqual(found["what"], "KVM_RUN with memory of a slot that was unmapped")
        for form in ("", "static_") if HAS_ENGINE else ("",):
            run = Run("slot", "freed", "mended", "0", form=form)
            self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    def test_watched(self):
        """A userfaultfd brings the pages back: nothing is lost."""
        for form in ("", "static_") if HAS_ENGINE else ("",):
            run = Run("slot", "emptied_and_watched", "mended", "0", form=form)
            self.assertEqual((run.status, run.found), (0, []), run.text)

    def test_truncated(self):
        """What the file lost the guest finds; a hole in the file is no mistake."""
        for form in ("", "static_") if HAS_ENGINE else ("",):
            with self.subTest(form=form):
                run = Run("slot", "truncated", "faulty", "0", form=form)
                self.assertEqual(run.status, 66, run.text)
                found, = run.found
                self.assertEqual(found["what"], "a guest touches memory of a slot for which its file has no page")
                self.assertEqual((found["slot"], found["guest"]), (5, ["0x10008000", "0x10009000"]))
                self.assertRegex(found["mapped"], "^rw-s /memfd:guest.*; a touch of it raises SIGBUS, as beyond the file's end$")
                self.assertIn("guest_try_load", functions(found["used"]))
                self.assertNotIn("changed", found)
                run = Run("slot", "truncated", "mended", "0", form=form, kinds="tlb,private,dirty,slot")
                self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    def test_many(self):
        """The client looks at the time."""
        run = Run("slot", "many", "mended", "0")
        self.assertEqual((run.status, run.found, run.text), (0, [], ""))

    def test_twice(self):
        """Once a place, however often."""
        self.assertEqual(len(Run("slot", "twice", "faulty", "0").found), 2)

    def test_ranges(self):
        """The part that went, not the whole slot."""
        found, = Run("slot", "unmapped", "faulty", "0").found
        self.assertEqual((found["slot"], found["address_space"]), (5, 0))
        self.assertEqual(found["guest"], ["0x10008000", "0x10010000"])
        self.assertEqual(int(found["host"][1], 16) - int(found["host"][0], 16), 0x8000)
        self.assertEqual(found["mapped"], "rw-p anonymous memory; now nothing")

    def test_offsets_are_of_the_file(self):
        """addr2line finds the function by the offset."""
        found, = Run("slot", "unmapped", "faulty", "0").found
        frame = next(frame for frame in found["changed"]["frames"] if frame.get("function") == "drop_half")
        said = subprocess.run(["addr2line", "-fe", frame["module"], frame["offset"]], stdout=subprocess.PIPE,
                              text=True, check=True).stdout
        self.assertIn("drop_half", said.splitlines()[0])


class Statuses(unittest.TestCase):
    def test_of_the_program(self):
        """A failure of the program's own stays; a signal too; exec and _exit lose nothing."""
        for end, status in {"7": 7, "exec": 66, "kill": -9}.items():
            with self.subTest(end=end):
                run = Run("slot", "unmapped", "faulty", end)
                self.assertEqual((run.status, len(run.found)), (status, 1), run.text)

    def test_chosen(self):
        self.assertEqual(Run("slot", "unmapped", "faulty", "0", options=["--sanitize-exit=3"]).status, 3)
        self.assertEqual(Run("slot", "unmapped", "faulty", "0", options=["--sanitize-exit=0"]).status, 0)


class Suppressions(unittest.TestCase):
    def suppressed(self, lines, scenario="unmapped"):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(lines)
            file.flush()
            return Run("slot", scenario, "faulty", "0", options=["--sanitize-suppressions", file.name])

    def test_names(self):
        for line in ("slot:drop_half", "slot:^drop*half$", "slot:guest_st*re", "slot:vmm_slot$", "# a remark\n\nslot:p_ha"):
            with self.subTest(line=line):
                run = self.suppressed(line + "\n")
                self.assertEqual((run.status, run.found), (0, []), run.text)
                self.assertEqual(run.text, "quire: sanitize: 0 found, 1 suppressed\n")

    def test_others(self):
        for line in ("tlb:drop_half", "slot:^half", "slot:drop$", "slot:nothing"):
            with self.subTest(line=line):
                self.assertEqual(self.suppressed(line + "\n").status, 66)

    def test_refused(self):
        for line in ("slot", "slot:", "stack:main", "slot:" + "x" * 200):
            with self.subTest(line=line):
                run = self.suppressed("slot:drop_half\n" + line + "\n")
                self.assertEqual(run.status, 2)
                self.assertIn(".txt:2: no suppression", run.text)


class Options(unittest.TestCase):
    def refused(self, *options):
        done = subprocess.run([QUIRE, "run", *options, "--", "/bin/true"], stderr=subprocess.PIPE, text=True,
                              timeout=DEADLINE_S, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr

    def test_refused(self):
        self.assertIn("'heap'", self.refused("--sanitize=slot,heap"))
        self.assertIn("''", self.refused("--sanitize="))
        self.assertIn("need --sanitize", self.refused("--sanitize-exit=1"))
        self.assertIn("need --sanitize", self.refused("--sanitize-json=/dev/null"))
        self.assertIn("'256'", self.refused("--sanitize=slot", "--sanitize-exit=256"))
        for path in "/nowhere", "/":
            self.assertRegex(self.refused("--sanitize=slot", f"--sanitize-suppressions={path}"),
                             f"{path}: .*; name a file that can be read")
        self.assertIn("/nowhere", self.refused("--sanitize=slot", "--sanitize-json=/nowhere/file"))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
