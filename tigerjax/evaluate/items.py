"""One question of a benchmark, and the files that questions are read from."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.errors import DataError
from tigerjax.files import jsonl, paths
from tigerjax.files.foreign import loads
from tigerjax.records.text_files import numbered_rows

KINDS: dict[type, str] = {
    str: "a text",
    list: "a list",
    dict: "an object {…}",
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point",
    type(None): "null",
}
"""What a JSON value is called in a message."""
MOST_NAMES = 12
"""So many fields of a record are named in a message."""


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


def need(record: Any, where: str, *fields: str) -> list[Any]:
    """The values of fields; DataError with file and line names those that are not there."""
    of_kind(record, dict, where, "this")
    missing = [f for f in fields if record.get(f) is None]
    if missing:
        has = ", ".join(f"{name!s:.40}" for name in sorted(map(str, record))[:MOST_NAMES])
        raise DataError(f"{where}: lacks {', '.join(missing)}; has {has.encode(errors='replace').decode()}")
    return [record[f] for f in fields]


def texts(record: Any, where: str, *fields: str) -> list[str]:
    """The values of fields that hold text."""
    values = need(record, where, *fields)
    for field, value in zip(fields, values, strict=True):
        of_kind(value, str, where, field)
    return values


def text_list(record: Any, where: str, field: str, least: int = 1) -> list[str]:
    """The value of a field that holds a list of at least `least` texts. DataError for fewer."""
    (value,) = need(record, where, field)
    of_kind(value, list, where, field)
    for n, text in enumerate(value):
        of_kind(text, str, where, f"{field}[{n}]")
    if len(value) < least:
        raise DataError(f"{where}: {field} has {len(value)} texts, needs {least}")
    return value


def objects(record: Any, where: str, field: str) -> list[Any]:
    """The value of a field that holds a list of objects."""
    (value,) = need(record, where, field)
    of_kind(value, list, where, field)
    for n, one in enumerate(value):
        of_kind(one, dict, where, f"{field}[{n}]")
    return value


def of_kind(value: Any, kind: type, where: str, field: str) -> None:
    """DataError unless the value of a field is of the kind that the benchmark has there."""
    if not isinstance(value, kind):
        given = f"{KINDS.get(type(value), type(value).__name__)} ({value!r:.60})"
        raise DataError(f"{where}: {field} is {given}, needs {KINDS[kind]}; download the file again, or mend it")
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(
            f"{where}: {field} holds half a surrogate pair ({value!r:.60}); download the file again, or mend it"
        )


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of a JSONL file."""
    for number, record in jsonl.read_jsonl(path):
        yield f"{path}:{number}", record


def json_file(path: Path) -> Any:
    """The one JSON value of a file. DataError for a file that is not JSON."""
    try:
        return loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); download it again") from error


def csv_rows(path: Path, header: tuple[str, ...] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, {column: text}) of a CSV file; `header` names the columns of one that has no first line of names.

    Raises DataError for a file that is no CSV in UTF-8, and for a row with more or fewer columns.
    """
    try:
        text = text_of(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    rows = numbered_rows(csv.reader(io.StringIO(text, newline="")))
    try:
        names = header or tuple(next(rows, (1, []))[1])
        for number, values in rows:
            where = f"{path}:{number}"
            if lacking := names[len(values) :]:
                raise DataError(
                    f"{where}: the line ends before its columns {', '.join(lacking)}; download the file again, or mend"
                    " it"
                )
            if len(values) > len(names):
                raise DataError(f"{where}: {len(values)} columns, needs {len(names)}")
            yield where, dict(zip(names, values, strict=True))
    except csv.Error as error:
        number, why = error.args
        raise DataError(f"{path}:{number}: not CSV ({why}); download it again") from error


def labels(path: Path, count: int) -> list[int]:
    """Integers, one per line, for `count` questions. DataError for more or fewer of them."""
    try:
        lines = text_of(path).split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; download it again") from error
    if len(lines) != count or not all(re.fullmatch(r"-?[0-9]{1,9}", line) for line in lines):
        raise DataError(f"{path}: {len(lines)} labels for {count} questions; each line needs one number")
    return [int(line) for line in lines]


def letter(text: Any, options: str, where: str) -> int:
    """The index of an answer letter. DataError where it is none of the options."""
    name = str(text).strip().upper()
    if len(name) != 1 or name not in options:
        raise DataError(
            f"{where}: answer {text!r:.60} is not one of {', '.join(options)}; download the file again, or mend it"
        )
    return options.index(name)


def index(value: Any, count: int, where: str, first: int = 0) -> int:
    """A label as an index from 0, given counted from `first`. DataError where it is none."""
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,9}", str(value).strip()):
        raise DataError(f"{where}: label {value!r:.60} is not a whole number; download the file again, or mend it")
    at = int(value) - first
    if not 0 <= at < count:
        raise DataError(
            f"{where}: label {value!r} is not one of {first}..{first + count - 1}; download the file again, or mend it"
        )
    return at
