"""Functions that the tests of clusters have run elsewhere: they must be importable by workers."""

import os
import signal
import time

from tigerjax.errors import DataError
from tigerjax.files import paths


def scored(texts):
    """A scorer of documents: short texts are good."""
    return [1 / (1 + len(text) / 100) for text in texts]


def squared(number):
    return {"squared": number * number}


def refused(number):
    if number > 2:
        raise DataError(f"item {number} is bad")
    return number


def full(number):
    if number == 1:
        raise OSError(28, "No space left on device", "/data/x")
    return number


def buggy(number):
    return 1 // (number - 1)


def lost_once(folder, number):
    """The first try of item 1 is killed as by the kernel."""
    mark = folder / "lost"
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def always_lost(number):
    os.kill(os.getpid(), signal.SIGKILL)


def late(folder, number):
    """Writes a file, but waits until its step has ended before the file is whole."""
    with paths.writing(folder / "out") as file:
        file.write(b"late")
        (folder / "begun").touch()
        while not (folder / "ended").exists():
            time.sleep(0.01)
    return number
