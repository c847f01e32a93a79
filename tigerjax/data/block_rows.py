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
from tigerjax.data import weighted
from tigerjax.data.tasks import BLOCK, Encoded, RowMaker
from tigerjax.errors import BucketError, DataError, again
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
                identity, made = records.identity(where, record), shaped(record, where)
                own: dict[str, Any] = {"where": where, "id": identity, "record": made}
                if maker.passes:
                    weight = records.document_weight(record, where)
                    own["weight"] = 1.0 if weight is None else weight
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
    """What is made of a group: its ARRAYS, and as JSON or text where its records are, what was counted, an error.

    Where the source chooses among its records, what was counted stands with each record, and how many of the arrays'
    pieces it has: none, where its weight is 0.
    """
    given = [json.loads(record) for record in group["records"]]
    maker.counts.clear()
    met: list[list[Any]] = [[g["where"], *g["id"]] for g in given]
    if maker.chooses():
        made: list[Encoded] = []
        for one, own in zip(given, met, strict=True):
            found = list(maker.encode([one["record"]], length, tok))
            own += [len(found), dict(maker.counts), one.get("weight")]
            made += found
            maker.counts.clear()
    else:
        made = list(maker.encode((g["record"] for g in given), length, tok))
    return {
        "ids": np.array([i for ids, _ in made for i in ids], np.int32),
        "weights": np.array([w for _, weights in made for w in weights], np.float32),
        "sizes": np.array([len(ids) for ids, _ in made], np.int64),
        "met": manifest.canonical(met),
        "counts": manifest.canonical(maker.counts | json.loads(group["changed"])),
        "error": group["error"],
    }


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


class _Chosen:
    """What a source chooses of its records, in the pass of this number."""

    def __init__(self, maker: RowMaker, number: int):
        self._maker, self._number = maker, number
        self._choose, self.held_out = maker.split.chooser(), 0

    def times(self, identity: str, counts: Mapping[str, int], weight: float | None) -> int:
        """How often a record goes on, which adds to the counts of the maker."""
        maker = self._maker
        if maker.split.share and self._choose(identity):
            self.held_out += 1
            return 0
        if not maker.passes:
            copies = 1
        else:
            copies = weighted.copies(identity, weight or 0.0, self._number, maker.passes, maker.counts)
        for what, more in counts.items() if copies else ():
            maker.count(what, more * copies)
        return copies

    def end(self) -> None:
        """Called after all records."""
        self._choose.refuse_strangers()
        if self._maker.split.share:
            self._maker.counts["held_out"] = self.held_out


def _read(maker: RowMaker, shards: int, work: Path, number: int = 0) -> Iterator[Encoded]:
    """What the workers encoded, in order, of the pass of this number.

    Adds their counts to the maker's, raises their errors, and refuses an id that two records have.
    """
    seen, chosen = records.SeenIds(), _Chosen(maker, number) if maker.chooses() else None
    for shard in range(shards):
        if not (work / f"shard-{shard}.npz").is_file():
            continue  # a block without a record
        times: list[int] = []
        for met, counts, error in json.loads((work / f"shard-{shard}.json").read_text(encoding="utf-8")):
            for where, identity, made, *own in met:
                final = seen.take(where, records.Identity(identity, made))
                if chosen is not None:
                    pieces, counted, weight = own
                    times += [chosen.times(final, counted, weight)] * pieces
            for what, more in counts.items() if not number else ():
                maker.count(what, more)
            if error:
                kind, _, message = error.partition(": ")
                raise again(kind, message)
        with np.load(work / f"shard-{shard}.npz", allow_pickle=False) as file:
            ids, weights, sizes = file["ids"], file["weights"].astype(float), file["sizes"]
        ends = np.cumsum(sizes)
        for place, (start_at, end) in enumerate(zip((ends - sizes).tolist(), ends.tolist(), strict=True)):
            for _ in range(times[place] if chosen is not None else 1):
                yield ids[start_at:end].tolist(), weights[start_at:end].tolist() if maker.kind == "sft" else ()
    if chosen is not None:
        chosen.end()
    maker.counts.update(seen.counts)


Encode = Callable[[RowMaker, Sequence[records.FileBlock], int, Runner, Path], None]
"""`encode`, or what else encodes the blocks."""


def rows(
    maker: RowMaker, paths: Sequence[Path], length: int, runner: Runner, work: Path, encode_all: Encode
) -> Iterator[np.ndarray]:
    """The rows int32 [3, length] of a source's files: those of `maker.make(maker.read(), length)`.

    `work` is the path of a new folder that all workers see.
    """
    work.mkdir()
    blocks = scan.blocks(runner, work, paths)
    maker.counts.clear()
    encode_all(maker, blocks, length, runner, work)
    met = {block.path for n, block in enumerate(blocks) if (work / f"shard-{n}.npz").is_file()}
    for path in paths:
        jsonl.refuse_empty(path, path in met)
    maker.counts.clear()
    tok = Tokenizer(Path(maker.tokenizer))
    if not maker.passes:
        yield from maker.rows(_read(maker, len(blocks), work), length, tok)
        return
    maker.pass_rows[:] = [0] * maker.passes
    for number in range(maker.passes):
        for row in maker.rows(_read(maker, len(blocks), work, number), length, tok):
            maker.pass_rows[number] += 1
            yield row
