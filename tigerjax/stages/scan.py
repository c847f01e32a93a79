"""The first step of a stage on large inputs: files are cut into parts, each part is scanned, and ids are compared."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.stages import parts
from tigerjax.stages.runner import Runner

SHARDS = 16
"""Pieces into which hashes are split by their first bits; a worker holds one at a time."""
BATCH_CHARACTERS = 1 << 19


def save_id_hashes(work: Path, number: int, documents: Sequence[parts.Document]) -> None:
    """Writes the hashes of a part's ids, which `repeated_ids` compares."""
    from xxhash import xxh3_64_intdigest

    hashed = (xxh3_64_intdigest(d.identity.encode("utf-8", "surrogatepass")) for d in documents)
    hashes = np.fromiter(hashed, np.uint64, len(documents))
    parts.save_entries(work, "ids", number, hashes, parts.handles(number, len(documents)))


def save_met(work: Path, number: int, documents: Sequence[parts.Document]) -> None:
    """Writes what `repeated_ids` needs of a part, for a stage that stores the records of its parts itself."""
    parts.save_ids(work, number, documents)
    save_id_hashes(work, number, documents)


Scan = Callable[[int, list[parts.Document]], dict[str, Any]]
"""What a stage does with a part: given (part number, documents), it writes its own files and returns figures."""


def scan_block(scan: Scan, work: Path, block: records.Block) -> list[dict[str, Any]]:
    """Writes the parts of a block to the work folder and calls `scan` for each.

    Returns one {part, path, records} for each part, with the figures that `scan` returned.
    """
    out = []
    for number, documents in parts.parts(block):
        parts.save(work, number, documents)
        save_id_hashes(work, number, documents)
        figures = scan(number, documents)
        out.append({"part": number, "path": str(block.path), "records": len(documents), **figures})
    return out


def repeated_ids(work: Path, numbers: Sequence[int], paths: Sequence[str], shards: int, shard: int) -> list[Any]:
    """[id, place, other place] of the smallest id of a shard that two records share; [] when there is none."""
    where = dict(zip(numbers, paths, strict=True))
    hashes, handles = parts.load_entries(work, "ids", numbers, shard, shards)
    repeated: list[list[str]] = []
    for start, end in zip(*parts.runs(hashes), strict=True):
        seen: dict[str, list[tuple[int, int]]] = {}
        for part, place in zip(*parts.split_handles(handles[start:end]), strict=True):
            ids = parts.Ids(work, int(part))
            seen.setdefault(ids[int(place)], []).append((int(part), int(ids.line[place])))
        for identity, places in seen.items():
            if len(places) > 1:
                repeated.append([identity, *(f"{where[part]}:{line}" for part, line in sorted(places)[:2])])
    return min(repeated, default=[])


def refuse_repeated(repeated: Iterable[list[Any]]) -> None:
    """DataError for the smallest id that occurs twice; `repeated` holds what `repeated_ids` returned of each shard."""
    if worst := min(filter(None, repeated), default=None):
        raise DataError(
            f"{worst[2]}: id {worst[0]!r} occurs a second time; the first is at {worst[1]}; give each record its own"
        )


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, cut into batches of about BATCH_CHARACTERS."""
    first = size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield texts[first : i + 1]
            first, size = i + 1, 0
    if first < len(texts):
        yield texts[first:]


def scanned(
    runner: Runner, scan: Scan, work: Path, paths: Sequence[Path], shards: int, step: str = "scan"
) -> list[dict[str, Any]]:
    """Cuts the files into parts and calls `scan` for each; returns {part, path, records, …} of each part.

    DataError for an id that occurs twice and for a file without records.
    """
    work.mkdir(exist_ok=True)
    by_block = runner.each(functools.partial(scan_block, scan, work), records.blocks(paths), work, step)
    found = [part for block in by_block for part in block]
    not_empty = {part["path"] for part in found}
    for path in paths:
        jsonl.refuse_empty(path, str(path) in not_empty)
    numbers = [part["part"] for part in found]
    check = functools.partial(repeated_ids, work, numbers, [part["path"] for part in found], shards)
    refuse_repeated(runner.each(check, range(shards), work, f"{step}_ids"))
    return found


def check_shards(shards: int) -> None:
    """ConfigError for a number of shards that makes no sense."""
    if not 1 <= shards <= 1 << 16:
        raise ConfigError(f"shards={shards} must be in [1, {1 << 16}]")
