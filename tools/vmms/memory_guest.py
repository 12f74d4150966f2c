"""A guest that writes its memory and checks it all the time: tests/vmms/init.c, quire=memory."""
import re

from vmms import boots
from vmms.scenario import Failure

GENERATION = re.compile(r"^quire: generation (\d+)$", re.M)
FORM = boots.Form("q35", "default")


def arguments(rounds=0, form=FORM):
    words = boots.arguments(form, "memory")
    words[words.index("-append") + 1] += f" rounds={rounds}"
    return words


def generations(machine):
    """Every number that the guest has written to its console, in order; fails at a bad page."""
    text = machine.text()
    if "quire: BAD" in text:
        raise Failure("the guest found a page that is not as it wrote it", machine.output())
    return [int(number) for number in GENERATION.findall(text)]


def wait_beyond(machine, generation, seconds=60):
    """Waits for a later generation than that one; returns it."""
    while True:
        machine.wait_for("quire: generation ", seconds)
        done = generations(machine)
        if done and done[-1] > generation:
            return done[-1]
