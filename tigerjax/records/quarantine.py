"""Records that cannot be read: put aside with their errors, counted, and few enough, or the command stops."""

import json
from collections.abc import Iterable
from pathlib import Path

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest
from tigerjax.records.notes import note

MAX_BAD_FRACTION = 0.001
FILE = "quarantine.json"
MOST_KEPT = 1000
"""Bad records of one block that are kept; all are counted."""


class Quarantine:
    """The bad records of one block. It is called as `jsonl.OnBad`."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[list[str]] = []

    def __call__(self, error: DataError, given: bytes) -> None:
        self.count += 1
        if len(self._kept) < MOST_KEPT:
            self._kept.append([str(error), given.decode("utf-8", "backslashreplace")])

    def save(self, work: Path, number: int) -> None:
        """Writes what was kept of the block of this number, for `write`."""
        manifest.write_json(work / f"bad-{number}.json", self._kept)


def refuse_fraction(most: float) -> None:
    """ConfigError for a fraction that is none."""
    if not 0 <= most <= 1:
        raise ConfigError(f"max_bad_fraction={most} must be in [0, 1]")


def write(work: Path, blocks: Iterable[int], out: Path, bad: int, total: int, most: float) -> None:
    """Writes OUT/quarantine.json of what blocks saved, where some of their records are bad.

    DataError with the first of them where more than `most` of `total` records are bad.
    """
    if not bad:
        return
    kept = [one for n in blocks for one in json.loads((work / f"bad-{n}.json").read_text(encoding="utf-8"))]
    if bad > most * total:
        raise DataError(
            f"{kept[0][0]} ({bad} of {total} records are bad, at most {most:.1%} may be); repair the lines or raise"
            " --max-bad-fraction"
        )
    manifest.write_json(out / FILE, [{"error": error, "line": line} for error, line in kept])


def tell(out: Path, bad: int) -> None:
    """One line about the bad records of a finished stage, where there are any."""
    if bad:
        note(f"{bad} lines are no records; they stand with their errors in {out / FILE}")
