"""Files of lines, most of them JSONL: plain or compressed; every error names the file and the line.

This is what the stack writes itself. Files that a user brings are read by `tigerjax.records`, which knows more formats.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import packed, paths
from tigerjax.files.foreign import MOST_DEEP, NotJson, loads, refuse_deep
from tigerjax.files.manifest import canonical

Record = dict[str, Any]
OnBad = Callable[[DataError, bytes], None]
"""Called with the error of a broken record and the record's bytes; reading then goes on after it."""
OnBytes = Callable[[int], None]
"""Called with the number of bytes of a file, as it lies on the disk, that have been read."""

_OPENS = re.compile(r'\s*[\[{]?\s*"[^"\\]*"\s*:\s*[\[{]\s*')  # {"data": [
BOM = b"\xef\xbb\xbf"


@contextlib.contextmanager
def open_lines(
    path: str | Path, on_bytes: OnBytes | None = None, most: int = packed.RECORD_BYTES
) -> Iterator[Iterable[bytes]]:
    """The lines of a file, decompressed where its name ends in .zst, .gz or .xz.

    DataError when the file cannot be read, when its compressed data stops before the end, or for a line of more than
    `most` bytes.
    """
    with packed.reading(paths.of(path)) as (file, raw):
        lines = packed.lines(path, file, most)
        yield lines if on_bytes is None else _counted(lines, raw.tell, on_bytes)


def _counted(lines: Iterable[bytes], tell: Callable[[], int], on_bytes: OnBytes) -> Iterator[bytes]:
    for line in lines:
        yield line
        on_bytes(tell())


def decode(where: str, line: bytes) -> str:
    """The line as text; DataError names the byte that is not UTF-8, from 1."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        advice = packed.compression(line) or "save the file as UTF-8"
        raise DataError(f"{where}: invalid UTF-8 at byte {error.start + 1} of the line; {advice}") from error


def named(where: str, record: Record) -> str:
    """`where`, followed by the record's id if it has one: what an error message begins with."""
    identity = record.get("id")
    shown = repr(identity).encode("utf-8", "backslashreplace").decode()  # an id may hold half of a surrogate pair
    return f"{where}: id {shown}" if isinstance(identity, str | int) and identity != "" else where


def _advice(line: str) -> str:
    """What to do with a line that is no JSON."""
    if line.strip() in ("{", "[", "[{") or _OPENS.fullmatch(line):
        return (
            "the file is JSON over several lines; write each record on one line (`jq -c . FILE` for objects one after"
            " another, `jq -c '.[]' FILE` for a list, `jq -c '.data[]' FILE` for a list in the field data)"
        )
    return "correct or remove the line"


def fault(error: json.JSONDecodeError) -> str:
    """What is wrong in a line. Some of Python's messages end with "at", behind which we name the column."""
    return error.msg.removesuffix(" at")


def refused(where: str, error: NotJson) -> DataError:
    """The error of a record that is no JSON although Python reads it."""
    where = named(where, error.record) if isinstance(error.record, dict) else where
    return DataError(f"{where}: broken JSON: {error}; correct or remove the record")


def not_finite(where: str, value: float) -> DataError:
    """The error of a number that no JSON can hold, in a record of another format."""
    return DataError(f"{where}: {value} is no number of JSON; correct the value, or leave it out")


def parse(where: str, text: str) -> Record:
    """The JSON object that `text` holds; DataError for anything else."""
    try:
        record = loads(text)
        if text.count("[") + text.count("{") > MOST_DEEP:
            refuse_deep(record)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON: {fault(error)} at column {error.colno}; {_advice(text)}") from error
    except RecursionError as error:
        raise DataError(f"{where}: broken JSON: nested too deep; correct or remove the line") from error
    except NotJson as error:
        raise refused(where, error) from error
    except ValueError as error:  # a number of too many digits
        raise DataError(f"{where}: broken JSON: {error}; correct or remove the line") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON {type(record).__name__}, but each line must be an object")
    if "\\ud" in text.lower():  # an escape may have named half of a surrogate pair
        try:
            canonical(record)
        except UnicodeEncodeError as error:
            raise DataError(
                f"{named(where, record)}: a lone surrogate (\\ud800-\\udfff) is not a character; remove it"
            ) from error
    return record


def read_jsonl(path: str | Path) -> Iterator[tuple[int, Record]]:
    """(line number from 1, object) of each line of a JSONL file; lines of only spaces hold no record.

    A line that is not UTF-8 or not a JSON object raises DataError with file:line.
    """
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield number, parse(where, decode(where, line.removeprefix(BOM) if number == 1 else line))


def refuse_empty(path: str | Path, count: int) -> None:
    """DataError when a file gave `count` = 0 records: an empty input is nearly always a mistake."""
    if not count:
        raise DataError(
            f"{path}: is empty; leave it out or fill it (where a stage wrote it, its manifest.json says what was"
            " dropped)"
        )


def dumped(record: Record) -> bytes:
    """The line that `write_jsonl` writes for a record, without its newline."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Writes one object per line and returns their number. Compressed by zstandard when the name ends in .zst.

    The file appears by rename once it is complete, so a reader never sees half of it.
    """
    count = 0
    with packed.writing(paths.of(path)) as file:
        for record in records:
            file.write(dumped(record) + b"\n")
            count += 1
    return count
