"""A task on another machine. It looks first whether it sees the same folders and runs the same code as the stage.

So a worker that joins late, in place of one that was lost, is checked too. A task writes into the folder of its step
and then renames the file to its final place. The folder is removed when the step ends, so a task that was given up but
still runs cannot replace a file any more.
"""

import contextlib
import errno
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.errors import ConfigError, disk_full
from tigerjax.files import temporary
from tigerjax.processes import versions
from tigerjax.stages.outcomes import outcome, result

MARK = "here"
"""A file in the folder of a step, by which a worker knows that it sees the same folder."""


class Place(NamedTuple):
    """Where the tasks of a step run, as the stage sees it."""

    current: str
    """The current folder, from which the paths of inputs are taken."""
    folder: str
    """The folder of the step."""
    mark: str
    """What the file MARK holds."""
    code: dict[str, str]
    """What `versions.of_stages` returns."""


def opened(folder: Path) -> Place:
    """Makes the folder of a step."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    (folder / MARK).write_text(mark, encoding="utf-8")
    return Place(os.getcwd(), str(folder.absolute()), mark, versions.of_stages())


def closed(place: Place) -> None:
    """Removes the folder of a step."""
    gone = f"{place.folder}.ended"
    os.replace(place.folder, gone)
    shutil.rmtree(gone, ignore_errors=True)  # on NFS a file that a late task holds open may stay for a while


def task(place: Place, function: Callable[[Any], Any], item: Any) -> dict[str, Any]:
    """What `outcome` returns for an item, to be read by `answer`. An error that another try would meet again is
    returned and not raised, so that the cluster does not repeat the task."""
    try:
        _look(place)
    except ConfigError as error:
        return {"error": ConfigError.__name__, "message": str(error)}
    with contextlib.chdir(place.current), temporary.inside(Path(place.folder)):
        try:
            return outcome(function, item)
        except OSError as error:
            if not disk_full(error):
                raise
            return {"full": f"{platform.node()}:{error.filename or 'the output'}"}


def each(items: Sequence[Any], folder: Path, run: Callable[[Place], list[dict[str, Any]]]) -> list[Any]:
    """The results of the items of a step, in their order. `run(place)` has the workers do them, and returns what `task`
    gave for each. The folder of the step is there meanwhile."""
    if not items:
        return []
    place = opened(folder)
    try:
        given = run(place)
    finally:
        closed(place)
    return [answer(one) for one in given]


def answer(given: dict[str, Any]) -> Any:
    """What the function returned; raises its error again."""
    if "full" in given:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), given["full"])
    return result(given)


def _look(place: Place) -> None:
    """ConfigError where a task of the step cannot run in this process."""
    worker, mine = platform.node(), versions.of_stages()
    wanted = [(name, value, mine.get(name, "")) for name, value in place.code.items()]
    others = [f"{name} {own or 'none'} instead of {value or 'none'}" for name, value, own in wanted if own != value]
    if others:
        raise ConfigError(
            f"worker {worker} has {', '.join(others)}; install the same tigerjax and the same packages on all workers"
        )
    folder = Path(place.folder)
    try:
        seen = (folder / MARK).read_text(encoding="utf-8") == place.mark
    except OSError:
        seen = False
    if not seen:
        raise ConfigError(
            f"worker {worker} does not see {folder}; give an --out on a disk that all workers share, or without one,"
            " and for an OUT in a bucket, such a $TMPDIR"
        )
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"worker {worker} may not write to {folder}; start it as a user who may")
    if not os.path.isdir(place.current):
        raise ConfigError(
            f"worker {worker} has no folder {place.current}; start the command in a folder that all workers share"
        )
