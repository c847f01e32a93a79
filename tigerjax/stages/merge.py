"""The last step of a stage on large inputs: the parts of each input are merged into one output file.

Parts are sorted by id. So an output does not depend on the order of the input's lines, the size of its blocks or the
number of workers.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.files import packed
from tigerjax.stages import parts


def merge_lines(
    sources: Sequence[Iterable[tuple[str, bytes]]], out: Path, on_line: Callable[[int], None] | None = None
) -> int:
    """Writes the lines of several sources to one file, in the order of their ids, and returns their number.

    Each source gives (id, line) pairs that are sorted by id; lines of equal ids keep the order of the sources.
    `on_line` is called with the number of each line.
    """
    count = 0
    with packed.writing(out) as file:
        for _, line in heapq.merge(*sources, key=lambda pair: pair[0]):
            file.write(line + b"\n")
            count += 1
            if on_line is not None:
                on_line(count)
    return count


def kept_lines(work: Path, number: int, drop: np.ndarray, edits: dict[int, bytes]) -> Iterator[tuple[str, bytes]]:
    """(id, line) of the records of a part that stay, in order.

    Records at the places in `drop` are left out; `edits` maps places to lines that replace the old ones.
    """
    ids = parts.Ids(work, number)
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
