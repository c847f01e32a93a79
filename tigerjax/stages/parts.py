"""Parts: the records of a large input in pieces that fit into memory, each sorted by id and written to the disk.

A part is what one task holds in memory: about BLOCK_BYTES of the records of one input, as lines of JSON. It is two
files in the work folder of a stage:

    part-<number>.jsonl   its records, one per line, sorted by id
    part-<number>.npz     the path of the input, and of each record: id (UTF-8, end to end), where the id ends, text
                          length, quality, line number, answers of weight 0, and whether the id was made of the record

A handle names one record of all parts: `number << 32 | its place in the part`.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl, paths
from tigerjax.files.jsonl import Record
from tigerjax.records import block as sizes

PARTS_A_BLOCK = 1 << 12
"""At most so many parts of one block. A file that cannot be entered in the middle, such as a .zst, is one block."""
HANDLE_BITS = 32


class Document:
    """One record of a part before it is written."""

    __slots__ = ("identity", "line", "made", "number", "quality", "text", "untrained")

    def __init__(
        self, identity: records.Identity, line: bytes, number: int, quality: float, text: str, untrained: int = 0
    ):
        self.identity, self.made = identity
        self.line, self.number, self.quality, self.text = line, number, quality, text
        self.untrained = untrained


def quality_of(record: Record) -> float:
    """`meta.quality` if it is a number, else 0. Of two duplicates the one with the higher quality stays."""
    meta = record.get("meta")
    return records.finite_number(meta.get("quality") if isinstance(meta, dict) else None) or 0.0


def untrained_of(record: Record) -> int:
    """How many answers of an SFT example have loss weight 0. Of two duplicates the one with fewer of them stays."""
    answers = record.get("messages", [])[1::2] if "text" not in record else []
    return sum(not record.get("weight", 1.0) or not answer.get("weight", 1.0) for answer in answers)


def _document(
    read: tuple[int, Record, bytes], where: str, way: records.Way, counts: Counter[str], shape: records.Shaper
) -> Document:
    number, record, line = read
    records.refuse_denied(where, record)
    shaped = shape(record, where, counts=counts)
    identity = records.identity(where, record, way)
    unchanged = {**shaped, "id": identity.id} == record
    own = line.strip() if unchanged else jsonl.dumped({**shaped, "id": identity.id})
    return Document(identity, own, number, quality_of(record), records.text_of(shaped), untrained_of(shaped))


def parts(
    block: records.FileBlock, way: records.Way, counts: Counter[str], shape: records.Shaper = records.as_record
) -> Iterator[tuple[int, list[Document]]]:
    """(part number, its documents sorted by id) of a block, about BLOCK_BYTES of lines at a time.

    `shape` says which kinds of records are allowed. `counts` gets what happened to the records (`records.notes`).
    """
    held: list[Document] = []
    size = made = 0

    def full() -> tuple[int, list[Document]]:
        if made >= PARTS_A_BLOCK:
            raise DataError(f"{block.path}: more than {PARTS_A_BLOCK} x {sizes.BLOCK_BYTES} bytes; split the file")
        return block.number * PARTS_A_BLOCK + made, sorted(held, key=lambda d: d.identity)

    for number, record, line in records.read_block(block, on_bad=records.left_out(block, counts)):
        held.append(_document((number, record, line), f"{block.path}:{number}", way, counts, shape))
        size += len(line)
        if size >= sizes.BLOCK_BYTES:
            yield full()
            held, size, made = [], 0, made + 1
    if held:
        yield full()


class _Written:
    """A file that numpy writes to through Python. Given a real file numpy writes past Python, and a full disk is then
    reported without its reason."""

    def __init__(self, file: Any):
        self.write = file.write


def save_npy(path: Path, array: np.ndarray) -> None:
    """Writes an .npy file; it appears by rename once it is complete."""
    with paths.writing(path) as file:
        out: Any = _Written(file)
        np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)


def save_array(path: Path, **arrays: np.ndarray) -> None:
    """Writes an .npz file, without pickles; it appears by rename once it is complete."""
    with paths.writing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def save_lines(path: Path, made: Iterable[bytes]) -> None:
    """Writes a file of lines; it appears by rename once it is complete."""
    with paths.writing(path) as file:
        file.writelines(line + b"\n" for line in made)


def save(work: Path, number: int, documents: Sequence[Document], path: str | Path) -> None:
    """Writes the two files of a part of the input at `path`."""
    save_lines(work / f"part-{number}.jsonl", (d.line for d in documents))
    save_ids(work, number, documents, path)


def save_ids(work: Path, number: int, documents: Sequence[Document], path: str | Path) -> None:
    """Writes a part's ids and figures."""
    _save_ids(
        work / f"part-{number}.npz",
        [d.identity for d in documents],
        length=np.array([len(d.text) for d in documents], np.int64),
        quality=np.array([d.quality for d in documents], np.float64),
        untrained=np.array([d.untrained for d in documents], np.int32),
        line=np.array([d.number for d in documents], np.int64),
        made=np.array([d.made for d in documents], bool),
        of=np.frombuffer(os.fsencode(path), np.uint8),
    )


def _save_ids(path: Path, ids: Iterable[str], **figures: np.ndarray) -> None:
    given = [i.encode("utf-8", "surrogatepass") for i in ids]
    ends = np.cumsum([len(i) for i in given], dtype=np.int64)
    save_array(path, ids=np.frombuffer(b"".join(given), np.uint8), ends=ends, **figures)


def rename(work: Path, number: int, names: Mapping[int, str]) -> None:
    """Gives the records at some places of a part new ids, in both files of the part; their places stay."""
    old = PartIds(work, number)
    figures = {name: getattr(old, name) for name in ("length", "quality", "untrained", "line", "made", "of")}
    ids = [names.get(place, old[place]) for place in range(len(old))]
    _save_ids(work / f"part-{number}.npz", ids, **figures)
    with open(work / f"part-{number}.jsonl", "rb") as file:
        save_lines(work / f"part-{number}.jsonl", (renamed(line[:-1], names.get(n)) for n, line in enumerate(file)))


def renamed(line: bytes, name: str | None) -> bytes:
    """The line of a record with another id; the same line without one."""
    return line if name is None else jsonl.dumped({**json.loads(line), "id": name})


class PartIds:
    """The ids and figures of a part's records, by place in the part."""

    def __init__(self, work: Path, number: int):
        with np.load(work / f"part-{number}.npz", allow_pickle=False) as arrays:
            self._bytes, self._ends = arrays["ids"].tobytes(), arrays["ends"]
            self.length, self.quality, self.line = arrays["length"], arrays["quality"], arrays["line"]
            self.made, self.untrained, self.of = arrays["made"], arrays["untrained"], arrays["of"]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> str:
        start = int(self._ends[place - 1]) if place else 0
        return self._bytes[start : int(self._ends[place])].decode("utf-8", "surrogatepass")

    def where(self, place: int) -> str:
        """What an error about the record begins with: its file, line and id."""
        return jsonl.named(f"{os.fsdecode(self.of.tobytes())}:{self.line[place]}", {"id": self[place]})


def handles(number: int, count: int) -> np.ndarray:
    """uint64 names of the first `count` records of a part."""
    return (np.uint64(number) << np.uint64(HANDLE_BITS)) + np.arange(count, dtype=np.uint64)


def split_handles(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(part, place) of each handle."""
    return (given >> np.uint64(HANDLE_BITS)).astype(np.int64), (given & np.uint64(0xFFFFFFFF)).astype(np.int64)


def range_of(sorted_handles: np.ndarray, number: int) -> tuple[int, int]:
    """[start, end) of the handles of a part among sorted ones."""
    ends = np.array([number, number + 1], np.uint64) << np.uint64(HANDLE_BITS)
    first, last = np.searchsorted(sorted_handles, ends).tolist()
    return first, last


def shard_of(sorted_keys: np.ndarray, shard: int, shards: int) -> tuple[int, int]:
    """[start, end) of the keys of a shard among sorted ones: shard s of S has those in [s, s + 1) x 2^64 / S."""
    low, high = shard * 2**64 // shards, (shard + 1) * 2**64 // shards
    last = len(sorted_keys) if high == 2**64 else int(np.searchsorted(sorted_keys, np.uint64(high)))
    return int(np.searchsorted(sorted_keys, np.uint64(low))), last


def save_entries(work: Path, what: str, number: int, entry_keys: np.ndarray, entries: np.ndarray) -> None:
    """Writes (key, entry) pairs of a part, sorted by key: a worker then reads only the keys of its shard."""
    order = np.argsort(entry_keys, kind="stable")
    save_npy(work / f"{what}-{number}.npy", np.stack([entry_keys[order], entries[order]]))


def load_entries(work: Path, what: str, numbers: Sequence[int], shard: int, shards: int) -> tuple[np.ndarray, ...]:
    """(keys, entries) of one shard, sorted by key and entry."""
    found = []
    for number in numbers:
        entries = np.load(work / f"{what}-{number}.npy", mmap_mode="r", allow_pickle=False)
        found.append(np.array(entries[:, slice(*shard_of(entries[0], shard, shards))]))
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
