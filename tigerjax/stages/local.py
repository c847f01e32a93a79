"""Steps in this process, or in several processes of this machine."""

import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tigerjax.stages.outcomes import outcome, result

Report = Callable[[int, int], None]


class Processes:
    """`workers` processes. They start with the first step that has something for each to do."""

    def __init__(self, name: str, workers: int):
        self._workers = workers
        self._pool: Any = None

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], folder: Path, report: Report | None
    ) -> list[Any]:
        if self._workers == 1 or len(items) < 2:
            return list(reported(map(function, items), report, len(items)))
        if self._pool is None:
            # Not fork: a forked child would inherit the locks of JAX's and TensorFlow's threads.
            self._pool = multiprocessing.get_context("spawn").Pool(self._workers)
        done = self._pool.imap(functools.partial(outcome, function), items)
        return [result(given) for given in reported(done, report, len(items))]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
            self._pool = None


def reported(results: Iterable[Any], report: Report | None, total: int) -> Iterator[Any]:
    """The same results; `report` is called after each."""
    for number, one in enumerate(results, start=1):
        if report is not None:
            report(number, total)
        yield one
