"""A block: the part of a file that one worker reads at a time."""

import dataclasses
from pathlib import Path

BLOCK_BYTES = 16_000_000
"""About the size of a block, and of the records that a worker holds in memory."""
SCAN_BYTES = 1 << 20
"""Read at one time when the borders of blocks are looked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Units [start, end) of a file, which begin with record `first` (counted from 1); end None is the end of the file.

    What a unit is depends on the format: a byte of JSONL, a row group of Parquet, a file of a `datasets` folder.
    """

    number: int
    path: Path
    start: int = 0
    end: int | None = None
    first: int = 1
