"""The public headers as pages to read: one page a header, each declaration with its contract.

usage: docs.py [--output FOLDER]   (build/docs)
"""
import argparse
import dataclasses
import html
import pathlib
import re
import sys

TREE = pathlib.Path(__file__).resolve().parent.parent
HEADERS = TREE / "include/quire"
STYLE = """body { max-width: 50em; margin: 2em auto; padding: 0 1em; font-family: sans-serif; line-height: 1.5;
       color: #222; background: #fff }
pre { overflow-x: auto; padding: .7em; background: #f3f3f0; border-left: .2em solid #88a }
a { color: #236 } section { margin-bottom: 2em }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } a { color: #9bf }
       pre { background: #242424 } }"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""
# What a chunk of a header declares: functions, structures and enumerations, macros, types.
NAMES = re.compile(r"\b(quire_\w+)\(|^(?:struct|enum) (quire_\w+) \{|^#define (QUIRE_\w+)|"
                   r"^\} (\w+);|\b(?:static inline) [\w *]*?\b\*?(\w+)\(|^typedef [^{(]*?(\w+);", re.M)
ENUMERATOR = re.compile(r"^\t(QUIRE_\w+)|[{,)] (QUIRE_\w+)", re.M)
CPLUSPLUS = re.compile(r"^#ifdef __cplusplus\n(extern \"C\" \{|\})\n#endif\n", re.M)
PLUMBING = re.compile(r"^#(?!define)|^#define QUIRE_\w+_H$")
# An enumeration that a list macro makes: #define ID(..., name, ...) PREFIX_##name, enum e { LIST(ID) }
MADE = re.compile(r"^#define (\w+)\((.*?)\) (QUIRE_\w+_)##name,\nenum \w+ \{\s+(\w+)\(\1(?:, \w+)*\)", re.M)


@dataclasses.dataclass
class Chunk:
    """A comment, the declarations that stand below it without a blank line, or both."""
    text: str
    code: str

    def names(self):
        """What it declares, without what a list macro makes (see made())."""
        found = {name for match in NAMES.findall(self.code) for name in match if name}
        if re.search(r"^enum\b", self.code, re.M):
            found.update(name for match in ENUMERATOR.findall(self.code) for name in match if name)
        return sorted(found)


def made(source):
    """The enumerators that list macros make, by the macro's name."""
    found = {}
    for _, parameters, prefix, macro in MADE.findall(source):
        at = [word.strip() for word in parameters.split(",")].index("name")
        body = re.search(rf"^#define {macro}\(X(?:, \w+)*\)((?:.*\\\n)*.*)", source, re.M).group(1)
        rows = re.findall(r"\bX\((.*?)\)", body.replace("\\\n", ""))
        found[macro] = [prefix + row.split(",")[at].strip() for row in rows]
    return found


def split(source):
    """The chunks of a header: blank lines outside of braces and comments divide them."""
    lines, depth, is_comment = [], 0, False
    for line in [*CPLUSPLUS.sub("", source).splitlines(), ""]:
        if not line and not depth and not is_comment:
            if lines:
                yield lines
            lines = []
            continue
        if not PLUMBING.match(line):
            lines.append(line)
            bare = re.sub(r"/\*.*?\*/", "", line)
            is_comment = "/*" in bare or is_comment and "*/" not in bare
            depth += 0 if is_comment else bare.count("{") - bare.count("}")


def plain(comment):
    """A comment's words, its paragraphs divided by empty lines."""
    lines = [re.sub(r"^\s*/?\*+/?\s?|\s*\*/$", "", line) for line in comment.splitlines()]
    return "\n".join(lines).strip()


def chunks(source):
    for lines in split(source):
        text = "\n".join(lines)
        comment = re.match(r"/\*.*?\*/\n?", text, re.S)
        code = text[comment.end():] if comment else text
        yield Chunk(plain(comment.group(0)) if comment else "", code.strip("\n"))


def paragraphs(text):
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip())
    return "".join(f"<p>{html.escape(part)}</p>\n" for part in parts)


def section(chunk, enumerators):
    anchors = "".join(f'<a id="{name}"></a>' for name in all_names(chunk, enumerators))
    code = f"<pre>{html.escape(chunk.code)}</pre>\n" if chunk.code else ""
    return f"<section>{anchors}\n{code}{paragraphs(chunk.text)}</section>\n"


def all_names(chunk, enumerators):
    own = chunk.names()
    return own + [name for macro in own for name in enumerators.get(macro, ())]


def page(path):
    """The page of a header, and the names that it declares."""
    enumerators = made(path.read_text())
    found = list(chunks(path.read_text()))
    title = f"quire/{path.name}"
    about = paragraphs(found[0].text) if not found[0].code else ""
    body = "".join(section(chunk, enumerators) for chunk in (found[1:] if about else found))
    names = sorted({name for chunk in found for name in all_names(chunk, enumerators)})
    heading = f'<p><a href="index.html">All headers</a></p>\n<h1>{title}</h1>\n'
    return PAGE.format(title=title, style=STYLE, body=heading + about + body), about, names


def make(folder):
    """Writes the pages; the names that they have, by header."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, listed = [], {}
    for path in sorted(HEADERS.glob("*.h")):
        text, about, names = page(path)
        name = path.name.replace(".h", ".html")
        (folder / name).write_text(text)
        links = ", ".join(f'<a href="{name}#{symbol}">{symbol}</a>' for symbol in names)
        rows.append(f'<h2><a href="{name}">quire/{path.name}</a></h2>\n{about}<p>{links}</p>\n')
        listed[path.name] = names
    body = "<h1>The headers of libquire</h1>\n" + "".join(rows)
    (folder / "index.html").write_text(PAGE.format(title="libquire", style=STYLE, body=body))
    return listed


def main(argv):
    parser = argparse.ArgumentParser(prog="./dev docs", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, default=TREE / "build/docs")
    output = parser.parse_args(argv).output
    listed = make(output)
    print(f"{output}/index.html: {len(listed)} headers, {sum(map(len, listed.values()))} names")


if __name__ == "__main__":
    main(sys.argv[1:])
