"""SIGINT and SIGTERM while a run trains: they are noted, and the loop stops when it can."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ANSWER = (
    "\n{name}: the step in hand is finished and a checkpoint saved, then this ends; once more to end without saving\n"
)


@contextmanager
def noted() -> Iterator[list[int]]:
    """A list to which SIGINT and SIGTERM are added when they arrive. A second one acts as it did before this block.

    The first is answered at once on standard error, since the step in hand and the save may take a while.

    A signal that is ignored stays ignored: whoever started the process in the background of a script, or by `nohup`,
    wants it to live on when Ctrl-C ends what is in the foreground."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])
        # os.write: print may be interrupted by this very signal while it holds the stream's lock.
        name = signal.Signals(number).name
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, ANSWER.format(name=name).encode())

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:
                before[number] = handler
                signal.signal(number, note)
    except ValueError:  # not the main thread: signals are the caller's
        before.clear()
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
