"""What the time from the start of a process to the first step of its run is spent on."""

import os
import time
from collections.abc import Callable

ITEMS = {
    "imports": "Python, the imports and the config",
    "hosts": "meeting the other hosts of the run",
    "devices": "starting the devices",
    "rows": "making or opening the rows, reading the first batch, and what else a command does before it trains",
    "state": "restoring a state, or making a new one",
    "compile": "the call of the first step: its compilation, or reading that from the compilation cache",
}
"""In the order in which they come."""


class Starting:
    """Counts the seconds of each item of ITEMS; each ends when the next one begins."""

    def __init__(self, since: float | None = None, clock: Callable[[], float] = time.time):
        """`since` is when the time begins (unix time): by default when this process did."""
        self._clock = clock
        self.since = process_began() if since is None else since
        self._item, self._at = next(iter(ITEMS)), self.since
        self._seconds: dict[str, float] = {}

    def at(self, item: str) -> None:
        """The item that takes the time from now on."""
        assert item in ITEMS, item
        now = self._clock()
        self._seconds[self._item] = self._seconds.get(self._item, 0.0) + max(now - self._at, 0.0)
        self._item, self._at = item, now

    def seconds(self) -> dict[str, float]:
        """Seconds of each item so far, in order; those that took none are left out."""
        self.at(self._item)
        return {item: round(self._seconds[item], 3) for item in ITEMS if item in self._seconds}

    def line(self) -> str:
        """All of it in words."""
        spent = self.seconds()
        items = ", ".join(f"{item} {seconds:.1f}" for item, seconds in spent.items())
        return f"first step after {sum(spent.values()):.1f} s: {items}"


def process_began() -> float:
    """The unix time at which this process was started; now, where the system does not say."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
            return time.time() - (float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK"))
    except OSError:  # no Linux
        return time.time()
