"""The ids of records: which one a record gets, and what happens when two records have the same.

Four ways to make them, `Ids`:

    auto      the given id; where records of different files have one id, FILE:ID for each record that brings one
    keep      the given id, always
    place     FILE:LINE, whatever is given
    content   `record_id`: the hash of the record, whatever is given

A record that brings no id has its `record_id`. So equal records without ids have one id: the second and later of them
are numbered, ID-000002, ID-000003 and so on, in the order of files and lines. An id that was given twice is a mistake
that cannot be repaired here, so it is a DataError.
"""

import array
import math
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tigerjax.errors import DataError
from tigerjax.files.jsonl import Record
from tigerjax.files.manifest import canonical
from tigerjax.records.notes import NUMBERED, RENAMED

Ids = Literal["auto", "keep", "place", "content"]
Way = Literal["keep", "file", "place", "content"]
"""How one record gets its id, without a look at the others. "file" is FILE:ID for a given id."""


HASH_CHARACTERS = 32
_NUMBERED = re.compile(rf"([0-9a-f]{{{HASH_CHARACTERS}}})-\d{{6,}}")


class Identity(NamedTuple):
    """The id of a record, and whether it was made of what the record holds."""

    id: str
    made: bool


def ways(ids: Ids) -> tuple[Way, ...]:
    """The ways that are tried in their order; the next one where ids of different files are equal."""
    return ("keep", "file") if ids == "auto" else (ids,)


def given_id(record: Record, where: str) -> str | None:
    """The id that the record brings, as text. None where it has none: no field, null, NaN, or empty text.

    Raises DataError for an id that is neither text nor a number.
    """
    identity: Any = record.get("id")
    if isinstance(identity, float):  # what pandas makes of numbers in a column that has gaps
        if math.isnan(identity):
            return None
        identity = int(identity) if identity.is_integer() else identity
    if identity is None or identity == "":
        return None
    if not isinstance(identity, str | int | float):
        raise DataError(f"{where}: id {identity!r} is neither text nor a number; write it as text, or leave it out")
    return str(identity)


def record_id(record: Record) -> str:
    """The id of a record that brings none: `xxh3_128` of its canonical JSON without the field id, in hexadecimal."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(canonical({field: value for field, value in record.items() if field != "id"}))


def identity(where: str, record: Record, way: Way = "keep") -> Identity:
    """The id of the record at `where`, which is FILE:NUMBER."""
    path, _, number = where.rpartition(":")
    if way == "place":
        return Identity(f"{Path(path).name}:{number}", False)
    given = given_id(record, where)
    if given is None or way == "content":
        return Identity(record_id(record), True)
    if _of_text(record, given):
        return Identity(given, True)
    return Identity(f"{Path(path).name}:{given}" if way == "file" else given, False)


def _of_text(record: Record, given: str) -> bool:
    """Whether the id is the hash of the text: a line of plain text gets it where it is read."""
    import xxhash

    text = record.get("text")
    if record.keys() != {"id", "text"} or not isinstance(text, str) or len(given) != HASH_CHARACTERS:
        return False
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass")) == given


def numbered(identity: str, number: int) -> str:
    """The id of the `number`th of equal records. Such ids sort behind the first one's, by their numbers."""
    return f"{identity}-{number:06d}"


def first_of(identity: str) -> str:
    """The id of the first of equal records without ids, of any `numbered` one of them; any other id itself."""
    match = _NUMBERED.fullmatch(identity)
    return match[1] if match else identity


def repeated(where: str, identity: str, first: str) -> DataError:
    """The error of an id that two records bring."""
    return DataError(
        f"{where}: id {identity!r} occurs a second time; the first is at {first}; give each record its own id or none,"
        " or make new ids: `tigerjax data clean --ids place` (by file and line) or `--ids content`"
    )


class _Places:
    """Where each id was met, by its 128-bit hash: 24 bytes per slot, of which a third to two thirds are taken.

    A dict would need about 200 bytes for each id.
    """

    def __init__(self) -> None:
        self._slots, self._taken = 1 << 10, 0
        self._data = array.array("Q", bytes(24 * self._slots))  # the two halves of the hash, and the place

    def put(self, key: int, place: int) -> int | None:
        """The place of a key that is there already; None for a new one, which gets this place."""
        high, low = (key >> 64) or 1, key & (2**64 - 1)  # a slot whose first half is 0 is free
        at = self._find(high, low)
        if self._data[at]:
            return self._data[at + 2]
        self._data[at], self._data[at + 1], self._data[at + 2] = high, low, place
        self._taken += 1
        if 3 * self._taken > 2 * self._slots:
            self._grow()
        return None

    def _find(self, high: int, low: int) -> int:
        """Where the key stands in the data, or the free slot for it."""
        data, slot = self._data, low & (self._slots - 1)
        while data[3 * slot] and (data[3 * slot] != high or data[3 * slot + 1] != low):
            slot = (slot + 1) & (self._slots - 1)
        return 3 * slot

    def _grow(self) -> None:
        old, self._slots = self._data, 2 * self._slots
        self._data = array.array("Q", bytes(24 * self._slots))
        for at in range(0, len(old), 3):
            if old[at]:
                to = self._find(old[at], old[at + 1])
                self._data[to : to + 3] = old[at : at + 3]


class SeenIds:
    """The ids of records that are read one after another, which are all different in the end.

    It holds 36 to 72 bytes for each id, however long that is.
    """

    def __init__(self, ids: Ids = "auto") -> None:
        self._ids: Ids = ids
        self._at = _Places()  # of each id: file << 40 | line << 1 | made
        self._files: list[str] = []
        self._times: dict[str, int] = {}  # the last number that stands behind an id
        self.counts: dict[str, int] = {}

    def take(self, where: str, own: Identity) -> str:
        """The id under which the record at `where` goes on; DataError for an id that its file gave before."""
        path, _, number = where.rpartition(":")
        if not self._files or self._files[-1] != path:
            self._files.append(path)
        before = self._first(own, int(number))
        if before is None:
            return own.id
        if own.made or before & 1:
            return self._next(own, int(number))
        first = f"{self._files[before >> 40]}:{(before & ((1 << 40) - 1)) >> 1}"
        other = Identity(f"{Path(path).name}:{own.id}", False)
        same_file = self._files[before >> 40] == path
        if same_file or self._ids != "auto" or self._first(other, int(number)) is not None:
            raise repeated(where, own.id, first)
        self.counts[RENAMED] = self.counts.get(RENAMED, 0) + 1
        return other.id

    def _first(self, own: Identity, number: int) -> int | None:
        """Where the id was met before; None where it was not, and then it is noted."""
        import xxhash

        key = xxhash.xxh3_128_intdigest(own.id.encode("utf-8", "surrogatepass"))
        return self._at.put(key, ((len(self._files) - 1) << 40) | (number << 1) | own.made)

    def _next(self, own: Identity, number: int) -> str:
        """The next numbered id that is free."""
        times = self._times.get(own.id, 1) + 1
        while self._first(Identity(name := numbered(own.id, times), own.made), number) is not None:
            times += 1
        self._times[own.id] = times
        self.counts[NUMBERED] = self.counts.get(NUMBERED, 0) + 1
        return name
