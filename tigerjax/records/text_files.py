"""Files of text: JSONL, one JSON array, plain text and CSV. Each reader yields (number, record or its bytes).

The number is that of the line; in a JSON array it counts the records, from 1.
"""

import collections
import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import jsonl, packed, paths
from tigerjax.files.foreign import NotJson, loads, raw_decode, refuse_deep
from tigerjax.records import block as sizes
from tigerjax.records.block import FileBlock
from tigerjax.records.dialogue import from_table

ARRAY_CHARACTERS = 1 << 20
"""Of a JSON array that are read at one time; more where a record is longer."""
_FIRST_FIELD = re.compile(rb'\{\s*"[\w.-]+"\s*:\s*["\[{\d]')
SPACES = re.compile(r"[ \t\r\n]*")
Span = tuple[int, int, int]
"""(start, end, number of the first record) of a block."""


def lines(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of a block that hold more than spaces; the mark at the beginning of the file (BOM) is left out."""
    if block.end is None:
        with jsonl.open_lines(block.path, on_bytes, block.reading.max_bytes) as every:
            yield from _with_text(every, block.first)
    else:
        yield from _with_text(io.BytesIO(paths.part(block.path, block.start, block.end)), block.first)


def _with_text(given: Iterable[bytes], first: int) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(given, first):
        if number == 1:
            line = line.removeprefix(jsonl.BOM)
        if line.strip():
            yield number, line


def texts(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, bytes]]:
    """The documents of a plain text file, with the number of their first lines: lines, or what `text_unit` says."""
    unit, most = block.reading.text_unit, block.reading.max_bytes
    if unit == "line":
        yield from lines(block, on_bytes)
        return
    with jsonl.open_lines(block.path, on_bytes, most) as every:
        held: list[bytes] = []
        first, size = 1, 0
        for number, line in enumerate(every, 1):
            line = line.removeprefix(jsonl.BOM) if number == 1 else line
            if not line.strip() and (unit == "paragraph" or not held):
                if held:
                    yield first, b"".join(held)
                held, size = [], 0
                continue
            first, size = first if held else number, size + len(line)
            if size > most:
                raise packed.too_long(f"{block.path}:{first}", most)
            held.append(line)
        if held:
            yield first, b"".join(held)


def cut_lines(path: Path, most: int = packed.RECORD_BYTES) -> Iterator[Span]:
    """Blocks of about BLOCK_BYTES that begin with a line; each knows its first line's number, for the errors."""
    begin, line, count, at = 0, 1, 1, 0
    newest = 0  # where the line begins that is being read
    with packed.reading(path) as (file, _):
        while piece := file.read(sizes.SCAN_BYTES):
            if (first := piece.find(b"\n")) < 0 and at + len(piece) - newest > most:
                raise packed.too_long(f"{path}:{count}", most)
            newest = newest if first < 0 else at + piece.rfind(b"\n") + 1
            if at + len(piece) - begin >= sizes.BLOCK_BYTES and (last := piece.rfind(b"\n")) >= 0:
                end = at + last + 1
                yield begin, end, line
                begin, line = end, count + piece.count(b"\n", 0, last + 1)
            count += piece.count(b"\n")
            at += len(piece)
    if at > begin or at == 0:
        yield begin, at, line


def parse_line(where: str, line: bytes) -> jsonl.Record:
    """The object of a line of JSONL."""
    return jsonl.parse(where, jsonl.decode(where, line))


def parse_text(where: str, line: bytes) -> jsonl.Record:
    """A line, paragraph or file of plain text as a document, whose id is the hash of the text."""
    import xxhash

    text = jsonl.decode(where, line).rstrip("\r\n").replace("\r\n", "\n")
    return {"id": xxhash.xxh3_128_hexdigest(text.encode()), "text": text}


def beginning(path: Path) -> bytes:
    """Some of the first bytes of a file, from the first one on that is no space; empty when there is none."""
    with packed.reading(path) as (file, _):
        while piece := file.read(4096):
            if text := piece.removeprefix(jsonl.BOM).lstrip():
                return text
    return b""


def is_jsonl(path: Path) -> bool:
    """Whether the first line of a text file is a JSON object."""
    line = beginning(path).partition(b"\n")[0]
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(loads(line), dict)
    except NotJson as error:  # which is named when its line is read
        return isinstance(error.record, dict)
    except (ValueError, RecursionError):
        return _FIRST_FIELD.match(line) is not None and len(line) > 4000  # it goes on behind what was read


def array(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, Any]]:
    """The values of a file that holds one JSON list, without holding the whole file in memory.

    Raises DataError for a file that is not UTF-8.
    """
    with packed.reading(block.path) as (raw, counted):
        text = io.TextIOWrapper(raw, encoding="utf-8-sig")
        try:
            for number, value in enumerate(_elements(block.path, text, block.reading.max_bytes), 1):
                yield number, value
                if on_bytes is not None:
                    on_bytes(counted.tell())
        except UnicodeDecodeError as error:
            raise DataError(f"{block.path}: invalid UTF-8 ({error.reason}); save the file as UTF-8") from error
        finally:
            text.detach()


def parse_element(where: str, value: Any) -> jsonl.Record:
    """A value of a JSON list, which must be an object.

    Raises DataError for another value, for half a character, and for what only Python takes for JSON.
    """
    if isinstance(value, NotJson):
        raise jsonl.refused(where, value)
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__}, but each element of the list must be an object")
    try:
        refuse_deep(value)
        jsonl.dumped(value)
    except UnicodeEncodeError as error:
        where = jsonl.named(where, value)
        raise DataError(f"{where}: a lone surrogate (\\ud800-\\udfff) is not a character; remove it") from error
    except RecursionError as error:
        raise DataError(f"{jsonl.named(where, value)}: broken JSON: nested too deep; give it fewer levels") from error
    return value


def _elements(path: Path, file: io.TextIOWrapper, most: int) -> Iterator[Any]:
    """The values of a list, decoded one by one from a piece of the text that grows where a value is longer."""
    text, number = file.read(ARRAY_CHARACTERS), 0
    while "[" not in text and (more := file.read(ARRAY_CHARACTERS)):
        text += more
    at = text.index("[") + 1
    while True:
        begin = _after_spaces(text, at)
        if text.startswith("]", begin):
            break
        try:
            if number:
                if not text.startswith(",", begin):
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, begin)
                begin = _after_spaces(text, begin + 1)
            value, end = raw_decode(text, begin)
            if end == len(text) and not isinstance(value, dict | NotJson):
                raise json.JSONDecodeError("a number may go on in the next piece", text, end)
        except (ValueError, RecursionError) as error:
            digits = type(error) is ValueError  # a number of too many digits, which more text does not mend
            if len(text) - at > most and not digits:
                raise packed.too_long(f"{path}:{number + 1}", most) from error
            # Read as much again: what was cut by the end of the piece is whole then.
            if digits or not (more := file.read(max(ARRAY_CHARACTERS, len(text) - at))):
                why = error.msg.removesuffix(" at") if isinstance(error, json.JSONDecodeError) else str(error)
                where = f"{path}:{number + 1}"
                raise DataError(
                    f"{where}: not a whole JSON list: record {number + 1} or the closing ']' is broken or"
                    f" missing ({why}); copy the file or write it again"
                ) from error
            text, at = text[at:] + more, 0
            continue
        yield value
        at, number = end, number + 1
    rest = text[begin + 1 :].strip()
    while not rest and (more := file.read(ARRAY_CHARACTERS)):
        rest = more.strip()
    if rest:
        raise DataError(f"{path}: {rest[:20]!r} follows the JSON list; a .json file holds one list, or JSON lines")


def _after_spaces(text: str, at: int) -> int:
    spaces = SPACES.match(text, at)
    assert spaces is not None
    return spaces.end()


def numbered_rows(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, values) of each row of a `csv.reader`; lines without a character are no rows.

    A row has several lines where a text in quotes does. csv.Error says the number of the row's first line.
    """
    first = 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise csv.Error(first, str(error)) from error
        if values is None:
            return
        if values:
            yield first, values
        first = reader.line_num + 1


def csv_rows(
    block: FileBlock, on_bytes: jsonl.OnBytes | None = None, *, tabs: bool = False
) -> Iterator[tuple[int, jsonl.Record]]:
    """{column: text} of each row; the first one or `Reading.columns` names them. Commas divide them, or `tabs`.

    The number is that of the row's first line. A byte that is not UTF-8 is half a surrogate pair, which `parse_csv`
    refuses. Raises DataError for two columns of one name, and for a file that is no such table in UTF-8.
    """
    path, most = block.path, block.reading.max_bytes
    csv.field_size_limit(min(most, 2**31 - 1))  # 131,072 characters otherwise
    form = "TSV" if tabs else "CSV"
    with packed.reading(path) as (raw, counted):
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(_csv_lines(path, text, most), strict=True, delimiter="\t" if tabs else ",")
        try:
            rows = numbered_rows(reader)
            first, names = (1, list(block.reading.columns)) if block.reading.columns else next(rows, (1, []))
            if not utf8(names):
                advice = packed.compression(beginning(path)) or "save the file as UTF-8"
                raise DataError(f"{path}:{first}: not a {form} file in UTF-8; {advice}")
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(
                    f"{path}:{first}: column {twice[0]!r} stands twice in the first line; rename one of them"
                )
            for number, values in rows:
                row: dict[Any, Any] = dict(itertools.zip_longest(names, values[: len(names)]))
                yield number, row | ({None: values[len(names) :]} if len(values) > len(names) else {})
                if on_bytes is not None:
                    on_bytes(counted.tell())
        except csv.Error as error:
            number, why = error.args
            advice = packed.compression(beginning(path)) or "correct the record, or save the file as UTF-8"
            raise DataError(f"{path}:{number}: not a {form} file in UTF-8: {why}; {advice}") from error
        finally:
            text.detach()


def utf8(values: Iterable[str | None]) -> bool:
    """Whether texts that were read with `surrogateescape` were UTF-8."""
    try:
        "".join(value or "" for value in values).encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_twice(where: str, columns: Sequence[str]) -> None:
    """DataError for two columns of one name: a record holds one value for each name, so the other would be lost."""
    if twice := [name for name, times in collections.Counter(columns).items() if times > 1]:
        raise DataError(f"{where}: has more than one column {twice[0]!r}; rename or remove all but one")


def _csv_lines(path: Path, text: io.TextIOWrapper, most: int) -> Iterator[str]:
    for number in itertools.count(1):
        line = text.readline(most + 1)
        if len(line) > most:
            raise packed.too_long(f"{path}:{number}", most)
        if not line:
            return
        yield line


def parse_csv(where: str, row: dict[Any, Any]) -> jsonl.Record:
    """A row of a CSV file, which has a value for each named column and no more.

    Raises DataError for a row with more values than columns, and for one that is not UTF-8.
    """
    if wrong := [name for name, value in row.items() if name is not None and not utf8([value])]:
        raise DataError(
            f"{jsonl.named(where, row)}: invalid UTF-8 in column {wrong[0]!r}; correct the record, or save the file as"
            " UTF-8"
        )
    if None in row:  # the values that no column is named for
        columns = len(row) - 1
        raise DataError(
            f"{where}: {columns + len(row[None])} values for the {columns} columns of the first line;"
            " put texts with commas in quotes"
        )
    return from_table(row)
