"""Cached rows in files: as small as rows can be, and each readable by itself, on a disk or in a bucket.

A folder holds rows-00000.rows, rows-00001.rows, … of about FILE_BYTES. A file is its rows, one after the other, and an
index at its end. So a host reads the index of a file once, and of the rows only those that it trains on: from a bucket
a range of bytes for each row, and nothing is copied first.

All numbers are little-endian. A row of L tokens (`rows.make_row`) is

    uint32      CRC-32 of the rest
    uint32 [3]  bytes per token (2 or 4), runs of segment ids, runs of loss weights
    uint32 [n]  where each run of equal segment ids begins, then their ids
    uint32 [m]  where each run of equal loss weights begins, then the bits of their float32
    uint16 or uint32 [L]  the tokens: 2 bytes each where all ids of the row are below 65,536

and the index of a file of R rows

    uint64 [R + 1]  where each row begins, and where the last one ends
    uint32          CRC-32 of these
    8 bytes         MAGIC
"""

import bisect
import functools
import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tigerjax.errors import DataError
from tigerjax.files import paths

MAGIC = b"TJROWS01"
FILE_BYTES = 1 << 30
"""A file is closed when it has so many, so that an upload that fails loses no more."""
MOST_OPEN = 256
"""Files of a disk that are held open: to open one through a mount of a bucket is slow."""
HEAD, END = 16, 4 + len(MAGIC)
AGAIN = "remove the folder, and `tigerjax data cache` makes it again"
FIGURES = {"rows": int, "tokens": int, "rows_sha256": str, "files": list}
"""What `write` returns."""


def name(number: int) -> str:
    """The file of this number in a folder of rows."""
    return f"rows-{number:05}.rows"


def _runs(values: np.ndarray) -> np.ndarray:
    """[2, n] uint32: where each run of equal values begins, and its value."""
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    return np.stack([starts, values[starts]]).astype("<u4")


def encoded(row: np.ndarray) -> bytes:
    """The bytes of a row int32 [3, L]."""
    tokens, segments, weights = row.astype(np.int32, copy=False).view(np.uint32)
    wide = 2 if tokens.max(initial=0) < 1 << 16 else 4
    runs = [_runs(segments), _runs(weights)]
    head = np.array([wide, runs[0].shape[1], runs[1].shape[1]], "<u4")
    parts = [head, *runs, tokens.astype(f"<u{wide}")]
    rest = b"".join(part.tobytes() for part in parts)
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def decoded(data: bytes, length: int) -> np.ndarray:
    """The row int32 [3, L] of L = `length` tokens. ValueError for bytes that are not those of `encoded`."""
    if len(data) < HEAD or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
        raise ValueError("a row has another checksum")
    wide, segments, weights = (int(n) for n in np.frombuffer(data, "<u4", 3, 4))
    if wide not in (2, 4) or len(data) != HEAD + 8 * (segments + weights) + wide * length:
        raise ValueError("a row has another length")
    row = np.empty((3, length), np.int32)
    at = HEAD
    for line, count in ((row[1], segments), (row[2], weights)):
        starts, values = np.frombuffer(data, "<u4", 2 * count, at).reshape(2, count)
        line[:] = np.repeat(values.view("<i4"), np.diff(np.append(starts, length)))
        at += 8 * count
    row[0] = np.frombuffer(data, f"<u{wide}", length, at)
    return row


class _File:
    """A file of rows that is being written."""

    def __init__(self, file: BinaryIO):
        self.file, self.ends = file, [0]

    def add(self, row: np.ndarray) -> None:
        data = encoded(row)
        self.file.write(data)
        self.ends.append(self.ends[-1] + len(data))

    def close(self) -> dict[str, int]:
        index = np.array(self.ends, "<u8").tobytes()
        self.file.write(index + zlib.crc32(index).to_bytes(4, "little") + MAGIC)
        self.file.close()
        return {"rows": len(self.ends) - 1, "bytes": self.ends[-1] + len(index) + END}


def write(folder: str | Path, rows: Iterable[np.ndarray]) -> dict[str, Any]:
    """Writes rows int32 [3, L] to a folder of the disk; returns {rows, tokens, rows_sha256, files}.

    `rows_sha256` is of the rows and not of the files: rows of another format that are the same have the same. `files`
    has the rows and bytes of each file.
    """
    digest, tokens = hashlib.sha256(), 0
    files: list[dict[str, int]] = []
    open_file: _File | None = None
    for row in rows:
        if open_file is None:
            open_file = _File((Path(folder) / name(len(files))).open("xb"))
        open_file.add(row)
        digest.update(row.astype("<i4").tobytes())
        tokens += int(np.count_nonzero(row[1]))
        if open_file.ends[-1] >= FILE_BYTES:
            files.append(open_file.close())
            open_file = None
    if open_file is not None:
        files.append(open_file.close())
    return {
        "rows": sum(file["rows"] for file in files),
        "tokens": tokens,
        "rows_sha256": digest.hexdigest(),
        "files": files,
    }


@functools.lru_cache(maxsize=MOST_OPEN)
def _opened(path: Path, rows_sha256: str) -> BinaryIO:
    """A file that stays open until others have taken its place. The hash tells a file from a later one of its name."""
    return path.open("rb")


class RowFiles:
    """The rows of a folder, by number. Held in memory: 8 bytes for each row of a file from which one was read."""

    def __init__(self, folder: Path, figures: Mapping[str, Any], length: int):
        """`figures` are those that `write` returned. Nothing is read yet."""
        self._folder, self._length = folder, length
        self._files: list[dict[str, int]] = figures["files"]
        self._sha256: str = figures["rows_sha256"]
        self._firsts = np.cumsum([0, *(file["rows"] for file in self._files)]).tolist()
        self._starts: dict[int, np.ndarray] = {}

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """The rows int32 [n, 3, L] of these numbers. DataError for a damaged one, with its file."""
        places = [(at := bisect.bisect_right(self._firsts, n) - 1, n - self._firsts[at]) for n in numbers]
        self._read_indices(sorted({file for file, _ in places} - self._starts.keys()))
        spans = [(file, int(self._starts[file][row]), int(self._starts[file][row + 1])) for file, row in places]
        rows = np.empty((len(numbers), 3, self._length), np.int32)
        for n, (data, (file, _, _)) in enumerate(zip(self._parts(spans), spans, strict=True)):
            try:
                rows[n] = decoded(data, self._length)
            except ValueError as error:
                raise self._damaged(file, error) from error
        return rows

    def _read_indices(self, files: Sequence[int]) -> None:
        spans = []
        for file in files:
            size = self._files[file]["bytes"]
            spans.append((file, size - END - 8 * (self._files[file]["rows"] + 1), size))
        for file, data in zip(files, self._parts(spans), strict=True):
            index, check, magic = data[:-END], data[-END : -len(MAGIC)], data[-len(MAGIC) :]
            if magic != MAGIC or zlib.crc32(index) != int.from_bytes(check, "little"):
                raise self._damaged(file, "its index has another checksum")
            self._starts[file] = np.frombuffer(index, "<u8")

    def _parts(self, spans: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """The bytes of each (file, start, stop)."""
        placed = [(self._folder / name(file), start, stop) for file, start, stop in spans]
        try:
            if placed and paths.on_bucket(self._folder):
                return paths.parts(placed)
            return [os.pread(_opened(path, self._sha256).fileno(), stop - start, start) for path, start, stop in placed]
        except OSError as error:
            paths.not_damage(error)
            raise DataError(f"{self._folder}: the rows cannot be read ({error}); {AGAIN}") from error

    def _damaged(self, file: int, why: object) -> DataError:
        return DataError(f"{self._folder / name(file)}: the rows are damaged ({why}); {AGAIN}")
