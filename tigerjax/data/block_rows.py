"""Makes the rows of a source by blocks, which many workers read and tokenise side by side.

A source's files are cut into blocks (`records.blocks`). A worker writes what it made of a block to a file in the work
folder. One process reads these files in order and cuts rows, about as fast as it could copy them, because the end of
one document and the begin of the next share a row. The rows are the same as without workers. On Beam SeqIO's caching
brings the blocks to the workers (`beam_cache`), on every other runner a step of the stage does.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.data.tasks import BLOCK, Encoded, RowMaker
from tigerjax.errors import BucketError, ConfigError, DataError, again
from tigerjax.files import jsonl, manifest, paths
from tigerjax.stages import parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.tokenizer.load import Tokenizer

ARRAYS = ("ids", "weights", "sizes")


def groups(maker: RowMaker, block: records.FileBlock) -> Iterator[dict[str, Any]]:
    """The validated records of a block, BLOCK at a time, as JSON {where, id, record}. An error is the last value."""
    group: list[bytes] = []
    error = ""
    changed: dict[str, int] = {}
    shaped: Callable[[records.Record, str], records.Record] = records.as_document
    if maker.kind != "documents":
        shaped = functools.partial(records.as_sft, counts=changed)
    try:
        with paths.bucket_errors():
            for number, record, _ in records.read_block(block):
                where = f"{block.path}:{number}"
                records.refuse_denied(where, record)
                own = {"where": where, "id": records.identity(where, record), "record": shaped(record, where)}
                group.append(manifest.canonical(own))
                if len(group) == BLOCK:
                    yield {"records": group, "changed": manifest.canonical(changed), "error": ""}
                    group = []
                    changed.clear()
    except (DataError, BucketError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    if group or error:
        yield {"records": group, "changed": manifest.canonical(changed), "error": error}


def encoded(maker: RowMaker, length: int, tok: Tokenizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """What is made of a group: its ARRAYS, and as JSON or text where its records are, what was counted, an error."""
    given = [json.loads(record) for record in group["records"]]
    maker.counts.clear()
    made = list(maker.encode((g["record"] for g in given), length, tok))
    return {
        "ids": np.array([i for ids, _ in made for i in ids], np.int32),
        "weights": np.array([w for _, weights in made for w in weights], np.float32),
        "sizes": np.array([len(ids) for ids, _ in made], np.int64),
        "met": manifest.canonical([[g["where"], *g["id"], _weighed(maker, g["record"])] for g in given]),
        "counts": manifest.canonical(maker.counts | json.loads(group["changed"])),
        "error": group["error"],
    }


def _weighed(maker: RowMaker, record: records.Record) -> list[Any] | None:
    """[weight, characters] of a document that has a weight."""
    if maker.kind != "documents" or "weight" not in record:
        return None
    return [record["weight"], len(record["text"])]


def save(work: Path, shard: int, made: Sequence[Mapping[str, Any]]) -> None:
    """Writes what was made of the groups of a block, in order."""
    arrays = {name: np.concatenate([g[name] for g in made]) for name in ARRAYS}
    about = [[json.loads(g["met"]), json.loads(g["counts"]), g["error"]] for g in made]
    manifest.write_json(work / f"shard-{shard}.json", about)
    parts.save_array(work / f"shard-{shard}.npz", **arrays)


def encode(maker: RowMaker, blocks: Sequence[records.FileBlock], length: int, runner: Runner, work: Path) -> None:
    """Has the blocks encoded by a step of the runner."""
    runner.each(functools.partial(_encode_block, maker, length, work), blocks, work, "encode")


def _encode_block(maker: RowMaker, length: int, work: Path, block: records.FileBlock) -> None:
    tok = Tokenizer(Path(maker.tokenizer))
    if made := [encoded(maker, length, tok, group) for group in groups(maker, block)]:
        save(work, block.number, made)


def _read(maker: RowMaker, shards: int, work: Path) -> Iterator[Encoded]:
    """What the workers encoded, in order.

    Adds their counts to the maker's, raises their errors, and refuses an id that two records have.
    """
    seen = records.SeenIds()
    for shard in range(shards):
        if not (work / f"shard-{shard}.npz").is_file():
            continue  # a block without a record
        often: list[int] = []
        for met, counts, error in json.loads((work / f"shard-{shard}.json").read_text(encoding="utf-8")):
            for what, more in counts.items():
                maker.counts[what] = maker.counts.get(what, 0) + more
            for where, given, made, weighed in met:
                identity = seen.take(where, records.Identity(given, made))
                often.append(maker.times(identity, {"weight": weighed[0]}) if weighed else 1)
                if often[-1] != 1:  # the worker counted it once
                    maker.counts["records"] += often[-1] - 1
                    maker.counts["characters"] += (often[-1] - 1) * weighed[1]
            if error:
                kind, _, message = error.partition(": ")
                raise again(kind, message)
        with np.load(work / f"shard-{shard}.npz", allow_pickle=False) as file:
            ids, weights, sizes = file["ids"], file["weights"].astype(float), file["sizes"]
        ends = np.cumsum(sizes)
        often = often if len(often) == len(sizes) else [1] * len(sizes)  # "plain" leaves records out
        for start_at, end, copies in zip((ends - sizes).tolist(), ends.tolist(), often, strict=True):
            one = ids[start_at:end].tolist(), weights[start_at:end].tolist() if maker.kind == "sft" else ()
            yield from [one] * copies
    maker.counts.update(seen.counts)


Encode = Callable[[RowMaker, Sequence[records.FileBlock], int, Runner, Path], None]
"""`encode`, or what else encodes the blocks."""


def rows(
    maker: RowMaker, paths: Sequence[Path], length: int, runner: Runner, work: Path, encode_all: Encode
) -> Iterator[np.ndarray]:
    """The rows int32 [3, length] of a source's files: those of `maker.make(maker.read(), length)`.

    `work` is the path of a new folder that all workers see.

    Raises ConfigError for a source that holds records out, which only one process can.
    """
    if maker.split.share:  # by ids, which are whole only where all files are read in order
        raise ConfigError("the source holds records out, which only local does; make its rows with --runner local")
    work.mkdir()
    blocks = scan.blocks(runner, work, paths)
    maker.counts.clear()
    encode_all(maker, blocks, length, runner, work)
    met = {block.path for n, block in enumerate(blocks) if (work / f"shard-{n}.npz").is_file()}
    for path in paths:
        jsonl.refuse_empty(path, path in met)
    maker.counts.clear()
    yield from maker.rows(_read(maker, len(blocks), work), length, Tokenizer(Path(maker.tokenizer)))
