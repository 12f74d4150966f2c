"""One thing that a client is asked to do."""
import dataclasses
from typing import Callable


class Failure(Exception):
    """The client did not do it; output is what it printed."""

    def __init__(self, text, output=""):
        super().__init__(text)
        self.output = output


class MissingPrivilege(Exception):
    """This user may not do what the scenario needs, or this processor cannot: else none is skipped."""


@dataclasses.dataclass
class Scenario:
    """run() returns one line of facts, or raises Failure or MissingPrivilege."""
    client: str
    name: str
    run: Callable[[], str]
    # One of each kind is in CI; the others are for './dev vmms' and './dev soak'.
    in_ci: bool = False
    is_alone: bool = False
