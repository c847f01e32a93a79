"""One question of a benchmark, and the files that questions are read from."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.errors import DataError
from tigerjax.files import jsonl, paths


class Missing(Exception):
    """Raised for a benchmark without its files, with the path that was looked for. The evaluation leaves the benchmark
    out and is incomplete."""


class Turn(NamedTuple):
    """A message of the user and the answer to it. In plain text the two are joined by a newline, as OpenCompass joins
    them for a model without a chat template."""

    user: str
    assistant: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A question: either options to be compared, or a prompt to be continued."""

    id: str
    group: str
    """A subject or subset. The score of a benchmark is the mean over its groups."""
    shots: tuple[Turn, ...] = ()
    options: tuple[Turn, ...] = ()
    """Whole alternatives; the likeliest one is the answer."""
    prompt: str = ""
    """The text that is continued, when there are no options."""
    gold: Any = None
    """The index of the right option, or what the judge of the benchmark compares with."""


def find(folder: Path, *names: str) -> Path:
    """The first of `names` that is a file in the folder; Missing names the first one."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise Missing(str(folder / names[0]))


def among(folder: Path, ending: str) -> list[Path]:
    """The files of a folder whose names end so, in order of name."""
    return [folder / name for name in paths.names(folder) if name.endswith(ending)]


def text_of(path: Path) -> str:
    """A UTF-8 file without its byte order mark, its line ends as newlines."""
    with paths.reading(path) as raw:
        return io.TextIOWrapper(raw, encoding="utf-8-sig").read()


def need(record: dict[str, Any], where: str, *fields: str) -> list[Any]:
    """The values of fields; DataError with file and line names those that are not there."""
    missing = [f for f in fields if record.get(f) is None]
    if missing:
        raise DataError(f"{where}: lacks {', '.join(missing)}; has {', '.join(sorted(map(str, record)))}")
    return [record[f] for f in fields]


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of a JSONL file."""
    for number, record in jsonl.read_jsonl(path):
        yield f"{path}:{number}", record


def json_file(path: Path) -> Any:
    """The one JSON value of a file."""
    try:
        return json.loads(text_of(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); download it again") from error


def csv_rows(path: Path, header: tuple[str, ...] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, {column: text}) of a CSV file; `header` names the columns of one that has no first line of names."""
    try:
        text = text_of(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), fieldnames=header)
    row: dict[Any, Any]
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row:
            raise DataError(f"{where}: {len(row) - 1 + len(row[None])} columns, needs {len(reader.fieldnames or ())}")
        yield where, row


def labels(path: Path, count: int) -> list[int]:
    """Integers, one a line, for `count` questions."""
    lines = text_of(path).split()
    if len(lines) != count or not all(line.lstrip("-").isdigit() for line in lines):
        raise DataError(f"{path}: {len(lines)} labels for {count} questions; each line needs one number")
    return [int(line) for line in lines]


def letter(text: Any, options: str, where: str) -> int:
    """The index of an answer letter."""
    name = str(text).strip().upper()
    if len(name) != 1 or name not in options:
        raise DataError(f"{where}: answer {text!r} is not one of {', '.join(options)}")
    return options.index(name)


def index(value: Any, count: int, where: str, first: int = 0) -> int:
    """A label as an index from 0, given counted from `first`."""
    try:
        at = int(value) - first
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: label {value!r} is not a number") from error
    if not 0 <= at < count:
        raise DataError(f"{where}: label {value!r} is not one of {first}..{first + count - 1}")
    return at
