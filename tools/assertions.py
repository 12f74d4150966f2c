#!/usr/bin/env python3
"""How many assertions stand inside the library's functions that change state.

A function changes state when it stores to an object that others may reach: through a pointer to one
of OBJECTS, by an atomic operation on an entry, or through a store gateway. A request, a result or a
walk on the caller's stack is no such object. Assertions are CHECK(), BROKEN() and the lock contracts
of src/vm/locks.h; those of functions that change nothing do not count. src/base and src/entry, which
have no state of a VM, are left out, and the two checkers, which assert of everything.

Usage: assertions.py [--functions]   the sums by folder; or each function that changes state
"""
import pathlib
import re
import sys

WANTED = 2.0  # on average
APART = ("src/base/", "src/entry/", "src/change/check.c", "src/shadow/check.c")
OBJECTS = set("""quire_vm quire_vcpu shadow shadow_page rmap_object memslot memslots gmem_inode
    quire_gmem gmem_pages gmem_block table roots nx_tables flush_domain guest_mode arena
    invalidation attributes pfn_cache pfn_caches rmp_vm rmp_block object_cache object_slabs
    table_cache dirty_bitmap dirty_ring gfn_track ptree radix sparse flush_debt""".split())
ASSERTION = re.compile(r"\b(?:CHECK|BROKEN|(?:mmu|slots|gmem|locks)_assert\w*)\(")
POINTER = re.compile(r"(?<!const )\bstruct (\w+) \*(?:const )?(\w+)")
STORE = r"(?:(?<![=!<>])=(?!=)|[-+|&^]=|<<=|>>=|\+\+|--)"
GATEWAY = re.compile(r"\batomic_cmpxchg|\btdp_change_entry\(|\bshadow_store\(|\bsole_writer_store"
                     r"|\batomic_(?:store|exchange|fetch)\w*\(&?(?:entry|head|word|entries)\b")

def changes_state(body):
    """Does a function with this text store to an object of the library's?"""
    code = body[body.index("{") + 1:]
    names = {name for kind, name in POINTER.findall(body) if kind in OBJECTS}
    stores = [rf"\b{name}->[\w.\[\]>-]*?\s*{STORE}|(?:\+\+|--){name}->|"
              rf"\batomic_(?:store|exchange|fetch|add)\w*\(\s*&{name}->" for name in names]
    return bool(GATEWAY.search(code) or any(re.search(store, code) for store in stores))

def functions(tree):
    """(path, name, does it change state, its assertions) of the library's functions."""
    for source in tree.sources:
        if not source.path.startswith("src/") or source.path.startswith(APART):
            continue
        lines = source.code.splitlines()
        for f in source.functions:
            if f.lines and not ASSERTION.match(f.name + "("):
                body = "\n".join(lines[f.line - 1:f.line - 1 + f.lines])
                yield source.path, f.name, changes_state(body), len(ASSERTION.findall(body))

def average(found):
    """Assertions inside each function that changes state."""
    inside = [count for _, _, changes, count in found if changes]
    return sum(inside) / len(inside) if inside else WANTED

def main(argv):
    import tidy  # pylint: disable=import-outside-toplevel,cyclic-import
    found = list(functions(tidy.Tree(pathlib.Path(__file__).resolve().parents[1])))
    if argv[1:] == ["--functions"]:
        for path, name, changes, count in found:
            if changes:
                print(f"{path}: {name}(): {count}")
        return
    for folder in sorted({path.split("/")[1] for path, *_ in found}):
        part = [one for one in found if one[0].startswith(f"src/{folder}/")]
        changing = [one for one in part if one[2]]
        print(f"src/{folder}: {len(changing)} of {len(part)} functions change state, "
              f"{sum(one[3] for one in part)} assertions, {sum(one[3] for one in changing)} of them there")
    changing = [one for one in found if one[2]]
    print(f"all: {len(changing)} of {len(found)} functions change state, {sum(one[3] for one in found)} "
          f"assertions, {sum(one[3] for one in changing)} of them there: {average(found):.2f} a function")

if __name__ == "__main__":
    main(sys.argv)
