"""What an interrupted conversion has done: one line a tensor, in the folder that it fills.

FOLDER/progress.jsonl    first line: what is being converted; then {"name", "sha256"} of each finished tensor

FOLDER is OUT.partial, and in a bucket OUT itself, which has no other name to be made under. A restart with the same
first line goes on after the last whole line; with another one it begins again.
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
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class Journal:
    """Opened by `resume`; `done` maps each finished tensor to its sha256. In a bucket a tensor may be written down as
    late as `log.LAG_S` after it is done."""

    def __init__(self, folder: Path, job: dict[str, Any], done: dict[str, str]):
        self.folder, self.done = folder, done
        self._log = Log(folder / FILE, [canonical(job).decode(), *(_line(*entry) for entry in done.items())])

    def add(self, name: str, sha256: str) -> None:
        self._log.write(_line(name, sha256))
        self.done[name] = sha256

    def flush(self) -> None:
        """Until every finished tensor is written down."""
        self._log.flush()

    def remove(self) -> None:
        """When everything is done: the checksums are kept elsewhere."""
        self._log.close()
        (self.folder / FILE).unlink()


def _line(name: str, sha256: str) -> str:
    return json.dumps({"name": name, "sha256": sha256})


def begun(folder: Path, stage: str) -> bool:
    """Whether a folder holds what an interrupted conversion of this stage left."""
    return _read(folder)[0].get("stage") == stage


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(job, {tensor: sha256}); both are empty where there is no journal, or one that is none."""
    if not (folder / FILE).is_file():
        return {}, {}
    try:
        job, *done = (json.loads(line) for line in (folder / FILE).read_bytes().split(b"\n")[:-1])  # whole lines
        return dict(job), {line["name"]: line["sha256"] for line in done}
    except (ValueError, KeyError, TypeError):
        return {}, {}


def resume(folder: Path, job: dict[str, Any], make: Callable[[], None]) -> Journal:
    """The journal of an interrupted run of the same `job` in `folder`, else of a new one after `make()`; job["stage"]
    names the conversion."""
    wanted, (left, done) = json.loads(canonical(job)), _read(folder)
    if left == wanted:
        return Journal(folder, wanted, done)
    paths.clear(folder)
    make()
    return Journal(folder, wanted, {})


def fingerprint(files: list[Path]) -> str:
    """Of names and stamps: the same files are not read through again to know that they are."""
    return hashlib.sha256(canonical([(path.name, paths.stamp(path)) for path in sorted(files)])).hexdigest()
