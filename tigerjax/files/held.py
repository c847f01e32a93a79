"""The folders of buckets that this process holds a lease on, each with a check that is made before every write there.

`tigerjax.files.lease` enters them, and `tigerjax.files.paths`, which does the writing, asks.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_CHECKS: dict[str, Callable[[], None]] = {}


@contextlib.contextmanager
def checked(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Calls `check` before each write into a folder while the block runs; it raises where nothing may be written."""
    _CHECKS[str(folder)] = check
    try:
        yield
    finally:
        del _CHECKS[str(folder)]


def before_writing(path: str | os.PathLike[str]) -> None:
    """Raises what the check of a folder raises, if the path is that folder or lies in it."""
    for check in _checks(path):
        check()


def is_held(path: str | os.PathLike[str]) -> bool:
    """Whether this process holds a lease on the path, or on a folder that it lies in."""
    return bool(_checks(path))


def _checks(path: str | os.PathLike[str]) -> list[Callable[[], None]]:
    place = f"{os.fspath(path)}/"
    return [check for folder, check in list(_CHECKS.items()) if place.startswith(f"{folder}/")]
