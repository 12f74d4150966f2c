"""The tests of a Meson build folder as checks: we run them, for a line as each ends."""
import configparser
import functools
import json
import os
import pathlib
import subprocess

import check_runner


@functools.lru_cache(maxsize=None)
def introspect(folder, what, _as_of):
    """What Meson knows of a folder; asking takes it a second, so each thing is asked for once."""
    listed = subprocess.run(["meson", "introspect", f"--{what}", str(folder)], check=True,
                            text=True, stdout=subprocess.PIPE).stdout
    return json.loads(listed)


class Build:
    """One configured build folder; what it made may need an emulator to run, which takes its time."""

    def __init__(self, folder, emulator=()):
        self.folder = folder
        self.emulator = list(emulator)
        self.patience = 8 if emulator else 1

    def introspect(self, what):
        as_of = (self.folder / "build.ninja").stat().st_mtime
        return introspect(self.folder, what, as_of)

    def tests(self):
        """Meson's records of the tests, with the innermost suite and the folder of the program."""
        def suite(record):
            names = [name.partition(":")[2] for name in record["suite"]]
            return next((name for name in names if name), "other")

        return [{**record, "suite": suite(record)} for record in self.introspect("tests")]

    def targets(self, records):
        """What Ninja has to build for these tests."""
        files = {target["id"]: target["filename"] for target in self.introspect("targets")}
        wanted = {name for record in records for key in record["depends"]
                  for name in files.get(key, ())}
        return sorted(os.path.relpath(name, self.folder) for name in wanted)

    def programs_below(self, part):
        """The tests that run a program built below a folder of the tree."""
        return [r for r in self.tests() if str(self.folder / part) in " ".join(r["cmd"])]

    def check(self, record, label, slow=()):
        env = {**os.environ, **record["env"]}
        limit = (record["timeout"] or 600) * self.patience
        run = check_runner.command(self.emulator + record["cmd"],
                                   record["workdir"] or self.folder, limit, env)
        return check_runner.Check(label or record["suite"], f"{label or record['suite']}: "
                                  f"{record['name']}", run, is_alone=not record["is_parallel"],
                                  is_slow=record["name"] in slow)


def newest_build_file(tree):
    """When the description of the build changed last."""
    times = [path.stat().st_mtime for path in pathlib.Path(tree).rglob("meson.build")
             if not path.relative_to(tree).parts[0].startswith("build")]
    return max(times)


def options_of(folder):
    """The options that Meson was given for a folder, as -Dname=value."""
    given = configparser.ConfigParser(delimiters=["="], interpolation=None)
    given.optionxform = str
    given.read(folder / "meson-private/cmd_line.txt")
    return {f"-D{name}={value}" for name, value in given["options"].items()} if "options" in given else set()


def configure_command(tree, folder, options):
    """The command that sets the folder up, or None when it is up to date."""
    made = folder / "build.ninja"
    if not made.exists():
        return ["meson", "setup", str(folder), *options]
    if newest_build_file(tree) <= made.stat().st_mtime and options_of(folder).issuperset(options):
        return None
    return ["meson", "setup", "--reconfigure", str(folder), *options]
