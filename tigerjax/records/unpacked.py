"""How large what a columnar file holds becomes in memory, known before it is unpacked.

Two things make a small file large. A dictionary holds a long text once, and every row points to it; views and runs do
the same. And the buffers of an Arrow file may be compressed.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

RECORD_BATCH, DICTIONARY_BATCH = 3, 2
"""What the header of an Arrow message holds."""
CONTINUES = 0xFFFFFFFF
INDEX_BYTES = 16
"""A column of lists whose pages have no more bytes per value holds places in its dictionary, and no values."""


class CompressedBatch(NamedTuple):
    """A compressed batch of an Arrow file. A dictionary's has no rows."""

    rows: int
    unpacked: int  # bytes


def pieces(batch: Any, rows: int, most: int) -> Iterator[tuple[int, Any, int]]:
    """(number of its first row from 0, a part, its bytes as Python objects) of a record batch. A part has at most
    `rows` rows and `most` bytes, unless it is a single row."""
    for first in range(0, batch.num_rows, rows):
        left = [(first, min(rows, batch.num_rows - first))]
        while left:
            start, count = left.pop()
            part = batch.slice(start, count)
            if (size := sum(map(_bytes, part.columns))) > most and count > 1:
                left += [(start + count // 2, count - count // 2), (start, count // 2)]
            else:
                yield start, part, size


def _bytes(array: Any) -> int:
    """The bytes of an array's values when each stands for itself."""
    import pyarrow
    import pyarrow.compute

    kind, types = array.type, pyarrow.types
    if isinstance(array, pyarrow.ExtensionArray):
        return _bytes(array.storage)
    if types.is_dictionary(kind):
        return _of_places(array.dictionary, array.indices)
    if types.is_run_end_encoded(kind):
        begin, end = array.find_physical_offset(), array.find_physical_offset() + array.find_physical_length()
        runs = pyarrow.array(np.arange(end, dtype=np.int64))
        places = pyarrow.RunEndEncodedArray.from_arrays(array.run_ends[:end], runs).slice(array.offset, len(array))
        return _of_places(array.values, pyarrow.compute.run_end_decode(places)) if end > begin else 0
    if types.is_string_view(kind) or types.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1], np.int32)  # 16 bytes a value, of which the first 4 are its length
        return int(views[4 * array.offset :: 4][: len(array)].sum(dtype=np.int64))
    if types.is_struct(kind):
        return sum(map(_bytes, array.flatten()))
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return _of_places(array.values, array.sizes)
    if types.is_map(kind):
        begin, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return 8 * len(array) + sum(_bytes(part.slice(begin, end - begin)) for part in (array.keys, array.items))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return 8 * len(array) + _bytes(array.flatten())
    return array.nbytes


def _of_places(values: Any, places: Any) -> int:
    """The bytes of `values` at `places`; of values that are lists or objects no less than that."""
    import pyarrow
    import pyarrow.compute

    kind, types = values.type, pyarrow.types
    if types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        lengths = pyarrow.compute.binary_length(values).cast(pyarrow.int64())
        return pyarrow.compute.sum(lengths.take(places)).as_py() or 0
    times = len(places) - places.null_count
    return times * (values.nbytes // max(1, len(values)) if types.is_primitive(kind) else _bytes(values))


def of_lists(schema: Any, column: Any, dictionary: int, most: int) -> bool:
    """Whether a column of texts inside lists may become more than `most` bytes, as it only points into its
    `dictionary` of so many bytes. One row may then hold any number of them."""
    only_places = column.total_uncompressed_size - dictionary <= INDEX_BYTES * column.num_values
    lists = schema.max_repetition_level > 0 and schema.physical_type == "BYTE_ARRAY"
    return lists and only_places and dictionary * column.num_values > most


def packed_batches(data: memoryview, footer: bool) -> Iterator[CompressedBatch]:
    """The compressed batches of an Arrow file: of its file format, which has a `footer`, or of its stream format.

    Ends early at damaged bytes, which the library that reads them names.
    """
    try:
        for start, body in _in_footer(data) if footer else _in_stream(data):
            yield from _packed(data, start, body)
    except (struct.error, IndexError):
        return


def _in_stream(data: memoryview) -> Iterator[tuple[int, int]]:
    """(place of the metadata, place of the body) of each message."""
    at = 0
    while at < len(data):
        at += 4 if _number("<I", data, at) == CONTINUES else 0
        length, start = _number("<i", data, at), at + 4
        if length <= 0:
            return
        yield start, start + length
        size = _field(data, start + _number("<I", data, start), 3)
        at = start + length + (_number("<q", data, size) if size else 0)


def _in_footer(data: memoryview) -> Iterator[tuple[int, int]]:
    """As `_in_stream`, of the dictionaries and the record batches that the footer names."""
    end = len(data) - 10  # the footer's length, and ARROW1
    footer = end - _number("<i", data, end)
    table = footer + _number("<I", data, footer)
    for listed in (2, 3):
        for at in _vector(data, table, listed, 24):
            offset, length = _number("<q", data, at), _number("<i", data, at + 8)
            yield offset + (8 if _number("<I", data, offset) == CONTINUES else 4), offset + length


def _packed(data: memoryview, start: int, body: int) -> Iterator[CompressedBatch]:
    message = start + _number("<I", data, start)
    kind, header = _field(data, message, 1), _field(data, message, 2)
    if not kind or not header or data[kind] not in (RECORD_BATCH, DICTIONARY_BATCH):
        return
    batch = header + _number("<I", data, header)
    dictionary = data[kind] == DICTIONARY_BATCH
    if dictionary:
        if not (inner := _field(data, batch, 1)):
            return
        batch = inner + _number("<I", data, inner)
    if not _field(data, batch, 3):  # not compressed: it lies in the file as it is in memory
        return
    unpacked = 0
    for at in _vector(data, batch, 2, 16):
        offset, length = struct.unpack_from("<qq", data, at)
        if length >= 8:  # -1 stands for a buffer that is not compressed
            unpacked += max(0, _number("<q", data, body + offset))
    rows = _field(data, batch, 0)
    yield CompressedBatch(_number("<q", data, rows) if rows and not dictionary else 0, unpacked)


def _number(form: str, data: memoryview, at: int) -> int:
    if at < 0:
        raise IndexError(at)
    return struct.unpack_from(form, data, at)[0]


def _field(data: memoryview, table: int, number: int) -> int:
    """The place of a field of a table of FlatBuffers; 0 where it is absent."""
    known = table - _number("<i", data, table)
    if 4 + 2 * number >= _number("<H", data, known):
        return 0
    offset = _number("<H", data, known + 4 + 2 * number)
    return table + offset if offset else 0


def _vector(data: memoryview, table: int, number: int, size: int) -> Iterator[int]:
    """The places of the elements, of `size` bytes each, of a table's field that is a vector."""
    if at := _field(data, table, number):
        start = at + _number("<I", data, at)
        count = _number("<I", data, start)
        yield from range(start + 4, start + 4 + count * size, size)
