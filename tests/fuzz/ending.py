"""Runs a command in this process, and says what is wrong with how it ended.

Right is: exit code 0, or 2 or 3 (or another that the reader documents) with one line on standard error and every file
as it was; no traceback; bounded time of the processor; bounded memory; no half-written file left.
"""

import contextlib
import ctypes
import io
import logging
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.command.cli import main

SECONDS = 20.0
"""Of the processor, for one command on a file of a few kB: they take a tenth of a second."""
ONCE_SECONDS = 600.0
"""Of the processor, for a command that makes good files, and for the first of all: it imports and compiles."""
MEMORY = 400 << 20
"""Bytes that one command may need above what the process had."""
LONGEST_LINE = 2000
LEFT_OVER = (".partial", ".part", ".lock")


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    grown: int  # bytes of memory at the most, above what the process had


class TooLong(BaseException):
    """The command took more time than is allowed."""


def _peak() -> int:
    """The most memory that this process had since `_forget_peak`."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


def _forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Takes back what `main` changes in its process, which otherwise lives no longer than one command.

    Its hook stays until the next command, as threads of TensorStore may fail a little later.
    """
    sys.unraisablehook = sys.__unraisablehook__
    path, filters, environment = list(sys.path), logging.getLogger("absl").filters[:], dict(os.environ)
    try:
        yield
    finally:
        sys.path[:], logging.getLogger("absl").filters[:] = path, filters
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)


class _Limit:
    """Ends what the main thread does with TooLong, once the process has used so many seconds of the processor.

    A thread looks at the clock. A timer that sends SIGPROF would be shorter, and once left its handler behind in the
    process of the tests, where the next SIGPROF ended them all.
    """

    def __init__(self, seconds: float):
        self._until, self._done, self._lock = time.process_time() + seconds, threading.Event(), threading.Lock()
        self._thread = ctypes.c_ulong(threading.get_ident())

    def _raise(self, error: type[BaseException] | None) -> None:
        value = None if error is None else ctypes.py_object(error)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, value)

    def _watch(self) -> None:
        # The main thread uses one processor and threads of others at most as many again for each.
        while not self._done.wait(max(0.05, (self._until - time.process_time()) / (os.cpu_count() or 1))):
            with self._lock:
                if time.process_time() >= self._until and not self._done.is_set():
                    self._raise(TooLong)
                    return

    def __enter__(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._done.set()
        self._raise(None)  # takes back what is not raised yet


def run(words: list[str], *, seconds: float = SECONDS) -> Ended:
    """`tigerjax WORDS`. Whatever `main` does not catch comes out of this, and AssertionError for too much time."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    _forget_peak()
    before = _peak()
    try:
        with _as_it_was(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _Limit(seconds):
            code = main(words)
    except TooLong:
        raise AssertionError(f"tigerjax {' '.join(words)}: more than {seconds} s of the processor") from None
    grown = _peak() - before
    for stream in (out, err):
        stream.flush()
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Ended(code, said[0], said[1], grown)


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refusal(ended: Ended, codes: tuple[int, ...] = ()) -> str:
    """What is wrong with an exit code and what was said on standard error; empty for nothing."""
    lines = ended.err.rstrip("\n").split("\n")
    if ended.code not in (0, 2, 3, *codes):
        return f"exit code {ended.code}"
    if "Traceback" in ended.err:
        return "a traceback"
    while len(lines) > 1 and lines[-1].startswith("  "):  # of an error that lists every wrong line
        lines.pop()
    if ended.code and not lines[-1].startswith("tigerjax: "):
        return "no line that says why"
    if any(len(line) > LONGEST_LINE for line in lines):
        return "a line of many characters"
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in ended.err):
        return "control characters"
    return "" if ended.grown < MEMORY else f"{ended.grown:,} bytes of memory"


def leavings(before: dict[str, bytes], after: dict[str, bytes], code: int, may_change: tuple[str, ...]) -> str:
    """What is wrong with the files that a command left; empty for nothing."""
    fresh = sorted(after.keys() - before.keys())
    if half := [name for name in fresh if any(part.endswith(LEFT_OVER) for part in Path(name).parts)]:
        return f"left over: {half[0]}"
    if code:
        mine = [name for name in (*after, *before) if not any(Path(name).match(pattern) for pattern in may_change)]
        if touched := [name for name in mine if before.get(name) != after.get(name)]:
            return f"changed by a command that failed: {touched[0]}"
    return ""
