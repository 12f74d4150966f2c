"""The mutants of one C file, all in one text: each is switched on by its number (tools/mutate_site.h).

Clang's parser says where statements, conditions, comparisons and constants are; what it found is wrapped where
it stands, so that one build serves for all. Left out: what a macro expands to, the arguments of assertions
and trace points, constants that the compiler must know, and what only a bug of base/mutant.h runs.
"""
import dataclasses
import pathlib
import re
import sys

# Debian's python3-clang, also for a python3 that is not Debian's.
sys.path.append("/usr/lib/python3/dist-packages")
import clang.cindex  # noqa: E402
from clang.cindex import CursorKind as Kind  # noqa: E402

# Transparent: what stands within them is ours. Blanked, for the parser then sees it where it is.
HINTS = re.compile(r"(?<!define )\b(?:un)?likely(?=\()")
# They say something of the code, and are none; or only what the processor may do meanwhile.
SAYING = re.compile(r"(?:CHECK|BROKEN|QUIRE_TRACE|QUIRE_TIMED|ATOMIC_POINT|__builtin_prefetch|base_platform->relax"
                    r"|[a-z]+_assert\w*)\b")
NAMED = re.compile(r"!?\s*(?:MUTANT|BROKEN)\s*\(")
NEVER = ("MUTANT", "BROKEN")  # 0 unless the library has a bug
NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]+|\d+)[uUlL]*")
SHIFTED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
JUMPS = (Kind.BREAK_STMT, Kind.CONTINUE_STMT, Kind.GOTO_STMT)
LOOPS = {Kind.WHILE_STMT: "while", Kind.FOR_STMT: "for", Kind.DO_STMT: "do"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change: where, what kind it is, what it does in words; and what stays when lines move."""
    line: int
    column: int
    kind: str
    what: str
    function: str = ""
    text: str = ""  # of the line
    nth: int = 1  # of those that have all of this but the place

    @property
    def name(self):
        """What tells it from the others of its file, and stays when lines move."""
        return self.function, self.text, self.kind, self.what + (f" #{self.nth}" if self.nth > 1 else "")


class BadSource(Exception):
    """The parser does not take the file."""


def quoted(text):
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


class Mutator:
    """Walks a file's functions and collects its mutants, numbered from @first, and the edits."""

    def __init__(self, path, arguments, first):
        self.path, self.first = str(path), first
        as_written = pathlib.Path(path).read_text()
        self.lines, self.function = as_written.splitlines(), ""
        self.text = HINTS.sub(lambda m: " " * len(m[0]), as_written)
        self.data = self.text.encode()
        options = clang.cindex.TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD
        try:
            self.unit = clang.cindex.Index.create().parse(
                self.path, arguments, unsaved_files=[(self.path, self.text)], options=options)
        except clang.cindex.TranslationUnitLoadError as error:
            raise BadSource(f"{path}: {error}") from error
        wrong = [d for d in self.unit.diagnostics if d.severity >= clang.cindex.Diagnostic.Error]
        if wrong:
            raise BadSource(f"{path}:{wrong[0].location.line}: {wrong[0].spelling}")
        self.macros = [(c.extent.start.offset, c.extent.end.offset, c.spelling)
                       for c in self.unit.cursor.get_children()
                       if c.kind == Kind.MACRO_INSTANTIATION and self.is_here(c)]
        self.mutants, self.edits, self.alike = [], [], {}

    def is_here(self, cursor):
        file = cursor.extent.start.file
        return file is not None and file.name == self.path

    def source(self, cursor):
        return self.data[cursor.extent.start.offset:cursor.extent.end.offset].decode()

    def macro_of(self, cursor):
        """The macro that the whole of it stands in or is, as its name; "" outside of one."""
        start, end = cursor.extent.start.offset, cursor.extent.end.offset
        return next((name for first, last, name in self.macros if first <= start and end <= last), "")

    def new(self, cursor, kind, what, differs=""):
        """The C text that asks for the mutant, which changes nothing unless @differs."""
        start = cursor.extent.start
        name = self.function, " ".join(self.lines[start.line - 1].split()), kind, what
        self.alike[name] = self.alike.get(name, 0) + 1
        self.mutants.append(Mutant(start.line, start.column, kind, what, *name[:2], self.alike[name]))
        number = self.first + len(self.mutants) - 1
        return f"quire_mutate_if({number}, {differs})" if differs else f"quire_mutate({number})"

    def wrap(self, start, end, depth, texts):
        """Text before and after; where several meet, the deeper stands within the other."""
        self.edits.append((start, 1, depth, texts[0], start))
        self.edits.append((end, 0, -depth, texts[1], end))

    def mutated(self):
        """The whole text with all of them in it."""
        out, at = [], 0
        for start, _, _, text, end in sorted(self.edits):
            out += [self.data[at:start].decode(), text]
            at = end
        out.append(self.data[at:].decode())
        return '#include "src/base/mutate_site.h"\n#line 1\n' + "".join(out)

    def run(self):
        for function in self.unit.cursor.get_children():
            if function.kind != Kind.FUNCTION_DECL or not self.is_here(function):
                continue
            for child in function.get_children():
                if child.kind == Kind.COMPOUND_STMT and not self.macro_of(child):
                    self.function = function.spelling
                    self.last = self.last_statement(child)
                    self.visit(child, 0)
        return self

    @staticmethod
    def last_statement(body):
        """Where the statement begins without which the function would have no value."""
        children = list(body.get_children())
        return children[-1].extent.start.offset if children else -1

    # --- statements

    def visit(self, cursor, depth):
        kind = cursor.kind
        if kind == Kind.DECL_STMT:
            self.visit_declarations(cursor, depth)
            return
        if self.macro_of(cursor) or self.is_never(cursor) or kind in (Kind.CXX_UNARY_EXPR, Kind.CASE_STMT) and \
                self.visit_case(cursor, depth):
            return
        children = list(cursor.get_children())
        if kind == Kind.COMPOUND_STMT:
            for child in children:
                self.visit_statement(child, depth + 1)
            return
        if kind == Kind.IF_STMT:
            self.visit_if(children, depth + 1)
            return
        if kind in LOOPS:
            self.visit_loop(cursor, children, depth + 1)
            return
        if kind == Kind.CONDITIONAL_OPERATOR:
            if self.is_never(children[0]):
                self.visit(children[2], depth + 2)
                return
            self.negate(children[0], depth + 1)
        elif kind == Kind.BINARY_OPERATOR:
            self.visit_operator(cursor, children, depth)
        elif kind == Kind.INTEGER_LITERAL:
            self.shift_constant(cursor, depth)
        elif kind == Kind.RETURN_STMT and children:
            self.drop_error(children[0], depth + 1)
        for child in children:
            self.visit(child, depth + 2)

    def visit_case(self, cursor, depth):
        """Of a case only the statement; of sizeof nothing."""
        if cursor.kind == Kind.CASE_STMT:
            children = list(cursor.get_children())
            self.visit_statement(children[-1], depth + 1)
        return True

    def visit_declarations(self, cursor, depth):
        for variable in cursor.get_children():
            if variable.kind != Kind.VAR_DECL or \
                    variable.storage_class == clang.cindex.StorageClass.STATIC:
                continue
            is_array = variable.type.kind == clang.cindex.TypeKind.CONSTANTARRAY
            for child in variable.get_children():
                if not is_array and child.kind != Kind.INIT_LIST_EXPR:
                    self.visit(child, depth + 1)

    def visit_statement(self, cursor, depth):
        """One that may be left out, and what is in it."""
        if SAYING.match(self.source(cursor)):
            return
        if self.is_removable(cursor):
            end = cursor.extent.end.offset
            semicolon = re.compile(rb"\s*;").match(self.data, end)
            if semicolon:
                kind = "return dropped" if cursor.kind == Kind.RETURN_STMT else "statement removed"
                site = self.new(cursor, kind, quoted(self.source(cursor)))
                self.wrap(cursor.extent.start.offset, semicolon.end(), depth,
                          (f"{{ if (!{site}) ", " }"))
        self.visit(cursor, depth + 1)

    def is_removable(self, cursor):
        if cursor.kind == Kind.RETURN_STMT:
            return cursor.extent.start.offset != self.last
        if re.fullmatch(r"\(void\)\w+", self.source(cursor)):
            return False
        return cursor.kind in JUMPS or cursor.kind.is_expression()

    def visit_if(self, children, depth):
        condition, *branches = children
        if self.is_never(condition):
            for branch in branches[1:]:
                self.visit_statement(branch, depth + 1)
            return
        self.negate(condition, depth)
        self.visit(condition, depth + 1)
        for branch in branches:
            self.visit_statement(branch, depth + 1)

    def visit_loop(self, cursor, children, depth):
        """The head of a for: which of its parts is which libclang does not say, so only the body and what is
        an operator are looked at."""
        body = children[0] if cursor.kind == Kind.DO_STMT else children[-1]
        if cursor.kind != Kind.FOR_STMT:
            self.negate(children[1] if cursor.kind == Kind.DO_STMT else children[0], depth)
        for child in children:
            if child == body:
                self.visit_statement(child, depth + 1)
            else:
                self.visit(child, depth + 1)

    # --- expressions

    def is_never(self, cursor):
        """Whether it is 0 in each build without a bug: then what it guards is never run."""
        while cursor.kind in (Kind.UNEXPOSED_EXPR, Kind.PAREN_EXPR):
            inner = list(cursor.get_children())
            if self.macro_of(cursor) or len(inner) != 1:
                break
            cursor = inner[0]
        macro = self.macro_of(cursor)
        if macro:
            return macro in NEVER
        children = list(cursor.get_children())
        if cursor.kind != Kind.BINARY_OPERATOR or len(children) != 2:
            return False
        found = self.operator_of(*children)
        return bool(found) and (found[2] == "&&" and any(map(self.is_never, children)) or
                                found[2] == "||" and all(map(self.is_never, children)))

    def negate(self, cursor, depth):
        text = self.source(cursor)
        if NAMED.match(text) or SAYING.match(self.macro_of(cursor)):
            return
        site = self.new(cursor, "condition negated", quoted(text))
        self.wrap(cursor.extent.start.offset, cursor.extent.end.offset, depth,
                  (f"({site} ^ !!(", "))"))

    def operator_of(self, left, right):
        """(start, end, the operator) between two operands; None when a macro is in the way."""
        start, end = left.extent.end.offset, right.extent.start.offset
        found = re.fullmatch(rb"[\s)]*([-+*/%<>=!&|^]+)[\s(]*", self.data[start:end], re.S)
        return (start + found.start(1), start + found.end(1), found[1].decode()) if found else None

    def visit_operator(self, cursor, children, depth):
        left, right = children
        found = self.operator_of(left, right)
        if not found:
            return
        start, end, operator = found
        if operator in ("&&", "||"):
            for side in children:
                self.negate(side, depth + 1)
        if operator not in SHIFTED:
            return
        number = self.first + len(self.mutants)
        names = (f"mutate_left_{number}", f"mutate_right_{number}")
        site = self.new(cursor, "comparison shifted", f"{SHIFTED[operator]} in {quoted(self.source(cursor))}",
                        f"{names[0]} == {names[1]}")
        whole = cursor.extent.start.offset, cursor.extent.end.offset
        self.wrap(*whole, depth, (
            f"({{ __auto_type {names[0]} = {self.promoted(left)}(",
            f"); {site} ? {names[0]} {SHIFTED[operator]} {names[1]} "
            f": {names[0]} {operator} {names[1]}; }})"))
        self.edits.append((start, 1, depth,
                           f"); __auto_type {names[1]} = {self.promoted(right)}(", end))

    @staticmethod
    def promoted(cursor):
        """A bit-field has no type of its own."""
        while cursor.kind in (Kind.UNEXPOSED_EXPR, Kind.PAREN_EXPR):
            children = list(cursor.get_children())
            if len(children) != 1:
                return ""
            cursor = children[0]
        field = cursor.referenced if cursor.kind == Kind.MEMBER_REF_EXPR else None
        return "+" if field is not None and field.is_bitfield() else ""

    def shift_constant(self, cursor, depth):
        text = self.source(cursor)
        if not NUMBER.fullmatch(text):
            return
        before = self.data[:cursor.extent.start.offset].rstrip()[-1:]
        if before == b"[" and b"=" in self.data[cursor.extent.end.offset:][:4]:
            return
        less = f" - (__typeof__({text})){self.new(cursor, 'constant shifted', f'{text} - 1')}"
        more = "" if self.is_truth(cursor) else \
            f" + (__typeof__({text})){self.new(cursor, 'constant shifted', f'{text} + 1')}"
        self.wrap(cursor.extent.start.offset, cursor.extent.end.offset, depth, ("(", f"{more}{less})"))

    def is_truth(self, cursor):
        """A 1 that is all of what is returned, assigned or stored by a call: 2 would be as true. A count that
        begins with 1 is taken for a truth value, too; it has the mutant with 0."""
        start, end = cursor.extent.start.offset, cursor.extent.end.offset
        before, after = self.data[:start].rstrip(), self.data[end:].lstrip()
        if self.source(cursor) != "1" or not after.startswith((b";", b");")):
            return False
        if after.startswith(b";"):
            return re.search(rb"(?<![-+*/%<>=!&|^])=$|\breturn$", before) is not None
        return re.search(rb"\batomic_(?:store|exchange)\w*\([^;]*,$", before) is not None

    def drop_error(self, cursor, depth):
        text = self.source(cursor)
        if not re.fullmatch(r"-E[A-Z0-9]+|err|ret|error", text) or cursor.type.kind not in (
                clang.cindex.TypeKind.INT, clang.cindex.TypeKind.LONG):
            return
        site = self.new(cursor, "error dropped", f"return 0 for {text}", f"({text}) != 0")
        self.wrap(cursor.extent.start.offset, cursor.extent.end.offset, depth,
                  (f"({site} ? 0 : (", "))"))


def mutate(path, arguments, first=0):
    """(the mutants of the file at @path, its text with all of them) numbered from @first."""
    mutator = Mutator(path, arguments, first).run()
    return mutator.mutants, mutator.mutated()
