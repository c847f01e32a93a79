"""The last step of a stage on large inputs: the parts of each input are merged into one output file.

Parts are sorted by id. So an output does not depend on the order of the input's lines, the size of its blocks or the
number of workers.
"""

import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.stages import parts


def merge_lines(
    sources: Sequence[Iterable[tuple[str, bytes]]], out: Path, on_line: Callable[[int], None] | None = None
) -> int:
    """Writes the lines of several sources to one file, in the order of their ids, and returns their number.

    Each source gives (id, line) pairs that are sorted by id. `on_line` is called with the number of each line.
    """
    count = 0

    def every() -> Iterator[bytes]:
        nonlocal count
        for _, line in heapq.merge(*sources, key=lambda pair: pair[0]) if len(sources) > 1 else sources[0]:
            count += 1
            yield line
            if on_line is not None:
                on_line(count)

    given: Iterable[bytes] = every() if sources else ()
    if out.suffix == ".zst":
        import zstandard

        part = out.with_name(out.name + ".part")
        with open(part, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as zipped:
            for line in given:
                zipped.write(line + b"\n")
        os.replace(part, out)
    else:
        parts.save_lines(out, given)
    return count


def kept_lines(work: Path, number: int, drop: np.ndarray, edits: dict[int, bytes]) -> Iterator[tuple[str, bytes]]:
    """(id, line) of a part's records in order, without the places in `drop`, with the lines of `edits`."""
    ids = parts.Ids(work, number)
    gone = np.zeros(len(ids), bool)
    gone[drop] = True
    with open(work / f"part-{number}.jsonl", "rb") as file:
        for place, line in enumerate(file):
            if not gone[place]:
                yield ids[place], edits.get(place) or line[:-1]


Output = tuple[str, list[int]]
"""(name of the output file, the parts that are merged into it)."""


def outputs(paths: Sequence[Path], found: Sequence[dict[str, Any]]) -> list[Output]:
    """The outputs of a stage, one for each input; `found` is what `scan.scanned` returned."""
    by_path: dict[str, list[int]] = {str(path): [] for path in paths}
    for part in found:
        by_path[part["path"]].append(part["part"])
    return [(records.output_name(path), by_path[str(path)]) for path in paths]


def work_folder(tmp: Path) -> Path:
    """A new folder for a stage's files between steps, of a name that no cache of a worker has seen."""
    work = tmp / f"work-{time.time_ns()}"
    work.mkdir()
    return work
