"""The pages of a Parquet file, known from their headers before anything is unpacked.

A header is a struct of Thrift's compact protocol (parquet.thrift, PageHeader; thrift-compact-protocol.md). The library
that reads the file makes room for as many bytes, and for as many entries of a dictionary, as a header says. So a small
file whose headers lie would fill the memory.
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


class Damaged(ValueError):
    """A page's header that cannot be read, or that says what cannot be."""


class _Short(Exception):
    """The header goes on behind the bytes that were read."""


class Page(NamedTuple):
    """What the header of a page says."""

    kind: int
    unpacked: int  # bytes
    values: int


class _Header:
    """A struct of Thrift's compact protocol at the beginning of `data`."""

    def __init__(self, data: bytes):
        self._data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """{number of a field: its value}; whole numbers and structs have one, all else is passed over."""
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
            for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                self._byte() if inner in (1, 2) else self._value(inner, depth + 1)
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
        header = _Header(data)
        try:
            return header.struct(), at + header.at
        except _Short:
            if len(data) < size or size >= MOST_BYTES:
                raise Damaged("it has no end") from None
            size *= 16


def pages(file: Any, column: Any, end_of_file: int) -> Iterator[Page]:
    """The pages of a column chunk, of which `column` is the metadata, in an open file.

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
