"""Large inputs in pieces: files cut into blocks, blocks turned into parts sorted by id.

A part is what one task holds in memory: about BLOCK_BYTES of lines of one input file. It lies in the work folder as

    part-<number>.jsonl   its records, one a line, sorted by id
    part-<number>.npz     ids (UTF-8, end to end), their ends, text length and quality of each record, line of each

A record is named by `number << 32 | its place in the part`, its handle.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.files import paths as places
from tigerjax.records import records
from tigerjax.records.records import Record

BLOCK_BYTES = 16_000_000
PARTS_A_BLOCK = 1 << 12
"""A .zst file is one block, as it cannot be entered in the middle; it gives so many parts at most."""
SCAN_BYTES = 1 << 20
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
HANDLE_BITS = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Bytes [start, end) of a file, which begin with line `line` (from 1); end None is the end of the file."""

    number: int
    path: Path
    start: int
    end: int | None
    line: int


def blocks(paths: Iterable[Path]) -> list[Block]:
    """The files in blocks that begin with a line; each knows its first line's number, so errors name file and line."""
    out: list[Block] = []
    for path in paths:
        if path.suffix == ".zst":
            out.append(Block(len(out), path, 0, None, 1))
            continue
        begin, line, lines, at = 0, 1, 1, 0
        with places.reading(path) as file:
            while piece := file.read(SCAN_BYTES):
                if at + len(piece) - begin >= BLOCK_BYTES and (last := piece.rfind(b"\n")) >= 0:
                    end = at + last + 1
                    out.append(Block(len(out), path, begin, end, line))
                    begin, line = end, lines + piece.count(b"\n", 0, last + 1)
                lines += piece.count(b"\n")
                at += len(piece)
        if at > begin or at == 0:
            out.append(Block(len(out), path, begin, at, line))
    return out


def lines(block: Block) -> Iterator[tuple[int, bytes]]:
    """(number in the file, bytes) of the block's lines."""
    if block.end is None:
        with jsonl.open_lines(block.path) as every:
            yield from enumerate(every, 1)
        return
    yield from enumerate(io.BytesIO(places.part(block.path, block.start, block.end)), block.line)


def parsed(block: Block, on_bad: records.OnBad | None = None) -> Iterator[tuple[int, Record, bytes]]:
    """(line number, object, line) of the block's records; bad lines raise, or go to `on_bad`, as in `read_jsonl`."""
    for number, line in lines(block):
        if not line.strip():
            continue
        where = f"{block.path}:{number}"
        try:
            yield number, jsonl.parse(where, jsonl.decode(where, line.removeprefix(jsonl.BOM))), line
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error, line)


def dumped(record: Record) -> bytes:
    """The record's line, as `write_jsonl` writes it."""
    return _ENCODE(record).encode()


class Document:
    """One record of a part on its way to the disk."""

    __slots__ = ("identity", "line", "number", "quality", "text")

    def __init__(self, identity: str, line: bytes, number: int, quality: float, text: str):
        self.identity, self.line, self.number, self.quality, self.text = identity, line, number, quality, text


def quality_of(record: Record) -> float:
    """`meta.quality` where it is a number: it says which of two duplicates is better. 0 for a label or none."""
    meta = record.get("meta")
    quality = meta.get("quality") if isinstance(meta, dict) else None
    number = isinstance(quality, int | float) and not isinstance(quality, bool) and abs(quality) < float("inf")
    return float(quality) if number and quality is not None else 0.0


def _document(number: int, record: Record, line: bytes, where: str) -> Document:
    """A document, or an SFT example where there is no text: compared by all its messages."""
    records.refuse_denied(where, record)
    shaped = records.as_document(record, where) if "text" in record else records.as_sft(record, where)
    identity = records.unique_id(where, record, {})
    text = shaped["text"] if "text" in shaped else "\n".join(m["content"] for m in shaped["messages"])
    as_it_is = record.get("id") == identity and shaped.keys() == record.keys()
    own = line.strip() if as_it_is else dumped({**shaped, "id": identity})
    return Document(identity, own.removeprefix(jsonl.BOM), number, quality_of(record), text)


def parts(block: Block) -> Iterator[tuple[int, list[Document]]]:
    """(part number, its documents sorted by id) of a block, about BLOCK_BYTES of lines at a time."""
    held: list[Document] = []
    size = made = 0

    def full() -> tuple[int, list[Document]]:
        if made >= PARTS_A_BLOCK:
            raise DataError(f"{block.path}: more than {PARTS_A_BLOCK} x {BLOCK_BYTES} bytes; split the file")
        return block.number * PARTS_A_BLOCK + made, sorted(held, key=lambda d: d.identity)

    for number, record, line in parsed(block):
        held.append(_document(number, record, line, f"{block.path}:{number}"))
        size += len(line)
        if size >= BLOCK_BYTES:
            yield full()
            held, size, made = [], 0, made + 1
    if held:
        yield full()


class _Written:
    """A file as numpy may only write to it: its own way past Python loses why a write failed (a full disk)."""

    def __init__(self, file: Any):
        self.write = file.write


def save_npy(path: Path, array: np.ndarray) -> None:
    """Writes an .npy file by rename."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        out: Any = _Written(file)
        np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    os.replace(part, path)


def save_array(path: Path, **arrays: np.ndarray) -> None:
    """Writes an .npz by rename, without pickles."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(part, path)


def save_lines(path: Path, made: Iterable[bytes]) -> None:
    """Writes lines by rename."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.writelines(line + b"\n" for line in made)
    os.replace(part, path)


def save(work: Path, number: int, documents: Sequence[Document]) -> None:
    """Writes the two files of a part."""
    save_lines(work / f"part-{number}.jsonl", (d.line for d in documents))
    save_ids(work, number, documents)


def save_ids(work: Path, number: int, documents: Sequence[Document]) -> None:
    """Writes a part's ids and figures."""
    ids = [d.identity.encode("utf-8", "surrogatepass") for d in documents]
    save_array(
        work / f"part-{number}.npz",
        ids=np.frombuffer(b"".join(ids), np.uint8),
        ends=np.cumsum([len(i) for i in ids], dtype=np.int64),
        length=np.array([len(d.text) for d in documents], np.int64),
        quality=np.array([d.quality for d in documents], np.float64),
        line=np.array([d.number for d in documents], np.int64),
    )


class Ids:
    """The ids and figures of a part, by place."""

    def __init__(self, work: Path, number: int):
        with np.load(work / f"part-{number}.npz", allow_pickle=False) as found:
            self._bytes, self._ends = found["ids"].tobytes(), found["ends"]
            self.length, self.quality, self.line = found["length"], found["quality"], found["line"]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> str:
        start = int(self._ends[place - 1]) if place else 0
        return self._bytes[start : int(self._ends[place])].decode("utf-8", "surrogatepass")


def handles(number: int, count: int) -> np.ndarray:
    """uint64 names of the first `count` records of a part."""
    return (np.uint64(number) << np.uint64(HANDLE_BITS)) + np.arange(count, dtype=np.uint64)


def split_handles(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(part, place) of each handle."""
    return (given >> np.uint64(HANDLE_BITS)).astype(np.int64), (given & np.uint64(0xFFFFFFFF)).astype(np.int64)


def save_entries(work: Path, what: str, number: int, entry_keys: np.ndarray, entries: np.ndarray) -> None:
    """Writes (key, entry) pairs of a part sorted by key, so that a shard reads its range of keys only."""
    order = np.argsort(entry_keys, kind="stable")
    save_npy(work / f"{what}-{number}.npy", np.stack([entry_keys[order], entries[order]]))


def load_entries(work: Path, what: str, numbers: Sequence[int], shard: int, shards: int) -> tuple[np.ndarray, ...]:
    """(keys, entries) of one shard, sorted by key and entry: shard s of S has the keys in [s, s + 1) x 2^64 / S."""
    low, high = shard * 2**64 // shards, (shard + 1) * 2**64 // shards
    found = []
    for number in numbers:
        entries = np.load(work / f"{what}-{number}.npy", mmap_mode="r", allow_pickle=False)
        first = np.searchsorted(entries[0], np.uint64(low))
        last = entries.shape[1] if high == 2**64 else np.searchsorted(entries[0], np.uint64(high))
        found.append(np.array(entries[:, first:last]))
    pairs = np.concatenate(found, axis=1) if found else np.zeros((2, 0), np.uint64)
    order = np.lexsort((pairs[1], pairs[0]))
    return pairs[0][order], pairs[1][order]


def runs(sorted_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[start, end) of each run of two or more equal keys."""
    if not len(sorted_keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
    ends = np.append(starts[1:], len(sorted_keys))
    many = ends - starts > 1
    return starts[many], ends[many]
