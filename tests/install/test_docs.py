"""The pages of './dev docs' have every symbol of the binary interface, each with its anchor."""
import pathlib
import re
import sys
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import docs  # noqa: E402


def promised():
    """The names in abi.txt, which the compiler's own listing wrote."""
    parts = re.split(r"^== (\w+)\n", (TREE / "tests/install/abi.txt").read_text(), flags=re.M)
    text = dict(zip(parts[1::2], parts[2::2]))
    return {*re.findall(r"\b(quire_\w+)\(", text["functions"]),
            *re.findall(r"^ +0 \| struct (quire_\w+)$", text["structs"], re.M),
            *re.findall(r"^(QUIRE_\w+) =", text["enumerators"], re.M),
            *re.findall(r"#define (QUIRE_\w+)", text["macros"])}


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.listed = docs.make(cls.folder)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_every_symbol_is_there(self):
        self.assertGreater(len(promised()), 150)
        self.assertEqual(promised() - {name for names in self.listed.values() for name in names},
                         set())

    def test_links_lead_somewhere(self):
        for file, name in re.findall(r'href="(\w+\.html)#(\w+)"',
                                     (self.folder / "index.html").read_text()):
            self.assertIn(f'id="{name}"', (self.folder / file).read_text())

    def test_declarations_have_their_contracts(self):
        text = (self.folder / "vm.html").read_text()
        at = text.index('id="quire_vm_set_region"')
        section = text[at:text.index("</section>", at)]
        self.assertIn("<pre>QUIRE_API QUIRE_MUST_CHECK int quire_vm_set_region", section)
        self.assertIn("On failure nothing has changed.", section)


if __name__ == "__main__":
    unittest.main()
