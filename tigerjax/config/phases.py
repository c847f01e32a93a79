"""The phases of a run whose mixture changes: how `data.phases` is written."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tigerjax.config.ranges import INT32
from tigerjax.errors import ConfigError


class PhaseStart(NamedTuple):
    """From a step on, rows are of another mixture."""

    mixture: str
    first: int
    """Steps before it."""
    whole: int
    """From this step on it has its own shares. Between `first` and this one they move there evenly."""


def starts(given: Sequence[str], name: str = "data.phases") -> list[PhaseStart]:
    """The entries `STEP=MIXTURE` or `STEP-STEP=MIXTURE`, in order; `name` is that of the setting.

    Raises ConfigError for another form, and for phases that overlap or are out of order.
    """
    found: list[PhaseStart] = []
    for entry in given:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?=(\S+)", entry)
        if not match:
            raise ConfigError(
                f"{name}: {entry!r} must be STEP=MIXTURE, or STEP-STEP=MIXTURE where the shares move over these steps,"
                " such as 8000=anneal or 8000-9000=anneal"
            )
        first = int(match[1])
        start = PhaseStart(match[3], first, int(match[2] or first))
        if not 1 <= start.first <= start.whole <= INT32 or (match[2] and start.first == start.whole):
            raise ConfigError(
                f"{name}: {entry!r} must begin at step 1 or later, and its second step must come after the first"
            )
        if found and start.first < max(found[-1].whole, found[-1].first + 1):
            before = given[len(found) - 1]
            raise ConfigError(
                f"{name}: {entry!r} begins before {before!r} is whole; phases may not overlap, and stand in the order"
                " of their steps"
            )
        found.append(start)
    return found


def refuse_late(given: Sequence[str], steps: int, setting: str) -> None:
    """ConfigError for a phase that is not whole before the last step of a run; `setting` is what gives its steps."""
    for start in starts(given):
        if start.whole >= steps:
            raise ConfigError(
                f"data.phases: the phase of {start.mixture} is whole from step {start.whole} on, but {setting}={steps};"
                " begin it earlier, or train longer"
            )
