"""Reads Parquet files, Arrow files and folders of the `datasets` library; each row is a record.

A field that is null in a row is left out of its record, as every row has every column. Dates become ISO text.
"""

import datetime
import decimal
import functools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import jsonl, packed, paths
from tigerjax.files.foreign import read_object, shown
from tigerjax.records import block as sizes
from tigerjax.records import pages, unpacked
from tigerjax.records.block import FileBlock
from tigerjax.records.text_files import Span, refuse_twice

ROWS = 1024
"""Turned into Python objects at one time."""
BATCH_BYTES = 64 << 20
"""About the bytes of the rows that are unpacked at one time."""
BATCH_RECORDS = 20
"""A compressed batch of an Arrow file may hold so many of the longest records: 2 GB, as --max-record-mb stands."""
STATE, SPLITS, SPLIT = "state.json", "dataset_dict.json", "train"
"""`save_to_disk` of the `datasets` library writes STATE, or SPLITS for several splits, of which SPLIT is read."""
FILE_MAGIC, STREAM_END = b"ARROW1", b"\xff\xff\xff\xff\0\0\0\0"
"""Arrow's file format begins and ends with the first; its stream format ends with the second."""


def _parquet(path: Path, as_dictionaries: Sequence[str] = ()) -> Any:
    import pyarrow
    import pyarrow.parquet

    copy = paths.fetched(path)
    try:
        file = pyarrow.parquet.ParquetFile(str(copy), read_dictionary=list(as_dictionaries) or None)
        _refuse_names(path, file.schema_arrow)
    except UnicodeDecodeError as error:
        raise _not_named(path, error) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a whole Parquet file: its footer cannot be read ({_line(error)}); copy it or write it again"
        ) from error
    return file


def _refuse_names(path: Path, schema: Any) -> None:
    """DataError where the name of a column, or of a field inside one, is not UTF-8."""
    import pyarrow

    fields, names = [*schema], set[str]()
    try:
        while fields:
            field = fields.pop()
            names.add(field.name)
            kind = field.type.value_type if pyarrow.types.is_dictionary(field.type) else field.type
            fields += [kind.field(n) for n in range(kind.num_fields)]
    except UnicodeDecodeError as error:
        raise _not_named(path, error) from error


def _not_named(path: Path, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{path}: the name of a column is not UTF-8 ({error.reason}); copy the file or write it again")


def parquet(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, jsonl.Record]]:
    """The rows of the block's row groups.

    Raises DataError for a row that is damaged.
    """
    import pyarrow

    number = block.first
    rows, as_dictionaries = _rows_at_once(block)
    with _parquet(block.path, as_dictionaries) as file:
        groups = range(block.start, file.num_row_groups if block.end is None else block.end)
        try:
            for batch in file.iter_batches(rows, row_groups=list(groups)):
                yield from _rows(block, number, batch)
                number += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{block.path}:{number}: this row or a later one of the Parquet file is damaged ({_line(error)}); copy"
                " the file or write it again"
            ) from error


def _rows_at_once(block: FileBlock) -> tuple[int, list[str]]:
    """(how many rows of a block are unpacked at one time, the columns that stay dictionaries until then).

    Raises DataError where a row or a dictionary is too long, or where a page is larger than the file's footer says: the
    file says it before anything is unpacked.
    """
    rows, most, columns = ROWS, block.reading.max_bytes, set[str]()
    with _parquet(block.path) as file, open(paths.fetched(block.path), "rb") as raw:
        said, number = file.metadata, block.first
        chunks = _columns(block.path, raw)
        for group in range(block.start, file.num_row_groups if block.end is None else block.end):
            about, where, of_group = said.row_group(group), f"{block.path}:{number}, row group {group}", chunks[group]
            named = [(said.schema.column(n), chunk) for n, chunk in enumerate(of_group[: len(said.schema)])]
            sizes_of = [_dictionary_bytes(where, raw, schema.path, chunk, most) for schema, chunk in named]
            said_bytes = [about.total_byte_size, sum(chunk.total_uncompressed_size for chunk in of_group)]
            mean = max(said_bytes) / max(1, about.num_rows)
            if mean > most or max(sizes_of, default=0) > most:
                raise packed.too_long(where, most)
            for (schema, chunk), size in zip(named, sizes_of, strict=True):
                if unpacked.of_lists(schema, chunk, size, BATCH_BYTES):
                    columns.add(schema.path)
            # A row may hold the longest text of every dictionary.
            rows = min(rows, int(BATCH_BYTES / max(1.0, mean)), 2 * BATCH_BYTES // max(1, sum(sizes_of)))
            number += about.num_rows
    return max(1, rows), sorted(columns)


@functools.lru_cache(maxsize=1)  # a file has many blocks
def _columns_once(path: Path, size: int, modified_ns: int) -> list[list[pages.Column]]:
    with open(paths.fetched(path), "rb") as file:
        return pages.columns(file, size)


def _columns(path: Path, file: Any) -> list[list[pages.Column]]:
    """The column chunks of each row group of an open Parquet file. Raises DataError for a damaged footer."""
    about = os.fstat(file.fileno())
    try:
        return _columns_once(path, about.st_size, about.st_mtime_ns)
    except pages.Damaged as error:
        raise DataError(f"{path}: the footer of the Parquet file is damaged: {error}; write the file again") from error


def _dictionary_bytes(where: str, file: Any, name: str, column: pages.Column, most: int) -> int:
    """The bytes of the dictionary of a column chunk, unpacked; 0 where it has none.

    Raises DataError for a page whose header is damaged, or is larger than the footer says. `where` names the row group.
    """
    dictionary = total = 0
    try:
        for page in pages.pages(file, column, os.fstat(file.fileno()).st_size):
            total += page.unpacked
            if page.kind == pages.DICTIONARY:
                dictionary = max(dictionary, page.unpacked)
            elif page.unpacked > most * BATCH_RECORDS:
                raise packed.too_long(where, most)
            if total > max(column.total_uncompressed_size, BATCH_BYTES):
                raise pages.Damaged(
                    f"the pages up to it have {total:,} bytes, but the footer says {column.total_uncompressed_size:,}"
                )
    except pages.Damaged as error:
        raise DataError(
            f"{where}: the header of a page of column {name!r} is damaged, or made to fill the memory:"
            f" {error}; copy the file or write it again"
        ) from error
    return dictionary


def cut_parquet(path: Path, most: int = packed.RECORD_BYTES) -> Iterator[Span]:
    """Row groups of about BLOCK_BYTES together."""
    with _parquet(path) as file:
        begin, first, rows, size = 0, 1, 1, 0
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            rows, size = rows + about.num_rows, size + about.total_byte_size
            if size >= sizes.BLOCK_BYTES:
                yield begin, group + 1, first
                begin, first, size = group + 1, rows, 0
        if begin < file.num_row_groups or not begin:
            yield begin, file.num_row_groups, first


def _refuse_bomb(path: Path, batches: Iterator[unpacked.CompressedBatch], most: int) -> None:
    """DataError for a compressed batch whose rows have more than `most` bytes in the mean, or all together more than
    BATCH_RECORDS of the longest records. Nothing of it is unpacked."""
    number = 1
    for batch in batches:
        if batch.unpacked > most * min(max(1, batch.rows), BATCH_RECORDS):
            raise packed.too_long(f"{path}:{number}", most)
        number += batch.rows


def _arrow(path: Path, most: int) -> Iterator[Any]:
    """The record batches of an Arrow file, in its stream format or its file format."""
    import pyarrow
    import pyarrow.ipc

    copy = paths.fetched(path)
    try:
        with pyarrow.memory_map(str(copy)) as file:
            has_footer = file.read(len(FILE_MAGIC)) == FILE_MAGIC
            file.seek(0)
            _refuse_bomb(path, unpacked.packed_batches(memoryview(file.read_buffer()), has_footer), most)
            if has_footer:
                reader = pyarrow.ipc.open_file(file)
                yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
                return
            # The library takes a stream that was cut between two batches for a shorter one.
            file.seek(max(0, file.size() - len(STREAM_END)))
            if file.read() != STREAM_END:
                raise DataError(f"{path}: not a whole Arrow stream: its end is missing; copy it or write it again")
            file.seek(0)
            yield from pyarrow.ipc.open_stream(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Arrow file ({_line(error)}); copy it or write it again") from error


def arrow(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, jsonl.Record]]:
    """The rows of an Arrow file."""
    yield from _all_rows(block, _arrow(block.path, block.reading.max_bytes))


def _all_rows(block: FileBlock, batches: Iterator[Any]) -> Iterator[tuple[int, jsonl.Record]]:
    import pyarrow

    number, path = block.first, block.path
    for batch in batches:
        _refuse_names(path, batch.schema)
        try:
            _refuse_wild(batch)
        except pyarrow.ArrowException as error:
            raise DataError(
                f"{path}:{number}: this row or a later one of the Arrow file is damaged ({_line(error)}); copy the file"
                " or write it again"
            ) from error
        yield from _rows(block, number, batch)
        number += batch.num_rows


def _dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a `datasets` folder, all of which are there; of several splits, those of "train"."""
    if (folder / SPLITS).is_file():
        if not (folder / SPLIT / STATE).is_file():
            there = _json_object(folder / SPLITS).get("splits")
            raise DataError(f"{folder}: has the splits {there}, but {SPLIT!r} is read; name the folder of one split")
        folder = folder / SPLIT
    state = _json_object(folder / STATE)
    try:
        names = [file["filename"] for file in state["_data_files"]]
        if wrong := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
            raise TypeError(f"{shown(wrong[0])} is no file of the folder")
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / STATE}: does not name the dataset's files ({error}); save the dataset again"
        ) from error
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(
            f"{folder}: saved with an index of its rows, which is not read; call dataset.flatten_indices() and save it"
            " again"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DataError(f"{folder}: not a whole dataset: {', '.join(missing)} is missing; copy it or save it again")
    return [folder / name for name in names]


def _json_object(path: Path) -> dict[str, Any]:
    return read_object(path, "save the dataset again")


def dataset(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, jsonl.Record]]:
    """The rows of the block's files of a `datasets` folder."""
    files = _dataset_files(block.path)[block.start : block.end]
    batches = (batch for file in files for batch in _arrow(file, block.reading.max_bytes))
    yield from _all_rows(block, batches)


def cut_dataset(folder: Path, most: int = packed.RECORD_BYTES) -> Iterator[Span]:
    """A block for each Arrow file."""
    first = 1
    for place, file in enumerate(_dataset_files(folder)):
        yield place, place + 1, first
        first += sum(batch.num_rows for batch in _arrow(file, most))


def _refuse_wild(batch: Any) -> None:
    """ArrowInvalid where a damaged column points outside of its own bytes: reading it would end the process.

    A text that is not UTF-8 is left to `_rows`, which names its row.
    """
    import pyarrow

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            text = pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)
            if not text or "UTF8" not in str(error):
                raise


def _rows(block: FileBlock, number: int, batch: Any) -> Iterator[tuple[int, jsonl.Record]]:
    path, most = block.path, block.reading.max_bytes
    refuse_twice(str(path), batch.schema.names)
    for start, part, size in unpacked.pieces(batch, ROWS, min(most, BATCH_BYTES)):
        if size > most:  # of one row, which is not made an object of Python
            raise packed.too_long(f"{path}:{number + start}", most)
        yield from _objects(path, number + start, part)


def _objects(path: Path, number: int, batch: Any) -> Iterator[tuple[int, jsonl.Record]]:
    try:
        yield from enumerate(batch.to_pylist(), number)
    except (ValueError, ArithmeticError):  # one by one, to name the row
        for place in range(batch.num_rows):
            where = f"{path}:{number + place}"
            try:
                yield number + place, batch.slice(place, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: a text is not UTF-8 ({error.reason}); write the column as UTF-8") from error
            except (ValueError, ArithmeticError) as error:  # such as a date of the year 20,000
                raise DataError(f"{where}: a value cannot be read ({_line(error)}); correct or remove it") from error


def parse_row(where: str, row: jsonl.Record) -> jsonl.Record:
    """A row as a record of what JSON can hold. An id that is NaN, as pandas fills gaps, is none.

    Raises DataError for another value, with the row's id."""
    if isinstance(identity := row.get("id"), float) and math.isnan(identity):
        row = row | {"id": None}
    where = jsonl.named(where, row)
    return {name: _plain(f"{where}, field {name!r}", value) for name, value in row.items() if value is not None}


def _plain(where: str, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise jsonl.not_finite(where, value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: bytes that are no text ({error.reason}); remove the column") from error
    if isinstance(value, list | tuple):  # a map column gives pairs
        return [_plain(where, item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(where, item) for name, item in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise DataError(f"{where}: a {type(value).__name__}, which no record holds; convert or remove the column")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
