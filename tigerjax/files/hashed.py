"""The hashes of a stage's inputs, several files at a time: one core hashes about a gigabyte a second."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

MOST_THREADS = 16
"""Python computes a hash without its lock, so threads are enough."""
Hash = Callable[[Path, Callable[[int], None]], str]
"""The hash of a path; it calls the function with the size of each piece."""


def of(paths: Sequence[Path], sha256: Hash, hashing: Callable[[int, int], None] | None, total: int) -> dict[Path, str]:
    """The `sha256` of each path; `hashing(done, total)` reports the bytes. An error ends all threads."""
    done, lock, ended = 0, threading.Lock(), threading.Event()

    def on_bytes(count: int) -> None:
        nonlocal done
        if ended.is_set():
            raise CancelledError
        with lock:
            done += count
            if hashing is not None:
                hashing(done, total)

    if not paths:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(MOST_THREADS, len(paths), cores)) as threads:
        try:
            return dict(zip(paths, threads.map(lambda path: sha256(path, on_bytes), paths), strict=True))
        except BaseException:  # Ctrl-C too: the threads would hash their files to the end
            ended.set()
            raise
