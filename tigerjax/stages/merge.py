"""The last step of a stage on large inputs: the parts of each input are merged into one output file.

Parts are sorted by id. So an output does not depend on the order of the input's lines, the size of its blocks or the
number of workers.
"""

import heapq
import itertools
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tigerjax import records
from tigerjax.files import packed, temporary
from tigerjax.stages import parts

MOST_OPEN = 100
"""Sources that are merged at one time. Each keeps a file open, and a process may open 256 or 1,024 of them."""
IdAndLine = tuple[str, bytes]
"""(id, line)."""
_SIZES = struct.Struct("<II")


def merge_lines(sources: Sequence[Iterable[IdAndLine]], out: Path) -> int:
    """Writes the lines of several sources to one file, in the order of their ids, and returns their number.

    Each source gives (id, line) pairs that are sorted by id; lines of equal ids keep the order of the sources. More
    than MOST_OPEN sources are merged in rounds: groups of neighbours become one temporary file each, beside `out`.
    """
    with tempfile.TemporaryDirectory(dir=temporary.beside(out), prefix="merge-") as folder:
        level = 0
        while len(sources) > MOST_OPEN:
            groups = [sources[at : at + MOST_OPEN] for at in range(0, len(sources), MOST_OPEN)]
            names = [Path(folder) / f"{level}-{number}" for number in range(len(groups))]
            for name, group in zip(names, groups, strict=True):
                _write_pairs(name, _merged(group))
            sources, level = [_read_pairs(name) for name in names], level + 1
        with packed.writing(out) as file:
            return _write_lines(file, _merged(sources))


def append_lines(sources: Iterable[Iterable[IdAndLine]], out: Path) -> int:
    """Writes the lines of several sources to one file, one source after another, and returns their number."""
    with packed.writing(out) as file:
        return _write_lines(file, itertools.chain.from_iterable(sources))


def _merged(sources: Iterable[Iterable[IdAndLine]]) -> Iterator[IdAndLine]:
    return heapq.merge(*sources, key=lambda pair: pair[0])


def _write_lines(file: BinaryIO, pairs: Iterable[IdAndLine]) -> int:
    count = 0
    for _, line in pairs:
        file.write(line + b"\n")
        count += 1
    return count


def _write_pairs(path: Path, pairs: Iterable[IdAndLine]) -> None:
    with open(path, "xb") as file:
        for identity, line in pairs:
            name = identity.encode("utf-8", "surrogatepass")
            file.write(_SIZES.pack(len(name), len(line)) + name + line)


def _read_pairs(path: Path) -> Iterator[IdAndLine]:
    """What `_write_pairs` wrote; the file is removed after its last pair."""
    with open(path, "rb") as file:
        while head := file.read(_SIZES.size):
            name, line = _SIZES.unpack(head)
            yield file.read(name).decode("utf-8", "surrogatepass"), file.read(line)
    path.unlink()


def kept_lines(work: Path, number: int, drop: np.ndarray, edits: dict[int, bytes]) -> Iterator[IdAndLine]:
    """(id, line) of the records of a part that stay, in order.

    Records at the places in `drop` are left out; `edits` maps places to lines that replace the old ones.
    """
    ids = parts.PartIds(work, number)
    dropped = np.zeros(len(ids), bool)
    dropped[drop] = True
    with open(work / f"part-{number}.jsonl", "rb") as file:
        for place, line in enumerate(file):
            if not dropped[place]:
                yield ids[place], edits.get(place) or line[:-1]


Output = tuple[str, list[int]]
"""(name of the output file, the parts that are merged into it)."""


def outputs(paths: Sequence[Path], scanned: Sequence[dict[str, Any]]) -> list[Output]:
    """The outputs of a stage, one for each input; `scanned` is what `scan.scanned` returned."""
    by_path: dict[str, list[int]] = {str(path): [] for path in paths}
    for part in scanned:
        by_path[part["path"]].append(part["part"])
    return [(records.output_name(path), by_path[str(path)]) for path in paths]


def work_folder(tmp: Path) -> Path:
    """A new folder for the files that a stage needs between its steps.

    Its name is never used again, because workers cache what they have read by path.
    """
    work = tmp / f"work-{time.time_ns()}"
    work.mkdir()
    return work
