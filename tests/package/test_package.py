"""The Debian packages: made twice, judged by lintian, installed, used and removed.

They are installed into a copy of this machine's root that goes with the test (overlayfs), as root.

usage: test_package.py PROGRAM   (a KVM program: examples/private-vm)
"""
import pathlib
import subprocess
import sys
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tools"))

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
mkdir -p "$1/root/mnt/packages" "$1/root/mnt/tree"
cp "$2"/*.deb "$1/root/mnt/packages"
cp -r "$3/examples/embed" "$1/root/mnt/tree"
cp "$4" "$1/root/mnt/private-vm"
exec chroot "$1/root" sh -euc "$5"
"""
USE = r"""
cd /mnt
find /usr /etc -xdev | sort > before
dpkg -i packages/*.deb
dpkg --verify quire libquire0 libquire-dev
quire version
cd /
quire run -- /mnt/private-vm
man -w 1 quire && man -w 3 quire
cd /mnt/tree/embed
gcc embed.c port.c $(pkg-config --cflags --libs quire) -o shared && ./shared
readelf -d shared | grep -F "[libquire.so.0]"
gcc -static embed.c port.c $(pkg-config --static --cflags --libs quire) -o static && ./static
quire run -- ./static
g++ -std=c++17 -x c++ embed.c port.c $(pkg-config --cflags --libs quire) -o cpp && ./cpp
dpkg -P quire libquire-dev libquire0
cd /mnt
find /usr /etc -xdev | sort > after
diff before after
echo nothing is left
"""


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
                         ["libquire-dev", "libquire0", "quire"])

    def test_installed_used_and_removed(self):
        overlay = self.folder / "overlay"
        overlay.mkdir()
        status, text = said_by(*program.as_root("unshare", "-m", "sh", "-c", OVERLAY, "sh"),
                               overlay, self.folder / "first", TREE, PROGRAM, USE)
        self.assertEqual(status, 0, text)
        self.assertEqual(text.count("console: 42\n"), 4, text)
        self.assertIn("nothing is left", text)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
