"""The journal of a conversion: which tensors are finished, so that a restart continues after them.

FOLDER/progress.jsonl    first line: what is being converted; then {"name", "sha256"} of each finished tensor

FOLDER is where the result is being written: OUT.partial on a disk, OUT itself in a bucket, where nothing can be
renamed. A restart with the same first line resumes after the last whole line. With another first line it begins again.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tigerjax.files import paths
from tigerjax.files.log import Log
from tigerjax.files.manifest import canonical

FILE = "progress.jsonl"
OnBytes = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) when a tensor is finished."""


class Journal:
    """`done` maps each finished tensor to its sha256. `resume` opens a journal. In a bucket a line may reach the file
    as late as `log.LAG_S` after its tensor is finished."""

    def __init__(self, folder: Path, job: dict[str, Any], done: dict[str, str]):
        self.folder, self.done = folder, done
        self._log = Log(folder / FILE, [canonical(job).decode(), *(_line(*entry) for entry in done.items())])

    def add(self, name: str, sha256: str) -> None:
        self._log.write(_line(name, sha256))
        self.done[name] = sha256

    def flush(self) -> None:
        """Returns when every finished tensor is in the file."""
        self._log.flush()

    def remove(self) -> None:
        """Deletes the file when the conversion is complete; by then the checksums stand in another file."""
        self._log.close()
        (self.folder / FILE).unlink()


def _line(name: str, sha256: str) -> str:
    return json.dumps({"name": name, "sha256": sha256})


def begun(folder: Path, stage: str) -> bool:
    """Whether `folder` is what an interrupted conversion of this stage left behind."""
    return _read(folder)[0].get("stage") == stage


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(job, {tensor: sha256}); both are empty where there is no journal or it cannot be read."""
    if not (folder / FILE).is_file():
        return {}, {}
    try:
        job, *done = (json.loads(line) for line in (folder / FILE).read_bytes().split(b"\n")[:-1])  # whole lines
        return dict(job), {line["name"]: line["sha256"] for line in done}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}, {}


def resume(folder: Path, job: dict[str, Any], make: Callable[[], None]) -> Journal:
    """The journal that an interrupted run of the same `job` left in `folder`.

    Where there is none, the folder is emptied, `make()` is called to prepare it, and the journal is new. job["stage"]
    names the conversion.
    """
    wanted, (left, done) = json.loads(canonical(job)), _read(folder)
    if left == wanted:
        return Journal(folder, wanted, done)
    paths.clear(folder)
    make()
    return Journal(folder, wanted, {})


def fingerprint(files: list[Path]) -> str:
    """A sha256 of the files' names and stamps, not of their bytes: a restart need not read them all to know that they
    are the same."""
    return hashlib.sha256(canonical([(path.name, paths.stamp(path)) for path in sorted(files)])).hexdigest()
