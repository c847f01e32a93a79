"""A block: the part of a file that one worker reads at a time."""

import dataclasses
from pathlib import Path
from typing import Literal

from tigerjax.files.packed import RECORD_BYTES

BLOCK_BYTES = 16_000_000
"""About the size of a block, and of the records that a worker holds in memory."""
SCAN_BYTES = 1 << 20
"""Read at one time when the borders of blocks are looked for."""


TextUnit = Literal["line", "paragraph", "file"]
"""What of a plain text file is a document: a line, the lines between blank ones, or the whole file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """How the files of an input are read."""

    text_unit: TextUnit = "line"
    max_bytes: int = RECORD_BYTES
    """A record of more bytes is an error."""
    columns: tuple[str, ...] = ()
    """The names of the columns of a CSV file that has no first line of names."""


READING = Reading()


@dataclasses.dataclass(frozen=True, slots=True)
class FileBlock:
    """Units [start, end) of a file, which begin with record `first` (counted from 1); end None is the end of the file.

    What a unit is depends on the format: a byte of JSONL, a row group of Parquet, a file of a `datasets` folder.
    """

    number: int
    path: Path
    start: int = 0
    end: int | None = None
    first: int = 1
    reading: Reading = READING
