"""Reads C source as far as tidy needs it: comments blanked, top-level declarations, functions."""
import dataclasses
import re

TOKEN = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.S)
DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.M)
ATTRIBUTE = re.compile(r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)")
CALLED = re.compile(r"(\w+)\s*\(")


def blank(match):
    """Keeps the newlines, so that line numbers stay."""
    return re.sub(r"[^\n]", " ", match.group())


def code_only(text):
    """The text without comments and the insides of strings."""
    def keep(match):
        token = match.group()
        return blank(match) if token.startswith("/") else token[0] + blank(match)[1:-1] + token[-1]
    return TOKEN.sub(keep, text)


@dataclasses.dataclass
class Function:
    """A definition or a prototype at the top level of a file."""
    name: str
    line: int
    lines: int  # of a definition, signature included; 0 for a prototype
    result: str
    parameters: list
    is_static: bool


def split_parameters(text):
    """The parameters of a list without its brackets."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts = [" ".join(part.split()) for part in [*parts, text[start:]]]
    return [part for part in parts if part not in ("", "void", "...")]


def match_bracket(text, start):
    """Index of the bracket that closes the one at start, or None."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return None


def as_function(head, line, lines):
    """A declaration's text as a Function, or None when it is something else."""
    head = ATTRIBUTE.sub(" ", head)
    if re.match(r"\s*(?:(?:typedef|_Static_assert)\b|(?:struct|union|enum)\b\s*\w*\s*\{)", head):
        return None
    before_value = head.split("=")[0]
    for match in CALLED.finditer(before_value):
        name, end = match.group(1), match_bracket(before_value, match.end() - 1)
        result = before_value[:match.start()]
        if end is None or name.isupper() or name.strip("_") == "asm":
            continue
        if not re.search(r"\w", result):
            continue
        return Function(name, line, lines, " ".join(result.split()),
                        split_parameters(before_value[match.end():end]),
                        bool(re.search(r"\bstatic\b", result)))
    return None


def functions(code):
    """Every function of a file; code comes from code_only()."""
    text = DIRECTIVE.sub(blank, code)
    found, depth, start, head_end = [], 0, 0, None
    for match in re.finditer(r"[{};]", text):
        at, char = match.start(), match.group()
        if char == "{":
            if depth == 0 and head_end is None:
                head_end = at
            depth += 1
            continue
        depth -= char == "}"
        if char == "}" and text[at - 1] == "\n":
            depth = 0  # in the first column: whatever #if branches opened, this ends it
        if depth > 0:
            continue
        head = text[start:head_end if head_end is not None else at]
        is_body = char == "}" and "=" not in head and ")" in head
        if char == "}" and not is_body:
            continue  # a struct or an initialiser: its ';' ends it
        line = text.count("\n", 0, start + len(head) - len(head.lstrip())) + 1
        lines = text.count("\n", 0, at) + 2 - line if is_body else 0
        function = as_function(head, line, lines) if is_body or head_end is None else None
        if function:
            found.append(function)
        start, head_end = at + 1, None
    return found
