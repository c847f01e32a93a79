"""What an interrupted conversion has done: one line a tensor, in the folder that it fills.

OUT.partial/progress.jsonl    first line: what is being converted; then {"name", "sha256"} of each finished tensor

A restart with the same first line goes on after the last whole line; with another one it begins again.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tigerjax.manifest import canonical

FILE = "progress.jsonl"
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class Journal:
    """Opened by `resume`; `done` maps each finished tensor to its sha256."""

    def __init__(self, folder: Path, done: dict[str, str]):
        self.folder, self.done = folder, done

    def add(self, name: str, sha256: str) -> None:
        with open(self.folder / FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "sha256": sha256}) + "\n")
        self.done[name] = sha256

    def remove(self) -> None:
        """When everything is done: the checksums are kept elsewhere."""
        (self.folder / FILE).unlink()


def resume(folder: Path, job: dict[str, Any], make: Callable[[], None]) -> Journal:
    """The journal of an interrupted run of the same `job` in `folder`, else of a new one after `make()`."""
    path, wanted = folder / FILE, json.loads(canonical(job))
    if path.is_file():
        lines = path.read_bytes().split(b"\n")
        try:
            if json.loads(lines[0]) == wanted:
                read = [json.loads(line) for line in lines[1:-1]]
                path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))  # without a line cut short
                return Journal(folder, {line["name"]: line["sha256"] for line in read})
        except (ValueError, KeyError, TypeError):
            pass  # a journal that is no journal: begin again
    shutil.rmtree(folder, ignore_errors=True)
    make()
    path.write_bytes(canonical(wanted) + b"\n")
    return Journal(folder, {})


def fingerprint(files: list[Path]) -> str:
    """Of names, sizes and times of change: the same files are not read through again to know that they are."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    return hashlib.sha256(canonical(stats)).hexdigest()
