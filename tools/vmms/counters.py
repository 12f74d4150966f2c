"""What 'quire run --stats' wrote, added up, and what it says of the translator."""
import json
import pathlib
import subprocess

from vmms import places
from vmms.scenario import Failure

# Of a boot, at least so much runs as translated code.
SHARE_PERCENT = 95
# Pages of code that a vCPU's boot may compare with memory. Each of 105,000 IRETs that end a patch of
# the kernel's own text asks for a dozen.
COMPARES = 3_000_000


def totals(path):
    """The counters of all objects of a run: name -> sum."""
    found = {}

    def collect(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, int) and not isinstance(inner, bool):
                    found.setdefault(name, []).append(inner)
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(json.loads(pathlib.Path(path).read_text()))
    return {name: sum(values) for name, values in found.items()}


def machine_translates():
    """Does 'quire doctor' say that hot code becomes machine code here?"""
    done = subprocess.run([str(places.QUIRE), "doctor"], text=True, stdout=subprocess.PIPE,
                          check=False)
    return any(line.split()[:2] == ["translator", "yes"] for line in done.stdout.splitlines())


def is_watched():
    """Does the run look for stale translations? It interprets then."""
    return any(word.startswith("--sanitize=") and "tlb" in word for word in places.RUN)


def share(found):
    """Instructions that retired in translated code, in percent of all."""
    translated = found["quire_translated"]
    return 100 * translated / max(translated + found["quire_interpreted"], 1)


def check_boot(path, cpus, params=()):
    """Raises Failure when too much of a boot was compared or too little translated, unless it was
    not to be."""
    found = totals(path)
    # In lockstep, and under --sanitize=tlb, the guest's timers interrupt far more often.
    is_slow = "kvm.quire_lockstep=Y" in params or is_watched()
    if found["quire_compares"] > COMPARES * cpus and not is_slow:
        raise Failure(f"{found['quire_compares']:,} pages of code were compared with memory, at "
                      f"most {COMPARES:,} a vCPU are wanted", pathlib.Path(path).read_text())
    if any(param in ("kvm.quire_translate=N", "kvm.quire_translate=0") for param in params):
        return ""
    if not machine_translates() or is_watched():
        return ""
    percent = share(found)
    if percent < SHARE_PERCENT:
        raise Failure(f"{percent:.1f} % of the instructions ran translated, at least "
                      f"{SHARE_PERCENT} % are wanted", pathlib.Path(path).read_text())
    return f", {percent:.1f} % of its instructions translated"
