"""The first step of a stage on large inputs: files are cut into parts, each part is scanned, and ids are compared."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax import records
from tigerjax.errors import ConfigError
from tigerjax.files import jsonl
from tigerjax.stages import parts, repeats
from tigerjax.stages.runner import Runner

SHARDS = 16
"""Pieces into which hashes are split by their first bits; a worker holds one at a time."""
BATCH_CHARACTERS = 1 << 19


def save_id_hashes(work: Path, number: int, documents: Sequence[parts.Document]) -> None:
    """Writes the hashes of a part's ids, which `repeats.find` compares."""
    from xxhash import xxh3_64_intdigest

    hashed = (xxh3_64_intdigest(d.identity.encode("utf-8", "surrogatepass")) for d in documents)
    hashes = np.fromiter(hashed, np.uint64, len(documents))
    parts.save_entries(work, "ids", number, hashes, parts.handles(number, len(documents)))


def save_met(work: Path, number: int, documents: Sequence[parts.Document], path: Path) -> None:
    """Writes what `repeats.find` needs of a part, for a stage that stores the records of its parts itself."""
    parts.save_ids(work, number, documents, path)
    save_id_hashes(work, number, documents)


Scan = Callable[[int, list[parts.Document]], dict[str, Any]]
"""What a stage does with a part: given (part number, documents), it writes its own files and returns figures."""


def scan_block(
    scan: Scan, work: Path, way: records.Way, block: records.FileBlock, *, shape: records.Shaper = records.as_record
) -> list[dict[str, Any]]:
    """Writes the parts of a block to the work folder and calls `scan` for each; `shape` is that of `parts.parts`.

    Returns one {part, path, records, changed} for each part, with the figures that `scan` returned. `changed` counts
    what happened to the records while they were read.
    """
    out: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for number, documents in parts.parts(block, way, counts, shape):
        parts.save(work, number, documents, block.path)
        save_id_hashes(work, number, documents)
        figures = scan(number, documents)
        about = {"part": number, "path": str(block.path), "records": len(documents), "changed": dict(counts)}
        counts.clear()
        out.append(about | figures)
    if out and counts:  # of records behind the last part
        out[-1]["changed"] = dict(Counter(out[-1]["changed"]) + counts)
    return out


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


def blocks(runner: Runner, work: Path, files: Sequence[Path]) -> list[records.FileBlock]:
    """The files in blocks (`records.blocks`), for which workers read them."""
    return records.blocks(files, lambda cut, given: runner.each(cut, given, work, "blocks"))


class Taken(NamedTuple):
    """As what the records of files are taken."""

    ids: records.Ids = "auto"
    """What makes their ids."""
    shape: records.Shaper = records.as_record
    """Which kinds of records are allowed: `records.as_sft` takes SFT examples only."""
    equal: str = repeats.NUMBERED
    """Says what becomes of equal records without an id."""


def scanned(
    runner: Runner,
    scan: Scan,
    work: Path,
    paths: Sequence[Path],
    shards: int,
    taken: Taken,
    step: str = "scan",
) -> list[dict[str, Any]]:
    """Cuts the files into parts and calls `scan` for each; returns {part, path, records, changed, …} of each part.

    Each record has an id of its own then. DataError for an id that a file gives twice and for a file without records.
    """
    work.mkdir(exist_ok=True)
    of_files = blocks(runner, work, paths)
    for way in records.ways(taken.ids):
        name = f"{step}_again" if way == "file" else step
        by_block = runner.each(functools.partial(scan_block, scan, work, way, shape=taken.shape), of_files, work, name)
        found = [part for block in by_block for part in block]
        not_empty = {part["path"] for part in found}
        for path in paths:
            jsonl.refuse_empty(path, str(path) in not_empty)
        files = {part["part"]: part["path"] for part in found}
        met = repeats.find(runner, work, files, shards, f"{name}_ids")
        if not repeats.of_other_files(met, way, taken.ids):
            break
    given = repeats.times(work, shards)
    runner.each(functools.partial(repeats.rename, work), list(given.items()), work, f"{step}_names")
    for part in found:
        part["changed"][records.NUMBERED] = given[part["part"]].shape[1] if part["part"] in given else 0
    records.tell(records.shown(paths), changed(found), {records.NUMBERED: taken.equal})
    return found


def changed(found: Iterable[dict[str, Any]]) -> dict[str, int]:
    """What happened to the records of all parts while they were read, with its counts."""
    total: Counter[str] = Counter()
    for part in found:
        total.update(part["changed"])
    return records.changes(total)


def check_shards(shards: int) -> None:
    """ConfigError for a number of shards that makes no sense."""
    if not 1 <= shards <= 1 << 16:
        raise ConfigError(f"shards={shards} must be in [1, {1 << 16}]")
