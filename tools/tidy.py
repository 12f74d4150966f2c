"""The rules of style that a program can check. Each rule is a function; its first line says why.

Usage: tidy.py [--root FOLDER] [--no-format]. Prints 'file:line: rule: what' and exits 1 on findings.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

import assertions
import c_source
from rules import known_tests

MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_COLUMNS, TAB = 60, 5, 100, 8
MAX_FILE_LINES = {"src/": 600, "": 800}
SRC_HEADERS = {"string.h", "errno.h", "stddef.h", "stdint.h", "stdbool.h", "limits.h"}
THREADING = re.compile(r"\bpthread_\w+|\b_Atomic\b|\b__(?:atomic|sync)_\w+|\bmtx_\w+"
                       r"|#\s*include\s*<(?:pthread|stdatomic|threads|urcu[\w/-]*|semaphore)\.h>")
MMU_UNLOCK = ("src/shadow/shadow.h", "src/shadow/zap.c")  # shadow_unlock() and what it calls
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^">]+)[">]', re.M)

class Source:
    """A C file, read once."""

    def __init__(self, root, path):
        self.path = path
        self.text = (root / path).read_text(errors="replace")
        self.code = c_source.code_only(self.text)
        self.functions = c_source.functions(self.code)
        self.includes = [(self.text.count("\n", 0, m.start()) + 1, m.group(1), m.group(2))
                         for m in INCLUDE.finditer(self.text)]

class Tree:
    """What every rule looks at."""

    def __init__(self, root):
        self.root = root
        self.files = tree_files(root)
        self.sources = [Source(root, p) for p in self.files if p.endswith((".c", ".h"))]
        layers = root / "LAYERS"
        lines = layers.read_text().splitlines() if layers.exists() else []
        self.layers = [line.split() for line in lines]  # folders of one line see one another

    def layer(self, path):
        """Position of a file's folder in LAYERS, or None."""
        fits = [(len(folder), at) for at, folders in enumerate(self.layers)
                for folder in folders if path.startswith(folder + "/")]
        return max(fits)[1] if fits else None

def tree_files(root):
    """Files of the tree, as git sees them; without git or a repository every file that no build made."""
    listed = shutil.which("git") and subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "."],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if listed and listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
    else:
        names = [str(p.relative_to(root)) for p in root.rglob("*")
                 if not p.relative_to(root).parts[0].startswith("build") and "__pycache__" not in p.parts]
    return sorted(name for name in set(names) if name and (root / name).is_file())

def line_of(text, at):
    return text.count("\n", 0, at) + 1

def included_path(kind, name):
    """An include directive as a path of the tree; system headers stay outside it."""
    if kind == '"':
        return name
    return "include/" + name if name.startswith("quire/") else None

def rule_size(tree):
    """What does not fit on a screen is not reviewed. (mmap() keeps the parameters libc gave it, a fuzzer libFuzzer's.)"""
    for source in tree.sources:
        lines = source.text.count("\n")
        most = MAX_FILE_LINES["src/" if source.path.startswith("src/") else ""]
        if lines > most:
            yield source.path, 1, f"{lines} lines, at most {most}"
        for f in source.functions:
            if f.lines > MAX_FUNCTION_LINES:
                yield (source.path, f.line,
                       f"{f.name}() has {f.lines} lines, at most {MAX_FUNCTION_LINES}")
            is_of_libc = (source.path.startswith(("preload/", "engine/libc.c", "tests/conformance/in_place.c")) and
                          not f.is_static) or f.name.startswith("LLVMFuzzer")
            if len(f.parameters) > MAX_PARAMETERS and not is_of_libc:
                yield (source.path, f.line,
                       f"{f.name}() has {len(f.parameters)} parameters, at most {MAX_PARAMETERS}")

def rule_columns(tree):
    """Two files fit side by side."""
    for source in tree.sources:
        for number, line in enumerate(source.text.splitlines(), 1):
            if len(line.expandtabs(TAB)) > MAX_COLUMNS:
                yield source.path, number, f"longer than {MAX_COLUMNS} columns"

def rule_bool(tree):
    """A caller's 'true' says nothing: an enum or a named flag does."""
    for source in tree.sources:
        if not source.path.startswith(("src/", "include/")):
            continue
        for f in source.functions:
            if f.is_static or f.name.startswith("__"):
                continue
            if any(re.search(r"\bbool\b", text) for text in [f.result, *f.parameters]):
                yield source.path, f.line, f"bool in the signature of {f.name}()"

def rule_layers(tree):
    """A folder includes only what stands above it in LAYERS, so the picture stays true."""
    for source in tree.sources:
        own = tree.layer(source.path)
        for line, kind, name in source.includes:
            path = included_path(kind, name)
            if path is None:
                continue
            other = tree.layer(path)
            pair = {source.path.split("/")[1:2][0] if "/" in source.path else "",
                    path.split("/")[1:2][0] if "/" in path else ""}
            if own is not None and other is not None and other > own:
                yield source.path, line, f"{path} stands below {' '.join(tree.layers[own])} in LAYERS"
            elif own is not None and other is None:
                yield source.path, line, f"{path} is in no folder of LAYERS"
            elif pair == {"tdp", "shadow"}:
                yield source.path, line, "the two MMUs never include each other"

def rule_includes_exist(tree):
    """A quoted path counts from the root of the tree, so a reader finds the file."""
    for source in tree.sources:
        beside = str(pathlib.PurePosixPath(source.path).parent)
        is_apart = source.path.startswith(("examples/", "tests/"))
        for line, kind, name in source.includes:
            path = included_path(kind, name)
            if path is None or (tree.root / path).is_file():
                continue
            if not (is_apart and (tree.root / beside / name).is_file()):
                yield source.path, line, f"no such file: {name}"

def rule_cycles(tree):
    """Headers that need each other are one header, or lack a third."""
    edges = {s.path: [p for _, k, n in s.includes if (p := included_path(k, n))]
             for s in tree.sources if s.path.endswith(".h")}
    state = {}

    def visit(path, trail):
        if state.get(path) == "done" or path not in edges:
            return None
        if path in trail:
            return trail[trail.index(path):] + [path]
        for other in edges[path]:
            cycle = visit(other, trail + [path])
            if cycle:
                return cycle
        state[path] = "done"
        return None

    for path in edges:
        cycle = visit(path, [])
        if cycle:
            yield path, 1, "include cycle: " + " -> ".join(cycle)
            return

def rule_threading(tree):
    """In the library only src/base waits, locks or orders memory, so a scheduler can replace it."""
    for source in tree.sources:
        if source.path.startswith("src/") and not source.path.startswith("src/base/"):
            for match in THREADING.finditer(source.code):
                yield source.path, line_of(source.code, match.start()), match.group().strip()

def rule_mmu_unlock(tree):
    """What follows an exclusive hold of mmu_lock is done by the one function that ends it."""
    for source in tree.sources:
        if source.path.startswith("src/") and source.path not in MMU_UNLOCK:
            for match in re.finditer(r"biglock_write_unlock\(&[\w>.-]*mmu_lock", source.code):
                yield (source.path, line_of(source.code, match.start()),
                       "mmu_lock is released by shadow_unlock()")

def rule_lock_analysis(tree):
    """An annotation that says the truth is checked: above src/base no function opts out."""
    for source in tree.sources:
        if not source.path.startswith("src/base/"):
            for match in re.finditer(r"\bNO_LOCK_ANALYSIS\b", source.code):
                yield source.path, line_of(source.code, match.start()), "say what it acquires"

def rule_libc(tree):
    """The library also links into a kernel: no libc beyond memcpy and memset."""
    for source in tree.sources:
        if not source.path.startswith(("src/", "include/")) or source.path.startswith("src/base/"):
            continue
        for line, kind, name in source.includes:
            if kind == "<" and not name.startswith("quire/") and name not in SRC_HEADERS:
                yield source.path, line, f"<{name}>"

def rule_names(tree):
    """A leading underscore tells nothing: say _locked, _range, _one. (libc's own are preload's.)"""
    for source in tree.sources:
        if source.path.startswith(("preload/", "tests/")):
            continue
        for f in source.functions:
            # The linker's --wrap gives the names __wrap_ and __real_, the compiler __tsan_.
            if f.name.startswith("_") and not f.name.startswith(("__wrap_", "__real_", "__tsan_")):
                yield source.path, f.line, f"{f.name}()"

def rule_first_line(tree):
    """The first line says what a file is."""
    for source in tree.sources:
        if not source.text.startswith(("/*", "//")):
            yield source.path, 1, "no comment on the first line"

STATIC_LOCK = re.compile(r"^static (?:pthread_(?:mutex|rwlock|spinlock)_t|struct process_lock) (\w+)",
                         re.M)
CORE_LOCK = re.compile(r"struct (?:mutex|rwlock|biglock) \w+")

def static_objects(code):
    """File-scope variables of struct type, each whole: (offset, text)."""
    for match in re.finditer(r"^static struct\b", code, re.M):
        depth = 0
        for at in range(match.end(), len(code)):
            depth += {"{": 1, "}": -1}.get(code[at], 0)
            if not depth and code[at] in "(;":
                break
        if code[at] == ";":
            yield match.start(), code[match.start():at]

def rule_fork(tree):
    """A lock that another thread holds over fork() stays held in the child for ever."""
    for source in tree.sources:
        if source.path.startswith(("frontend/", "preload/", "boundary/", "hosts/process/", "vcpu/")):
            for match in STATIC_LOCK.finditer(source.code):
                if not re.search(rf"FORK_CHILD\(\w+, {match.group(1)},", source.code):
                    yield (source.path, line_of(source.code, match.start()),
                           f"no FORK_CHILD() for {match.group(1)}: hosts/process/fork.h")
        elif source.path.startswith("src/"):
            for at, text in static_objects(source.code):
                if CORE_LOCK.search(text) and "_start_anew(void)" not in source.code:
                    yield (source.path, line_of(source.code, at),
                           "a lock of the whole process without a ..._start_anew()")

def rule_unfinished(tree):
    """What is not done belongs in CAVEATS.md, where users look."""
    for path in tree.files:
        if path.endswith((".c", ".h", ".build", ".sh")) or path == "dev":
            text = (tree.root / path).read_text(errors="replace")
            for match in UNFINISHED.finditer(text):
                yield path, line_of(text, match.start()), match.group()

def rule_docs(tree):
    """Prose outlives code: every name() and path in a document is found in the tree."""
    words = set()
    for path in tree.files:
        if path.endswith((".c", ".h", ".py", ".build")) or path == "dev":
            words.update(re.findall(r"\w+", (tree.root / path).read_text(errors="replace")))
    known = set(tree.files) | {str(parent) for path in tree.files
                               for parent in pathlib.PurePosixPath(path).parents}
    tops = {path.split("/")[0] for path in tree.files if "/" in path}
    for path in tree.files:
        if not path.endswith(".md"):
            continue
        text = (tree.root / path).read_text(errors="replace")
        for match in re.finditer(r"`([^`\n]+)`", text):
            name, line = match.group(1), line_of(text, match.start())
            call = re.fullmatch(r"(\w+)\(\)", name)
            if call and call.group(1) not in words:
                yield path, line, f"no function {name} in the tree"
            is_path = re.fullmatch(r"[\w.][\w./-]*", name) and name.split("/")[0] in tops
            if is_path and "/" in name and name.rstrip("/") not in known:
                yield path, line, f"no file {name} in the tree"

def rule_comments(tree):
    """Comments outlive code, too: every function that one names is found in some file's code."""
    words = set()
    for source in tree.sources:
        words.update(re.findall(r"\w+", source.code))
    for source in tree.sources:
        for match in re.finditer(r"\b([a-z]\w*_\w+)\(\)", source.text):
            in_code = source.code[match.start():match.end()] == match.group()
            if not in_code and match.group(1) not in words:
                yield source.path, line_of(source.text, match.start()), f"no {match.group()}"

ARCHITECTURE = "docs/ARCHITECTURE.md"

def rule_layer_folders(tree):
    """The order of inclusion names folders that exist, and the guide says what each holds."""
    guide = (tree.root / ARCHITECTURE).read_text() if ARCHITECTURE in tree.files else ""
    for number, folders in enumerate(tree.layers, 1):
        for folder in folders:
            if not any(path.startswith(folder + "/") for path in tree.files):
                yield "LAYERS", number, f"no folder {folder}"
            elif guide and f"| `{folder}` |" not in guide:
                yield ARCHITECTURE, 1, f"no row for {folder}"

def rule_unit_rooms(tree):
    """A reader finds the tests of src/change under tests/unit/change."""
    rooms = {folder.split("/", 1)[1] for folders in tree.layers for folder in folders
             if folder.startswith(("src/", "hosts/"))} | {"vcpu", "vcpu-diff"}
    for path in tree.files:
        parts = path.split("/")
        if parts[:2] == ["tests", "unit"] and len(parts) > 3 and parts[2] not in rooms:
            yield path, 1, f"no part of the library is called {parts[2]}"

STATUS = re.compile(r"^# [^\n]+\n\n\*\*Status\.\*\* (In force|Superseded by (\d{4})\.)")

def rule_decisions(tree):
    """A reader must not follow a decision that another has replaced: each says whether it holds."""
    numbers = {}
    for path in sorted(tree.files):
        if re.match(r"docs/decisions/\d{4}-[\w-]+\.md$", path):
            other = numbers.setdefault(path.split("/")[-1][:4], path)
            if other != path:
                yield path, 1, f"{other} has this number"
    for number, path in sorted(numbers.items()):
        status = STATUS.match((tree.root / path).read_text())
        if not status:
            yield path, 3, "no **Status.** 'In force' or 'Superseded by NNNN.' below the title"
        elif status.group(2) and status.group(2) not in numbers:
            yield path, 3, f"no decision {status.group(2)}"
    for number in range(1, len(numbers) + 1):
        if f"{number:04}" not in numbers:
            yield "docs/decisions", 1, f"no decision {number:04}"

BUGS = "docs/MUTANTS.md"
BUG_COUNT = 63
MUTANT_LIST = "src/base/mutant.h"

def bug_is_caught(tree, cell):
    """What is wrong with the last cell of a row; None: nothing."""
    kind, _, rest = cell.partition(" ")
    names = re.findall(r"`([^`]+)`", rest)
    if kind == "cannot:":
        return None if len(rest.split()) >= 3 else "a bug that cannot be here has a reason"
    if kind not in ("mutant", "test") or not names:
        return "a bug has a mutant, a test, or a reason: 'cannot: ...'"
    for name in names:
        path, _, test = (MUTANT_LIST, None, name) if kind == "mutant" else name.partition(":")
        if not (tree.root / path).is_file():
            return f"no file {path}"
        if test and test not in known_tests(tree.root / path):
            return f"{path} has no {test}"
    return None

def rule_bugs(tree):
    """A bug that KVM once had is caught here, by name, or cannot be here, for a reason."""
    if BUGS not in tree.files:
        return
    wanted = 1
    for number, line in enumerate((tree.root / BUGS).read_text().splitlines(), 1):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 4 or not cells[0].isdigit():
            continue
        if int(cells[0]) != wanted:
            yield BUGS, number, f"row {cells[0]}, not {wanted}"
        wanted = int(cells[0]) + 1
        what = bug_is_caught(tree, cells[3])
        if what:
            yield BUGS, number, what
    if wanted <= BUG_COUNT:
        yield BUGS, 1, f"{wanted - 1} rows, not {BUG_COUNT}"

INVARIANTS = "docs/INVARIANTS.md"
INVARIANT = re.compile(r"\bI-\d\d\b")

def rule_invariants(tree):
    """An invariant that code and tests do not cite is held by chance; a cited one has a definition."""
    if INVARIANTS not in tree.files:
        return
    text = (tree.root / INVARIANTS).read_text()
    defined = {}
    for number, line in enumerate(text.splitlines(), 1):
        for name in INVARIANT.findall(line.split("|")[1]) if line.startswith("|") else []:
            defined.setdefault(name, number)
    cited = set()
    for source in tree.sources:
        for match in INVARIANT.finditer(source.text):
            cited.add(match.group())
            if match.group() not in defined:
                yield (source.path, line_of(source.text, match.start()),
                       f"{match.group()} is not in {INVARIANTS}")
    for name in sorted(set(defined) - cited):
        yield INVARIANTS, defined[name], f"{name} is cited by no code and no test"

VAGUE = re.compile(r"\b(?:who|whoever|nobody|somebody)\b", re.I)
VAGUE_IN_PROSE = re.compile(r"\b(?:whoever|nobody|somebody)\b", re.I)  # "users who read" may stand

def rule_plain(tree):
    """A comment names the actor: a thread, a fault, a harvest; not 'whoever' or 'nobody'."""
    for path in tree.files:
        if path.endswith((".c", ".h")):
            words = VAGUE
        elif path.endswith((".md", ".tsv", ".1", ".3")) and not path.startswith("tests/tidy"):
            words = VAGUE_IN_PROSE
        else:
            continue
        text = (tree.root / path).read_text(errors="replace")
        for match in words.finditer(text):
            yield path, line_of(text, match.start()), match.group()

OWN_LINES = re.compile(r"^[ \t]*/\*(?:(?!\*/).)*\*/[ \t]*$", re.M | re.S)
NAMED = re.compile(r"(?<![\w@.])@(\w+)")
DECLARED = re.compile(r"(\w+)\s*(?=[,;:)\[=])")
SPACE, DIRECTIVE = re.compile(r"\s*"), re.compile(r"(?:\\\n|[^\n])*")
HEAD = re.compile(r"#[ \t]*define.*|[^#{(]*\([^{]*|[^#].*", re.S)
STRUCT = re.compile(r"\b(?:struct|union)\s+(\w+)\s*(?=\{)")
JUDGED = re.compile(r"#[ \t]*define|(?:(?:static|const|typedef)\s+)*(?:struct|union)\s*\w*\s*\{"
                    r"|[^={]*\(")

def closed(code, at):
    """Where the declaration that starts at @at ends: after its ';' or the bracket of its body."""
    depth = 0
    for end in range(at, len(code)):
        depth += (code[end] in "{(") - (code[end] in "})")
        if depth < 0:
            return None
        if not depth and (code[end] == ";" or code[end:end + 2] == "}\n"):
            return end + 1
    return None

def declared_after(source, at):
    """Macros, declarations and heads of functions that stand behind a comment in one group."""
    parts = []
    while at is not None:
        start = SPACE.match(source.code, at).end()
        gap = source.text[at:start]
        if start == len(source.code) or "\n\n" in gap or (parts and re.search(r"\n[ \t]*/\*", gap)):
            break
        is_macro = source.code[start] == "#"
        at = DIRECTIVE.match(source.code, start).end() if is_macro else closed(source.code, start)
        head = HEAD.match(source.code[start:at])
        parts.append(head.group() if at and head else "")
    return parts

def rule_comment_names(tree):
    """A contract is read for its '@name': each is a parameter, a field or an argument of a macro."""
    fields = {}
    for source in tree.sources:
        for match in STRUCT.finditer(source.code):
            body = source.code[match.end():closed(source.code, match.end())]
            fields.setdefault(match.group(1), set()).update(DECLARED.findall(body))
    for source in tree.sources:
        inside = {line for f in source.functions for line in range(f.line + 1, f.line + f.lines)}
        for match in OWN_LINES.finditer(source.text):
            names = NAMED.findall(match.group())
            line = line_of(source.text, match.start())
            parts = declared_after(source, match.end()) if names and line not in inside else []
            if not parts or not JUDGED.match(parts[0]):
                continue
            known = {name for part in parts for name in DECLARED.findall(part)}
            for part in parts:
                for kind in re.findall(r"\bstruct (\w+)", part):
                    known |= fields.get(kind, set())
            for name in sorted(set(names) - known):
                yield source.path, line, f"@{name} is not in what follows"

HEADING = re.compile(r"^/\* --- (?:[\w/]+\.c: )?([^\n]*?) --- \*/$", re.M)
CONTRACTS = {
    "mmu_lock exclusive": "mmu_assert_exclusive",
    "mmu_lock in either mode": "mmu_assert_held",
    "mmu_lock in either mode, in shared mode in a read section": "mmu_assert_shared",
    "mmu_lock exclusive, or a read section": "mmu_assert_section",
    "no mmu_lock, no read section": "mmu_assert_free",
    "slots_lock": "slots_assert",
    "slots_lock, or a read section": "slots_assert_section",
    "no lock, no read section": "locks_assert_none",
    "the inode's invalidate lock": "gmem_assert_invalidate",
    "the inode's invalidate lock, exclusive": "gmem_assert_exclusive",
    "any lock": None,
    "any lock below pages_lock": None,
}
ASSERTION = re.compile(r"^\t(" + "|".join(sorted(filter(None, CONTRACTS.values()))) + r")\(", re.M)

def contracts_said(tree):
    """What each function of src/ asserts first: {name: assertion or None} for definitions."""
    said = {}
    for source in tree.sources:
        if source.path.startswith("src/"):
            lines = source.code.splitlines()
            for f in source.functions:
                if f.lines:
                    body = "\n".join(lines[f.line - 1:f.line - 1 + f.lines])
                    first = ASSERTION.search(body)
                    said[f.name] = first.group(1) if first else said.get(f.name)
    return said

def rule_contracts(tree):
    """A header's heading says which lock its functions need, and each of them asserts just that."""
    said = contracts_said(tree)
    for source in tree.sources:
        if not (source.path.startswith("src/") and source.path.endswith(".h")):
            continue
        marks = [(line_of(source.text, m.start()), m.group(1)) for m in HEADING.finditer(source.text)]
        for line, heading in marks:
            if re.search(r"lock|section", heading) and heading not in CONTRACTS:
                yield source.path, line, f"no contract is called '{heading}'"
        for f in source.functions:
            under = [heading for line, heading in marks if line < f.line]
            wanted = CONTRACTS.get(under[-1]) if under else None
            if f.name in said and said[f.name] != wanted and f.name not in CONTRACTS.values():
                yield (source.path, f.line, f"{f.name}() asserts {said[f.name] or 'nothing'}, and its "
                       f"heading wants {wanted or 'nothing'}")

def rule_assertions(tree):
    """A function that changes state asserts twice on average: tools/assertions.py counts."""
    found = list(assertions.functions(tree))
    if assertions.average(found) < assertions.WANTED:
        yield ("src", 1, f"{assertions.average(found):.2f} assertions inside each function that "
               f"changes state, {assertions.WANTED} are wanted on average")

def rule_examples(tree):
    """Every public header has an example that is compiled: examples/headers/<name>.c."""
    have = set(tree.files)
    for path in tree.files:
        if path.startswith("include/quire/") and path.endswith(".h"):
            example = f"examples/headers/{pathlib.PurePosixPath(path).stem}.c"
            if example not in have:
                yield path, 1, f"no {example}"

def has_our_clang_format():
    """Debian 12's: others lay some lines out otherwise."""
    return "version 14." in subprocess.run(["clang-format", "--version"], text=True, check=True,
                                           stdout=subprocess.PIPE).stdout

def rule_format(tree):
    """One layout, made by the tool, so that it needs no discussion."""
    if not has_our_clang_format():
        print("tidy: rule format needs clang-format 14: not checked", file=sys.stderr)
        return
    paths = [str(tree.root / s.path) for s in tree.sources]
    parts = [paths[at::os.cpu_count() or 1] for at in range(os.cpu_count() or 1)]
    started = [subprocess.Popen(["clang-format", "--dry-run", "-Werror", *part], text=True,
                                stderr=subprocess.PIPE) for part in parts if part]
    for process in started:
        _, text = process.communicate()
        seen = set()
        for match in re.finditer(r"^(\S+?):(\d+):\d+: error: code should be", text, re.M):
            path = os.path.relpath(match.group(1), tree.root)
            if path not in seen:
                seen.add(path)
                yield path, int(match.group(2)), "not as clang-format has it: ./dev format"
        if process.returncode != 0 and not seen:
            yield ".clang-format", 1, text.strip().splitlines()[-1] if text.strip() else "failed"

RULES = [value for name, value in sorted(globals().items()) if name.startswith("rule_")]

def findings(root, rules=None):
    """Every finding as (path, line, rule, text)."""
    tree = Tree(pathlib.Path(root).resolve())
    return [(path, line, rule.__name__[5:], text)
            for rule in rules or RULES for path, line, text in rule(tree)]

def main(argv):
    root = pathlib.Path(__file__).resolve().parent.parent
    if "--root" in argv:
        root = argv[argv.index("--root") + 1]
    rules = [rule for rule in RULES if not ("--no-format" in argv and rule is rule_format)]
    found = findings(root, rules)
    for path, line, rule, text in found:
        print(f"{path}:{line}: {rule}: {text}")
    reasons = {rule.__name__[5:]: rule.__doc__.splitlines()[0] for rule in rules}
    for rule in sorted({rule for _, _, rule, _ in found}):
        print(f"rule {rule}: {reasons[rule]}")
    print(f"tidy: {len(found)} findings, {len(rules)} rules")
    return 1 if found else 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
