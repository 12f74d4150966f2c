"""A small VMM under 'quire run --sanitize', and what came of it."""
import json
import pathlib
import subprocess
import tempfile

FOUND = 66


def run(quire, kinds, *command, options=()):
    """The exit status, the error output and what was found."""
    with tempfile.TemporaryDirectory(prefix="quire-sanitize-") as folder:
        path = pathlib.Path(folder) / "found.json"
        done = subprocess.run([quire, "run", f"--sanitize={kinds}", "--sanitize-json", str(path),
                               *options, "--", *command], text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              timeout=60, check=False)
        return done.returncode, done.stderr, [json.loads(line)
                                              for line in path.read_text().splitlines()]
