"""Where the wall time of a run goes, restarts included. The share that is spent in steps is its goodput."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from tigerjax.train.starting import Starting

ITEMS = ("steps", "start", "compile", "data", "save", "validation", "down")


class Goodput:
    """Seconds by item:

    start     from the command to the first step: imports, making rows, restoring a checkpoint
    compile   the first step: its compilation (or reading that from the cache on disk), and the step itself
    data      waiting for the loader
    save      waiting for a checkpoint
    validation
              measuring on held-out data, with the compilation of that
    down      from the last logged step of the previous process to the start of this one: steps that were lost, and the
              time until the restart
    steps     everything else
    """

    def __init__(self, *, starting: Starting, last: dict[str, Any], clock: Callable[[], float] = time.time):
        """`starting` knows when the run's wall time begins, `last` is the newest record of the run's metrics ({} for a
        new run)."""
        since = starting.since
        self._clock, self._since, self._began = clock, since, False
        self._starting: Starting | None = starting
        before = last.get("spent_s") or {}
        self._spent = {item: float(before.get(item, 0.0)) for item in ITEMS}
        if "time" in last:
            self._spent["down"] += max(since - last["time"], 0.0)
        self._start_s: dict[str, float] | None = None
        self._carried = sum(self._spent.values())

    @contextlib.contextmanager
    def spending(self, item: str) -> Iterator[None]:
        """Counts the time spent in the block under `item`."""
        started = self._clock()
        if not self._began:
            self._began = True
            self._spent["start"] += started - self._since
        try:
            yield
        finally:
            self._spent[item] += self._clock() - started
            if item == "compile" and self._starting is not None:
                self._start_s, self._starting = self._starting.seconds(), None

    def record(self) -> dict[str, Any]:
        """{time (unix), spent_s (seconds by item, over the whole run), goodput (the share of `steps`)}.

        Once for each start also start_s: the seconds of its items until the first step (`tigerjax.train.starting`)."""
        now = self._clock()
        total = self._carried + now - self._since
        spent = dict(self._spent)
        spent["steps"] += total - sum(spent.values())
        start_s, self._start_s = self._start_s, None
        return ({} if start_s is None else {"start_s": start_s}) | {
            "time": now,
            "spent_s": {item: round(seconds, 3) for item, seconds in spent.items()},
            "goodput": max(spent["steps"], 0.0) / total if total > 0 else 0.0,
        }

    def waited(self) -> float:
        """Seconds spent waiting for data so far."""
        return self._spent["data"]
