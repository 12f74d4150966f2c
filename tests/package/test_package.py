"""The Debian packages: made twice, judged by lintian, installed, used and removed; and what is said of
them: the tutorials, followed to the letter, and the steps of action.yml.

They are installed into a copy of this machine's root that goes with the test (overlayfs), as root.

usage: test_package.py PROGRAM   (a KVM program: examples/private-vm)
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

import container  # noqa: E402
import debian  # noqa: E402
import package  # noqa: E402
import program  # noqa: E402

PROGRAM = pathlib.Path(sys.argv[1] if len(sys.argv) > 1
                       else TREE / "build/examples/private-vm/private-vm").resolve()

# $1: a folder for the overlay, $2: that of the packages. The rest happens in the copy.
OVERLAY = r"""
set -eu
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for folder in proc dev sys; do mount --rbind "/$folder" "$1/root/$folder"; done
mkdir -p "$1/root/mnt/packages" "$1/root/mnt/tree/examples"
cp "$2"/*.deb "$1/root/mnt/packages"
cp -r "$3/examples/embed" "$3/examples/headers" "$1/root/mnt/tree/examples"
cp "$4" "$1/root/mnt/private-vm"
exec chroot "$1/root" sh -euc "$5"
"""
USE = r"""
cd /mnt
find /usr /etc -xdev | sort > before
dpkg -i packages/*.deb
dpkg --verify quire libquire0 libquire-process0 libquire-dev
quire version
cd /
quire run -- /mnt/private-vm
man -w 1 quire && man -w 3 quire
cd /mnt/tree/examples/embed
gcc embed.c hosted.c port.c $(pkg-config --cflags --libs quire) -o shared && ./shared
readelf -d shared | grep -F "[libquire.so.0]"
gcc -static embed.c hosted.c port.c $(pkg-config --static --cflags --libs quire) -o static && ./static
quire run -- ./static
g++ -std=c++17 -x c++ embed.c hosted.c port.c $(pkg-config --cflags --libs quire) -o cpp && ./cpp
cd ../headers
gcc process.c $(pkg-config --cflags --libs quire-process) -o shared && ./shared
readelf -d shared | grep -F "[libquire-process.so.0]"
gcc -static process.c $(pkg-config --static --cflags --libs quire-process) -o static && ./static
dpkg -P quire libquire-dev libquire-process0 libquire0
cd /mnt
find /usr /etc -xdev | sort > after
diff before after
echo nothing is left
"""


# What a user has before the first command of a tutorial.
PREPARED = """
export PACKAGES=/mnt/packages TREE=/mnt/tree
cd "$(mktemp -d)"
set -x
"""
# What a runner of GitHub's sets for an action; INPUTS are this step's.
RUNNER = """
export RUNNER_TEMP=/mnt/runner GITHUB_ACTION_PATH=/mnt/tree
export GITHUB_STEP_SUMMARY=/mnt/runner/summary GITHUB_OUTPUT=/mnt/runner/output
mkdir /mnt/runner
cd /mnt
"""


def blocks(path):
    """The shell commands that a document tells its reader to type."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", path.read_text(), re.M | re.S))


def tutorial(name):
    """A tutorial of those who use a package, as a script."""
    return PREPARED + blocks(TREE / f"docs/tutorials/{name}.md")


def steps(path, inputs):
    """The shell steps of an action, each with its environment; what it uses of others is left out."""
    for step in re.split(r"^    - name: ", path.read_text(), flags=re.M)[1:]:
        found = re.search(r"^      run: \|\n((?:        .*\n|\n)+)", step, re.M)
        if not found:
            continue
        environment = re.findall(r"^        (\w+): \$\{\{ inputs\.(\w+) \}\}$", step, re.M)
        settings = "".join(f"export {name}='{inputs[value]}'\n" for name, value in environment)
        yield settings + re.sub(r"^        ", "", found.group(1), flags=re.M)


def said_by(*words):
    done = subprocess.run([str(word) for word in words], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.packages = package.make(cls.folder / "first")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_same_bytes_again(self):
        again = package.make(self.folder / "second")
        self.assertEqual([path.name for path in again], [path.name for path in self.packages])
        for one, other in zip(self.packages, again):
            self.assertEqual(one.read_bytes(), other.read_bytes(), one.name)

    def test_lintian(self):
        status, text = said_by("lintian", "--allow-root", "--fail-on", "error,warning",
                               *self.packages)
        self.assertEqual(status, 0, text)

    def test_names(self):
        self.assertEqual([path.name.split("_")[0] for path in self.packages],
                         ["libquire-dev", "libquire-process0", "libquire0", "quire"])

    def test_probes(self):
        """Each library has the trace events as probes, stripped as it is."""
        events = len(re.findall(r"^\tX\(kvm", (TREE / "include/quire/trace.h").read_text(), re.M))
        with tempfile.TemporaryDirectory(dir=self.folder) as root:
            for path in self.packages:
                self.assertEqual(said_by("dpkg", "-x", path, root)[0], 0)
            for pattern in ("libquire.so.0.*", "libquire_preload.so", "libquire.a"):
                (library,) = [path for path in pathlib.Path(root).rglob(pattern) if path.is_file()]
                notes = said_by("env", "LC_ALL=C", "readelf", "-n", library)[1]
                self.assertEqual(notes.count("Provider: quire\n"), events, pattern)

    def installed(self, script):
        """What a script says in a copy of this root with the packages in /mnt/packages."""
        with tempfile.TemporaryDirectory(dir=self.folder) as overlay:
            status, text = said_by(*program.as_root("unshare", "-m", "sh", "-c", OVERLAY, "sh"),
                                   overlay, self.folder / "first", TREE, PROGRAM, script)
        self.assertEqual(status, 0, text)
        return text

    def test_tutorial_ci(self):
        text = self.installed(tutorial("ci"))
        self.assertEqual(text.count("the guest says 7\nexit reason 5\n"), 3, text)
        self.assertRegex(text, r'\n"exits": [1-9]', text)

    def test_tutorial_embedding(self):
        text = self.installed(tutorial("embedding"))
        self.assertEqual(text.count("a fault at 0x103008, error code 0x2: 5\n"), 2, text)
        self.assertEqual(text.count("the second access found the page"), 2, text)

    @unittest.skipUnless(shutil.which("debootstrap"), "no debootstrap")
    def test_in_a_fresh_root(self):
        """The container's plain folder, and in it the tutorials of those who use a package."""
        root = self.folder / "root"
        self.addCleanup(said_by, *program.as_root("rm", "-rf", root))
        status, text = said_by(*program.as_root("sh", TREE / "tools/container/make_root.sh", root,
                                                self.folder / "first", "bookworm", debian.mirror()))
        self.assertEqual(status, 0, text[-4000:])
        copy = 'mkdir -p "$1/mnt/tree/examples" && cp -r "$2" "$1/mnt/packages" && ' \
               'cp -r "$3/examples/embed" "$1/mnt/tree/examples" && cp "$4" "$1/mnt/private-vm" && ' \
               'cp /etc/resolv.conf "$1/etc"'
        status, text = said_by(*program.as_root("sh", "-c", copy, "sh"), root,
                               self.folder / "first", TREE, PROGRAM)
        self.assertEqual(status, 0, text)
        for script, wanted, times in (
                ("quire run -- /mnt/private-vm", "All as it should be.\n", 1),
                (tutorial("ci"), "the guest says 7\nexit reason 5\n", 3),
                (tutorial("embedding"), "the second access found the page", 2)):
            text = container.run_in(root, "sh", "-euc", script)
            self.assertEqual(text.count(wanted), times, text)
        container.run_in(root, "dpkg", "-P", "quire")
        self.check_image(root)

    def check_image(self, root):
        """The Dockerfile's last stage, in a root that has no Quire: test_container.py has the others."""
        shutil.copytree(self.folder / "first", self.folder / "stage/packages")
        image, steps = container.stages()[""]
        self.assertEqual(container.SUITES[image], "bookworm")
        start = container.carry_out(root, steps, {"build": self.folder / "stage"})
        self.assertIn("All as it should be.\n", container.run_in(root, *start, "/mnt/private-vm"))
        self.assertFalse((root / "packages").exists())

    def test_tutorial_races(self):
        """It is about this tree: its commands build what they need, and change nothing."""
        status, text = said_by("sh", "-euc", f"cd {TREE}\n" +
                               blocks(TREE / "docs/tutorials/races.md"))
        self.assertEqual(status, 0, text)
        self.assertIn("2000 simulations passed", text)
        self.assertRegex(text, r"\nfast_marks_first +caught by: .+\n", text)

    def test_tutorial_sanitizers(self):
        """The same."""
        status, text = said_by("sh", "-euc", f"cd {TREE}\n" +
                               blocks(TREE / "docs/tutorials/sanitizers.md"))
        self.assertEqual(status, 0, text)
        self.assertEqual(text.count("== quire: sanitize: slot: KVM_RUN with memory of a slot that was unmapped\n"), 2)
        self.assertIn("== quire: sanitize: private: a read of memory that the guest holds private\n", text)
        self.assertEqual(text.count("== quire: sanitize: dirty: 1 page of a logged slot changed "), 2)
        self.assertIn("== quire: sanitize: tlb: the guest at RIP ", text)
        self.assertIn("\nslot KVM_RUN with memory of a slot that was unmapped\n", text)
        self.assertIn("quire: sanitize: 0 found, 1 suppressed\n", text)

    def test_action(self):
        inputs = {"packages": "/mnt/packages", "options": "--param kvm.mmio_caching=N",
                  "run": "/mnt/private-vm; echo ended"}
        script = "\n".join(f"cat > step <<'END_OF_STEP'\n{step}END_OF_STEP\nbash -e step"
                           for step in steps(TREE / "action.yml", inputs))
        text = self.installed(RUNNER + script + "\ngrep works runner/summary\ngrep -c exits \"$(sed "
                              "s/^report=// runner/output)\"\n")
        self.assertIn("All as it should be.\nended\n", text)
        self.assertEqual(text.count("`quire run` works here."), 2, text)

    def test_installed_used_and_removed(self):
        text = self.installed(USE)
        self.assertEqual(text.count("console: 42\n"), 4, text)
        self.assertEqual(text.count("a VM of this process's own memory did what it should\n"), 2,
                         text)
        self.assertIn("nothing is left", text)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
