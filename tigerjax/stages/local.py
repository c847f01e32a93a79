"""Steps in this process, or in several processes of this machine."""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError, WorkerLost
from tigerjax.files.progress import Advance
from tigerjax.stages.outcomes import outcome, result
from tigerjax.stages.words import split_runner


class Processes:
    """`workers` processes. They start with the first step that has something for each to do."""

    def __init__(self, name: str, workers: int):
        if split_runner(name)[1]:
            raise ConfigError(f"runner {name!r}: local has no options; give the number of its processes as --workers")
        self._workers = workers
        self._pool: _Pool | None = None

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], folder: Path, report: Advance | None
    ) -> list[Any]:
        if self._workers == 1 or len(items) < 2:
            return list(reported(map(function, items), report, len(items)))
        if self._pool is None:
            self._pool = _Pool(self._workers)
        try:
            with _interrupts_held():  # the first call starts the workers
                done = self._pool.executor.map(functools.partial(outcome, function), items)
            return [result(given) for given in reported(done, report, len(items))]
        except BrokenProcessPool as error:
            raise WorkerLost(
                f"step {folder.name}: a worker process was killed, perhaps because the machine has too little memory;"
                f" nothing was written: give fewer than --workers {self._workers}, or free memory, and start again"
            ) from error

    def cores(self) -> int:
        """One for each process."""
        return self._workers

    def close(self) -> None:
        if self._pool is not None:
            self._pool.end()
            self._pool = None


class _Pool:
    """Worker processes. They end when `end` is called, and also when this process is killed.

    Each worker waits in a thread for the end of a pipe whose other end only this process holds.
    """

    def __init__(self, workers: int):
        # Not fork: a forked child would inherit the locks of JAX's and TensorFlow's threads.
        context = multiprocessing.get_context("spawn")
        watched, self._mine = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(workers, context, initializer=_end_with_parent, initargs=(watched,))

    def end(self) -> None:
        """Returns when no worker runs any more; what they were doing is given up."""
        self._mine.close()
        self.executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block has ended, and processes that are started in it never get one.

    A terminal sends Ctrl-C to the workers too, and each would print what it was doing. They end with this process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(watched: Any) -> None:
    def wait() -> None:
        try:
            watched.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def reported(results: Iterable[Any], report: Advance | None, total: int) -> Iterator[Any]:
    """The same results; `report` is called after each."""
    for number, one in enumerate(results, start=1):
        if report is not None:
            report(number, total)
        yield one
