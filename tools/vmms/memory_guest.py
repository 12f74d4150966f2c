"""A guest that writes its memory and checks it all the time: tests/vmms/init.c, quire=memory."""
import re

from vmms import boots
from vmms.scenario import Failure

# Not the start of a line: a guest that loadvm resumed may go on behind half a line.
START = "quire: generation "
GENERATION = re.compile(START + r"(\d+)\n")
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
        reached = int(machine.wait_line(START, seconds))
        generations(machine)
        if reached > generation:
            return reached
