"""The columns and pages of a Parquet file, known from its footer and their headers before anything is unpacked.

Both are structs of Thrift's compact protocol (parquet.thrift, FileMetaData and PageHeader; thrift-compact-protocol.md).
The library that reads the file makes room for as many bytes, and for as many entries of a dictionary, as a header says.
So a small file whose headers lie would fill the memory. And where its footer contradicts itself, pyarrow 25 ends the
process when it is asked for a column's metadata, while it reads such a column with an error.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

DATA, DICTIONARY, DATA_V2 = 0, 2, 3
"""Kinds of pages."""
KIND, UNPACKED, PACKED = 1, 2, 3
"""Fields of a header. The number of values is field 1 of a struct that is the field OWN."""
OWN = {DATA: 5, DICTIONARY: 7, DATA_V2: 8}
MOST_DEEP = 8  # a header has 3
FIRST_BYTES, MOST_BYTES = 1 << 10, 1 << 24
"""Of a header: so many are read at first, and at most."""


GROUPS, COLUMNS, META_DATA = 4, 1, 3
"""Fields of the footer, of a row group, and of a column chunk."""
OF_COLUMN = {"num_values": 5, "total_uncompressed_size": 6, "total_compressed_size": 7, "data_page_offset": 9}
DICTIONARY_AT = 11
FOOTER_END = b"PAR1"


class Damaged(ValueError):
    """A footer or a page's header that cannot be read, or that says what cannot be."""


class _Short(Exception):
    """The header goes on behind the bytes that were read."""


class Page(NamedTuple):
    """What the header of a page says."""

    kind: int
    unpacked: int  # bytes
    values: int


class Column(NamedTuple):
    """What the footer says of a column chunk; the names are pyarrow's."""

    num_values: int
    total_uncompressed_size: int
    total_compressed_size: int
    data_page_offset: int
    dictionary_page_offset: int | None


class _Struct:
    """A struct of Thrift's compact protocol at the beginning of `data`."""

    def __init__(self, data: bytes):
        self._data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """{number of a field: its value}; whole numbers, structs and lists have one, all else is passed over.

        Damaged where structs lie too deep.
        """
        if depth > MOST_DEEP:
            raise Damaged("its structs lie too deep in each other")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else _signed(self._varint())
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (4, 5, 6):
            return _signed(self._varint())
        if kind == 12:
            return self.struct(depth + 1)
        if kind in (9, 10):
            head = self._byte()
            inner = head & 15
            count = self._varint() if head >> 4 == 15 else head >> 4
            return [self._byte() if inner in (1, 2) else self._value(inner, depth + 1) for _ in range(count)]
        elif kind in (3, 7, 8):
            self._skip({3: 1, 7: 8}.get(kind) or self._varint())
        elif kind not in (1, 2):  # true and false have no bytes of their own
            raise Damaged(f"it has a field of type {kind}")
        return None

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise _Short

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value
            if shift > 63:
                raise Damaged("it has a number of too many bytes")


def _signed(number: int) -> int:
    return number >> 1 ^ -(number & 1)


def _header(file: Any, at: int) -> tuple[dict[int, Any], int]:
    """(the header at a place of the open file, where it ends)."""
    size = FIRST_BYTES
    while True:
        file.seek(at)
        data = file.read(size)
        header = _Struct(data)
        try:
            return header.struct(), at + header.at
        except _Short:
            if len(data) < size or size >= MOST_BYTES:
                raise Damaged("it has no end") from None
            size *= 16


def columns(file: Any, end_of_file: int) -> list[list[Column]]:
    """The column chunks of each row group, in the order of the schema's leaves, of an open file.

    Raises Damaged for a footer that is none, or that lacks what readers need.
    """
    file.seek(max(0, end_of_file - 8))
    end = file.read()
    length = int.from_bytes(end[:4], "little")
    if end[4:] != FOOTER_END or length + 8 > end_of_file:
        raise Damaged("its end is not that of a Parquet file")
    file.seek(end_of_file - 8 - length)
    try:
        footer = _Struct(file.read(length)).struct()
    except (_Short, RecursionError, MemoryError):
        raise Damaged("the footer has no end") from None
    return [[_column(chunk) for chunk in _listed(group, COLUMNS)] for group in _listed(footer, GROUPS)]


def _listed(struct: Any, field: int) -> list[Any]:
    found = struct.get(field) if isinstance(struct, dict) else None
    if not isinstance(found, list):
        raise Damaged(f"field {field} of a struct in the footer is no list")
    return found


def _column(chunk: Any) -> Column:
    said = chunk.get(META_DATA) if isinstance(chunk, dict) else None
    if not isinstance(said, dict):
        raise Damaged("a column has no metadata; columns that are encrypted are not read")
    needed, at = [said.get(field) for field in OF_COLUMN.values()], said.get(DICTIONARY_AT)
    numbers = [number for number in needed if isinstance(number, int) and number >= 0]
    if len(numbers) < len(OF_COLUMN):
        raise Damaged(f"a size of a column is missing or negative ({', '.join(OF_COLUMN)}: {needed})")
    values, unpacked, packed, begin = numbers
    return Column(values, unpacked, packed, begin, at if isinstance(at, int) else None)


def pages(file: Any, column: Column, end_of_file: int) -> Iterator[Page]:
    """The pages of a column chunk in an open file.

    Raises Damaged for a header that is none, or whose page would go on behind the end of the file.
    """
    at = min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset)  # old files lack one
    left, end = column.num_values, at + column.total_compressed_size
    while left > 0 and at < end:
        if not 0 <= at < end_of_file:
            raise Damaged("it lies behind the end of the file")
        header, begin = _header(file, at)
        kind, unpacked, packed = (header.get(field) for field in (KIND, UNPACKED, PACKED))
        own = header.get(OWN.get(kind, 0)) if isinstance(kind, int) else None
        values = own.get(1) if isinstance(own, dict) else 0
        sizes = [number for number in (kind, unpacked, values, packed) if isinstance(number, int) and number >= 0]
        if len(sizes) < 4:
            raise Damaged("a size in it is missing or negative")
        page, packed = Page(*sizes[:3]), sizes[3]
        if begin + packed > end_of_file:
            raise Damaged(f"its page of {packed:,} bytes goes on behind the end of the file")
        if page.kind == DICTIONARY and page.values > page.unpacked:
            raise Damaged(f"it gives {page.values:,} entries to a dictionary of {page.unpacked:,} bytes")
        yield page
        at = begin + packed
        left -= page.values if page.kind != DICTIONARY else 0
