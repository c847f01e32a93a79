"""JSONL and text files line by line: plain or zstandard, with file and line in every error, written by rename."""

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.files.manifest import canonical

Record = dict[str, Any]
OnBad = Callable[[DataError, bytes], None]
At = Callable[[int], None]
"""Is told how many bytes of a file have been read."""

BOM = b"\xef\xbb\xbf"


@contextlib.contextmanager
def open_lines(path: str | Path, at: At | None = None) -> Iterator[Iterable[bytes]]:
    """The lines of a file, decompressed where its name ends in .zst. DataError when it cannot be read to its end."""
    path = paths.of(path)
    try:
        raw = paths.reading(path)
    except OSError as error:
        paths.not_damage(error)
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    with raw:
        if path.suffix != ".zst":
            yield raw if at is None else _told(raw, raw, at)
            return
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
                unzipped: Any = stream
                lines = io.BufferedReader(unzipped)
                yield lines if at is None else _told(lines, raw, at)
        except zstandard.ZstdError as error:
            raise DataError(f"{path}: not a whole zstandard file: {error}") from error


def _told(lines: Iterable[bytes], raw: io.BufferedReader, at: At) -> Iterator[bytes]:
    for line in lines:
        yield line
        at(raw.tell())


def decode(where: str, line: bytes) -> str:
    """The line as text; DataError names the byte that is not UTF-8, from 1."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: invalid UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
        ) from error


def named(where: str, record: Record) -> str:
    """A record's place with its id, where it has one."""
    identity = record.get("id")
    shown = repr(identity).encode("utf-8", "backslashreplace").decode()  # it may hold the half of a pair itself
    return f"{where}: id {shown}" if isinstance(identity, str | int) and identity != "" else where


def parse(where: str, text: str) -> Record:
    """The JSON object of a line; DataError for anything else."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise DataError(f"{where}: broken JSON: nested too deep") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise DataError(f"{where}: broken JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON {type(record).__name__}, but each line must be an object")
    if "\\ud" in text.lower():  # an escape may have named half of a surrogate pair
        try:
            canonical(record)
        except UnicodeEncodeError as error:
            raise DataError(f"{named(where, record)}: a lone surrogate (\\ud800-\\udfff) is not a character") from error
    return record


def read_jsonl(path: str | Path, *, on_bad: OnBad | None = None, at: At | None = None) -> Iterator[tuple[int, Record]]:
    """(line number from 1, object) of each line of a .jsonl or .jsonl.zst file; lines of only spaces hold no record.

    A line that is not UTF-8 or not a JSON object raises DataError with file:line, or goes to `on_bad(error, line)`.
    """
    with open_lines(path, at) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = parse(where, decode(where, line.removeprefix(BOM) if number == 1 else line))
            except DataError as error:
                if on_bad is None:
                    raise
                on_bad(error, line)
            else:
                yield number, record


def refuse_empty(path: str | Path, count: int) -> None:
    """DataError for a file of no records: that is a mistake more often than meant."""
    if not count:
        raise DataError(
            f"{path}: is empty; leave it out or fill it (where a stage wrote it, its manifest.json says what was"
            " dropped)"
        )


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Writes one object a line (zstandard when the name ends in .zst), by rename; returns their number."""
    count = 0
    with contextlib.ExitStack() as stack:
        out: Any = stack.enter_context(paths.writing(path := paths.of(path)))
        if path.suffix == ".zst":
            import zstandard

            out = stack.enter_context(zstandard.ZstdCompressor().stream_writer(out, closefd=False))
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
            count += 1
    return count
