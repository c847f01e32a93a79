"""Where a file lies while it is written: beside its own place, or in a folder that its writer has chosen.

A task of a stage may run twice at one time: its machine was given up, but lives. Each run then needs a name of its own,
and a run that is late must not replace a file any more. So such a task writes into a folder of its step, which is
removed when the step ends: what is late finds its file gone.
"""

import contextlib
import contextvars
import uuid
from collections.abc import Iterator
from pathlib import Path

_chosen: contextvars.ContextVar[Path | None] = contextvars.ContextVar("folder of unfinished files", default=None)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Unfinished files of the block, in this thread, lie in a folder, which is on the disk of the finished ones."""
    before = _chosen.set(folder)
    try:
        yield
    finally:
        _chosen.reset(before)


def beside(path: Path) -> Path:
    """The folder for what is needed until a file is written."""
    return _chosen.get() or path.parent


def name_of(path: Path) -> Path:
    """The name of a file until it is whole."""
    chosen = _chosen.get()
    return path.with_name(f"{path.name}.part") if chosen is None else chosen / f"{uuid.uuid4().hex}.part"
