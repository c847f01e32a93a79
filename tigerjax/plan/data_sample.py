"""A sample of a large input, as JSONL, without reading the input."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.records import formats

MOST_FILES, PLACES = 64, 16
"""A sample is taken from at most so many files, spread evenly, and from so many places of each."""
LINES = (".jsonl", ".ndjson")
"""Files that can be entered anywhere: a record is a line."""


def sizes(files: Sequence[Path]) -> tuple[float, list[Path]]:
    """(megabytes of lines of JSON, the files whose size says nothing about these: compressed, or of another format)."""
    plain = [path for path in files if path.name.endswith(LINES)]
    return sum(path.stat().st_size for path in plain) / 1e6, [path for path in files if path not in plain]


def write(files: Sequence[Path], megabytes: float, out: Path, reading: records.Reading) -> float:
    """Writes about so many megabytes of the records of the files; returns how many they are.

    From a file of lines they come from PLACES spread evenly, from any other one from its begin. DataError where there
    are none.
    """
    chosen = [files[i * len(files) // min(len(files), MOST_FILES)] for i in range(min(len(files), MOST_FILES))]
    quota = int(megabytes * 1e6 / len(chosen))
    with out.open("wb") as file:
        for path in chosen:
            lines = _lines(path, quota) if path.name.endswith(LINES) else _records(path, quota, reading)
            file.writelines(lines)
    if not (written := out.stat().st_size):
        raise DataError(f"{chosen[0]}: no record to sample; name files with records")
    return written / 1e6


def _lines(path: Path, quota: int) -> Iterator[bytes]:
    size = path.stat().st_size
    places = PLACES if quota < size / 2 else 1
    last = 0
    with path.open("rb") as file:
        for place in range(places):
            file.seek(max(last, place * size // places))
            if place and file.tell() > last:
                file.readline()  # the rest of a line
            left = quota // places
            while left > 0 and (line := file.readline()):
                left -= len(line)
                yield line if line.endswith(b"\n") else line + b"\n"
            last = file.tell()


def _records(path: Path, quota: int, reading: records.Reading) -> Iterator[bytes]:
    for _, record in formats.read(path, reading=reading):
        line = jsonl.dumped(record) + b"\n"
        yield line
        quota -= len(line)
        if quota <= 0:
            return
