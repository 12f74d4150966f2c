"""Tests of tidy: each rule finds what it is for, and a clean tree has no findings."""
import pathlib
import sys
import tempfile
import unittest
import unittest.mock

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import c_source  # noqa: E402
import tidy  # noqa: E402

LAYERS = "include/quire\nsrc/base\nsrc/tdp\nsrc/shadow\nhosts/process\nvcpu\ncli/one cli/two\n"
CLEAN = {
    "LAYERS": LAYERS,
    ".clang-format": (TREE / ".clang-format").read_text(),
    "include/quire/x.h": "/* A header. */\nint x_of(int a);\n",
    "examples/headers/x.c": "/* An example. */\n#include <quire/x.h>\n",
    "src/tdp/map.c": '/* A file. */\n#include <quire/x.h>\n#include <errno.h>\n\n'
                     'static int twice(bool b)\n{\n\treturn b ? 2 : 0;\n}\n\n'
                     'int x_of(int a)\n{\n\treturn twice(a);\n}\n',
    "docs/INVARIANTS.md": "| I-01 | a page is one page | `x_of()` |\n",
    "src/base/a.h": "/* I-01. */\n",
    "src/shadow/a.h": "/* A header. */\n",
    "hosts/process/a.h": "/* A header. */\n",
    "vcpu/cpu.h": "/* A header. */\n",
    "cli/one/a.h": "/* A header. */\n",
    "cli/one/a.c": '/* Folders of one line of LAYERS. */\n#include "cli/two/a.h"\n',
    "cli/two/a.h": "/* A header. */\n",
    "cli/two/a.c": '/* Folders of one line of LAYERS. */\n#include "cli/one/a.h"\n',
    "docs/A.md": "`x_of()` is in `src/tdp/map.c`, and `/dev/kvm` and `x86/a.c` are not ours.\n",
}
LONG = "/* A file. */\nint long_one(void)\n{\n" + "\tx();\n" * 59 + "}\n"

# rule, file, its text
BROKEN = [
    ("size", "src/tdp/a.c", LONG),
    ("size", "src/tdp/a.c", "/* A file. */\nint f(int a, int b, int c, int (*d)(int, int), int e,\n"
                            "      int g);\n"),
    ("size", "src/tdp/a.c", "/* A file. */\n" + "int x;\n" * 600),
    ("size", "vcpu/a.c", "/* A file. */\n" + "int x;\n" * 800),
    ("columns", "src/tdp/a.c", "/* A file. */\nvoid f(void)\n{\n" + "\t" * 13 + "g();\n}\n"),
    ("bool", "src/tdp/a.h", "/* A header. */\nint a(int x,\n      bool y);\n"),
    ("bool", "include/quire/x.h", "/* A header. */\nbool a(void);\n"),
    ("layers", "src/tdp/a.c", '/* A file. */\n#include "vcpu/cpu.h"\n'),
    ("decisions", "docs/decisions/0001-a.md", "# A\n\n**Decision.** B.\n"),
    ("decisions", "docs/decisions/0001-a.md", "# A\n\n**Status.** Superseded by 0002.\n"),
    ("decisions", "docs/decisions/0002-a.md", "# A\n\n**Status.** In force.\n"),
    ("unit_rooms", "tests/unit/other/test_a.c", "/* A file. */\n"),
    ("layer_folders", "docs/ARCHITECTURE.md", "| `vcpu` | the CPU |\n"),
    ("layers", "vcpu/a.c", '/* A file. */\n#include "cli/one/a.h"\n'),
    ("layers", "src/shadow/a.c", '/* A file. */\n#include "src/tdp/map.h"\n'),
    ("layers", "src/tdp/a.c", '/* A file. */\n#include "src/other/a.h"\n'),
    ("includes_exist", "src/tdp/a.c", '/* A file. */\n#include "src/base/none.h"\n'),
    ("cycles", "src/tdp/a.h", '/* A header. */\n#include "src/tdp/a.h"\n'),
    ("threading", "src/tdp/a.c", "/* A file. */\nint f(int *a)\n{\n"
                                 "\treturn __atomic_load_n(a, __ATOMIC_RELAXED);\n}\n"),
    ("threading", "src/tdp/a.c", "/* A file. */\nstatic _Atomic int a;\n"),
    ("mmu_unlock", "src/fault/a.c", "/* A file. */\nvoid f(struct quire_vm *vm)\n{\n"
                                    "\tbiglock_write_unlock(&vm->mmu_lock);\n}\n"),
    ("assertions", "src/tdp/a.c", "/* A file. */\nvoid f(struct quire_vm *vm)\n{\n"
                                  "\tmmu_assert_exclusive(vm);\n\tvm->dead = 1;\n}\n"),
    # Those of a function that changes nothing do not count.
    ("assertions", "src/tdp/a.c", "/* A file. */\nvoid f(struct quire_vm *vm)\n{\n"
                                  "\tmmu_assert_exclusive(vm);\n\tvm->dead = 1;\n}\n\n"
                                  "int g(const struct quire_vm *vm)\n{\n\tCHECK(vm);\n"
                                  "\tCHECK(vm->refs);\n\tCHECK(vm->host);\n\treturn 0;\n}\n"),
    ("lock_analysis", "src/tdp/a.c", "/* A file. */\nvoid f(void) NO_LOCK_ANALYSIS\n{\n}\n"),
    ("libc", "src/tdp/a.c", "/* A file. */\n#include <stdlib.h>\n"),
    ("names", "vcpu/a.c", "/* A file. */\nstatic int __walk(void)\n{\n\treturn 0;\n}\n"),
    ("first_line", "vcpu/a.c", "#include <errno.h>\n"),
    ("fork", "vcpu/a.c", "/* A file. */\nstatic pthread_mutex_t a_lock;\n"),
    ("fork", "hosts/process/a.c", "/* A file. */\nstatic struct process_lock a_lock, b_lock;\n"
                                  "FORK_CHILD(FORK_MEMORY, b_lock, fork_child);\n"),
    ("fork", "src/tdp/a.c", "/* A file. */\nstatic struct {\n\tint a;\n\tstruct mutex lock;\n"
                            "} registry;\n"),
    ("fork", "src/tdp/a.c", "/* A file. */\nstatic struct rwlock lock;\n"),
    ("unfinished", "vcpu/a.c", "/* A file. */\n/* TO" "DO: more */\n"),
    ("docs", "docs/B.md", "`none_such()`\n"),
    ("docs", "docs/B.md", "`src/tdp/none.c`\n"),
    ("comments", "src/tdp/a.c", "/* As a_ghost() does. */\n"),
    ("layer_folders", "LAYERS", LAYERS + "src/none\n"),
    ("invariants", "src/tdp/a.c", "/* I-02. */\n"),
    ("invariants", "docs/INVARIANTS.md", "| I-01 | a | b |\n| I-03 | not cited | b |\n"),
    ("bugs", "docs/MUTANTS.md", "| 1 | a | b | mutant `none` |\n"),
    ("bugs", "docs/MUTANTS.md", "| 2 | a | b | cannot: there is no such thing |\n"),
    ("plain", "vcpu/a.c", "/* Whoever comes. */\n"),
    ("plain", "docs/B.md", "Nobody knows.\n"),
    ("comment_names", "src/tdp/a.h", "/* A header. */\n\n/* Twice @b. */\nint twice(int a);\n"),
    ("comment_names", "src/tdp/a.c", "/* A file. */\n\n/* Twice @b. */\nstatic int twice(int a)\n{\n"
                                     "\tint b = a;\n\n\treturn a + b;\n}\n"),
    ("comment_names", "src/tdp/a.h", "/* A header. */\n\n/* Twice @b. */\n#define TWICE(a) ((a) * 2)\n"),
    ("comment_names", "src/tdp/a.h", "/* A header. */\n\n/* @b is more. */\nstruct s {\n\tint a;\n};\n"),
    ("comment_names", "src/tdp/a.h", "/* A header. */\nstruct s {\n\t/* Twice @b. */\n"
                                     "\tint (*twice)(int a);\n\tint c;\n};\n"),
    ("contracts", "src/tdp/a.h", "/* A header. */\n/* --- my lock --- */\n"),
    ("contracts", "src/tdp/a.h", "/* A header. */\n/* --- slots_lock --- */\nint x_of(int a);\n"),
    ("contracts", "src/tdp/a.h", "/* A header. */\n/* --- slots_lock --- */\n"
                                 "static inline int f(int a)\n{\n\tmmu_assert_free(a);\n"
                                 "\treturn a;\n}\n"),
    ("contracts", "src/tdp/a.h", "/* A header. */\nstatic inline int f(int a)\n{\n"
                                 "\tmmu_assert_free(a);\n\treturn a;\n}\n"),
    ("examples", "include/quire/y.h", "/* A header. */\n"),
    ("format", "vcpu/a.c", "/* A file. */\nint  f(void){return 0;}\n"),
]

class Rules(unittest.TestCase):
    def rules_of(self, changed):
        """The rules that a clean tree with these files changed breaks."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**CLEAN, **changed}.items():
                path = pathlib.Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return {rule for _, _, rule, _ in tidy.findings(folder)}

    def test_a_clean_tree_has_no_findings(self):
        self.assertEqual(self.rules_of({}), set())

    def test_each_rule_finds_what_it_is_for(self):
        for rule, name, text in BROKEN:
            if rule == "format" and not tidy.has_our_clang_format():
                continue
            with self.subTest(rule=rule, text=text[:60]):
                self.assertIn(rule, self.rules_of({name: text}))

    def test_every_rule_is_tested(self):
        named = {rule for rule, _, _ in BROKEN}
        self.assertEqual({rule.__name__[5:] for rule in tidy.RULES}, named)

    def test_two_decisions_have_two_numbers(self):
        decision = "# A\n\n**Status.** In force.\n"
        self.assertNotIn("decisions", self.rules_of({"docs/decisions/0001-a.md": decision}))
        self.assertIn("decisions", self.rules_of({"docs/decisions/0001-a.md": decision,
                                                  "docs/decisions/0001-b.md": decision}))

    def test_seventy_lines_and_a_locked_word_in_a_comment_are_allowed(self):
        fits = LONG.replace("\tx();\n", "", 2)
        self.assertNotIn("size", self.rules_of({"src/tdp/a.c": fits}))
        mmap = "/* A file. */\nvoid *mmap(void *a, size_t b, int c, int d, int e, off_t f);\n"
        self.assertNotIn("size", self.rules_of({"preload/a.c": mmap}))
        self.assertIn("size", self.rules_of({"vcpu/a.c": mmap}))
        quoted = "/* A file. */\n/* as pthread_mutex_lock() does */\n"
        self.assertNotIn("threading", self.rules_of({"src/tdp/a.c": quoted}))

    def test_a_comment_names_what_its_group_of_declarations_has(self):
        header = ("/* A header. */\nstruct s {\n\tint n;\n\t/* Below @top, with *@more. */\n"
                  "\tint (*f)(int top);\n\tint (*g)(int *more);\n};\n\n"
                  "/* Of @a: @first, up to @b->n. */\nint h(int first); /* no @h */\n"
                  "int i(const struct s *a,\n      int b[2], int (*c)(int));\n\n"
                  "/* Put @n into @c. */\nint j(struct s *s, int (*c)(int));\n\n"
                  "/* @x twice. */\n#define X(x)                                        \\\n"
                  "\t(x) + (x)\n")
        body = ("/* A file. */\n\n/* Of a variable, an @n is not looked for. */\nint m;\n\n"
                "int k(int a)\n{\n\t/* Nor is @n here. */\n\tif (a)\n\t\treturn a;\n"
                "\treturn 1;\n}\n")
        self.assertNotIn("comment_names", self.rules_of({"src/tdp/a.h": header, "src/tdp/b.c": body}))

class Files(unittest.TestCase):
    def test_without_git_what_a_build_made_is_left_out(self):
        with tempfile.TemporaryDirectory() as folder, \
                unittest.mock.patch("shutil.which", return_value=None):
            root = pathlib.Path(folder)
            for name in ("src/a.c", "build/b.c", "build-arm64/src/c.c", "tools/__pycache__/d.pyc"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text("")
            self.assertEqual(tidy.tree_files(root), ["src/a.c"])


class Functions(unittest.TestCase):
    def test_definitions_and_prototypes_are_told_from_the_rest(self):
        code = ("struct s {\n\tint (*op)(bool b);\n};\n"
                "static const struct s all = {\n\t.op = one,\n};\n"
                "QUIRE_API QUIRE_MUST_CHECK int proto(struct s *s, int (*f)(int, int));\n"
                "struct s *defined(void)\n{\n\tif (a) {\n\t\tb();\n\t}\n\treturn 0;\n}\n"
                "void locked(int a) REQUIRES(a);\n"
                "int table[] = {CALL(1), CALL(2)};\n"
                "static inline int small(int a, int b)\n{\n\treturn a + b;\n}\n"
                "enum outcome {\n\tONE,\n};\n"
                "enum outcome told(int a)\n{\n\treturn a;\n}\n")
        found = {f.name: f for f in c_source.functions(c_source.code_only(code))}
        self.assertEqual(set(found), {"proto", "defined", "locked", "small", "told"})
        self.assertEqual(len(found["proto"].parameters), 2)
        self.assertEqual(found["defined"].lines, 7)
        self.assertEqual(found["defined"].line, 8)
        self.assertTrue(found["small"].is_static)
        self.assertEqual(found["proto"].lines, 0)

if __name__ == "__main__":
    unittest.main()
