"""What every stage on large inputs begins and ends with: parts scanned, ids checked, parts merged into outputs.

Merging parts that are sorted by id gives outputs that do not depend on the order of lines, the size of blocks or the
number of workers.
"""

import functools
import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.stages import parts
from tigerjax.stages.runner import Runner

SHARDS = 16
"""Pieces into which hashes are split by their first bits; a worker holds one at a time."""
BATCH_CHARACTERS = 1 << 19


def merge(sources: Sequence[Iterable[tuple[str, bytes]]], out: Path, told: Callable[[int], None] | None = None) -> int:
    """Writes lines of sources that are each sorted by their string (an id) to one file, in that order; their number.
    `told` hears of each line's number."""
    count = 0

    def every() -> Iterator[bytes]:
        nonlocal count
        for _, line in heapq.merge(*sources, key=lambda pair: pair[0]) if len(sources) > 1 else sources[0]:
            count += 1
            yield line
            if told is not None:
                told(count)

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


def save_id_hashes(work: Path, number: int, documents: Sequence[parts.Document]) -> None:
    """What `repeated_ids` compares."""
    from xxhash import xxh3_64_intdigest

    hashed = (xxh3_64_intdigest(d.identity.encode("utf-8", "surrogatepass")) for d in documents)
    hashes = np.fromiter(hashed, np.uint64, len(documents))
    parts.save_entries(work, "ids", number, hashes, parts.handles(number, len(documents)))


def save_met(work: Path, number: int, documents: Sequence[parts.Document]) -> None:
    """The ids alone of records that a stage has met, for `repeated_ids`."""
    parts.save_ids(work, number, documents)
    save_id_hashes(work, number, documents)


Scan = Callable[[int, list[parts.Document]], dict[str, Any]]


def scan_block(scan: Scan, work: Path, block: parts.Block) -> list[dict[str, Any]]:
    """One step's task: the block's parts written to the work folder, `scan` asked for more files and figures of each.

    Returns {part, path, records, …} of each.
    """
    out = []
    for number, documents in parts.parts(block):
        parts.save(work, number, documents)
        save_id_hashes(work, number, documents)
        found = scan(number, documents)
        out.append({"part": number, "path": str(block.path), "records": len(documents), **found})
    return out


def repeated_ids(work: Path, numbers: Sequence[int], paths: Sequence[str], shards: int, shard: int) -> list[Any]:
    """The first id of a shard that two records share, as [id, place, other place]; [] when there is none."""
    where = dict(zip(numbers, paths, strict=True))
    found, named = parts.load_entries(work, "ids", numbers, shard, shards)
    said: list[list[str]] = []
    for start, end in zip(*parts.runs(found), strict=True):
        seen: dict[str, list[tuple[int, int]]] = {}
        for part, place in zip(*parts.split_handles(named[start:end]), strict=True):
            ids = parts.Ids(work, int(part))
            seen.setdefault(ids[int(place)], []).append((int(part), int(ids.line[place])))
        for identity, places in seen.items():
            if len(places) > 1:
                said.append([identity, *(f"{where[part]}:{line}" for part, line in sorted(places)[:2])])
    return min(said, default=[])


def refuse_repeated(found: Iterable[list[Any]]) -> None:
    """DataError for the smallest id that occurs twice."""
    if worst := min(filter(None, found), default=None):
        raise DataError(
            f"{worst[2]}: id {worst[0]!r} occurs a second time; the first is at {worst[1]}; give each record its own"
        )


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive texts of about BATCH_CHARACTERS together."""
    first = size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield texts[first : i + 1]
            first, size = i + 1, 0
    if first < len(texts):
        yield texts[first:]


Output = tuple[str, list[int]]
"""Name of an input file and the parts that it was cut into."""


def outputs(paths: Sequence[Path], found: Sequence[dict[str, Any]]) -> list[Output]:
    """What each output file is merged from."""
    by_path: dict[str, list[int]] = {str(path): [] for path in paths}
    for part in found:
        by_path[part["path"]].append(part["part"])
    return [(Path(path).name, numbers) for path, numbers in by_path.items()]


def work_folder(tmp: Path) -> Path:
    """A new folder for a stage's files between steps, of a name that no cache of a worker has seen."""
    work = tmp / f"work-{time.time_ns()}"
    work.mkdir()
    return work


def scanned(
    runner: Runner, scan: Scan, work: Path, paths: Sequence[Path], shards: int, step: str = "scan"
) -> list[dict[str, Any]]:
    """The first step of a stage: parts of all files, `scan`ned; refuses an id that occurs twice in them, and a file
    without records."""
    work.mkdir(exist_ok=True)
    every = runner.each(functools.partial(scan_block, scan, work), parts.blocks(paths), work, step)
    found = [part for block in every for part in block]
    met = {part["path"] for part in found}
    for path in paths:
        jsonl.refuse_empty(path, str(path) in met)
    numbers = [part["part"] for part in found]
    check = functools.partial(repeated_ids, work, numbers, [part["path"] for part in found], shards)
    refuse_repeated(runner.each(check, range(shards), work, f"{step}_ids"))
    return found


def check_shards(shards: int) -> None:
    if not 1 <= shards <= 1 << 16:
        raise ConfigError(f"shards={shards} must be in [1, {1 << 16}]")
