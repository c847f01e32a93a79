"""A reader under test: a command, the good files that it reads, and the world of one damaged copy after another."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from damage import damaged_files
from ending import ONCE_SECONDS, SECONDS, Ended, files_of, leavings, refusal, run

Damage = dict[str, bytes]
"""The new bytes of some files, by name."""
Nothing = contextlib.nullcontext


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """A command and what it reads."""

    make: Callable[[Path], None]
    """Writes the good files below an empty folder."""
    words: Callable[[Path], list[object]]
    """The command, for that folder."""
    files: tuple[str, ...] = ("in/*",)
    """Patterns of the files whose bytes are damaged."""
    json: tuple[str, ...] = ()
    """Patterns of those whose values are replaced; they hold JSON or JSON lines."""
    reads: Callable[[Path, Ended], Any] | None = None
    """What the command read, where the format has checksums: after damage of bytes it is that of the good files."""
    no_end: bool = False
    """Nothing in the format tells its end: a file that is cut between two records is a shorter one."""
    head: Callable[[bytes], int] = len
    """So many bytes at the beginning of a file are damaged; the others may hold anything."""
    codes: tuple[int, ...] = ()
    """Exit codes beside 0, 2 and 3."""
    good: int = 0
    """The exit code with the good files."""
    may_change: tuple[str, ...] = ()
    """Patterns of files that the command may change and fail all the same, such as finished work of a longer one."""
    around: Callable[[], contextlib.AbstractContextManager[Any]] = Nothing
    """Stands in for models while a command runs, and while the good files are made."""


class World:
    """The files of a reader in a folder, damaged and restored."""

    def __init__(self, reader: Reader, folder: Path):
        self.reader, self.folder, self.good_files = reader, folder / "world", folder / "good"
        self.folder.mkdir(parents=True)
        with reader.around():
            reader.make(self.folder)
        shutil.copytree(self.folder, self.good_files)
        self.good: Any = None
        ended = self._run(seconds=ONCE_SECONDS)
        assert ended.code == reader.good, ended
        self.good = reader.reads and reader.reads(self.folder, ended)

    def named(self, patterns: tuple[str, ...]) -> list[str]:
        """The good files that the patterns match."""
        found = {p for pattern in patterns for p in self.good_files.glob(pattern) if p.is_file()}
        return sorted(str(p.relative_to(self.good_files)) for p in found)

    def draw(self, draw: Any, *, texts: bool) -> Damage:
        """One damage, of bytes or of values in JSON."""
        if texts:
            return damaged_files(draw, self.good_files, self.named(self.reader.json), True)
        return damaged_files(draw, self.good_files, self.named(self.reader.files), False, self.reader.head)

    def problem(self, damage: Damage, *, texts: bool) -> str:
        """What is wrong with how the command ends after the damage; empty for nothing. A bug's exception comes out."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.good_files, self.folder)
        for name, data in damage.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)
        before = files_of(self.folder)
        ended = self._run()
        after = files_of(self.folder)
        wrong = refusal(ended, self.reader.codes) or leavings(before, after, ended.code, self.reader.may_change)
        if not wrong and not texts and self.reader.reads is not None and ended.code == self.reader.good:
            found = self.reader.reads(self.folder, ended)
            if found != self.good and not (self.reader.no_end and self._is_beginning(found)):
                wrong = f"read as if whole: {str(found)[:300]}"
        return wrong and f"{wrong}\n{ended.err[-3000:]}"

    def _is_beginning(self, found: list[bytes]) -> bool:
        """Whether the lines that were read are some of the first ones of the good files."""
        return all(good.startswith(read) and read.endswith(b"\n") for good, read in zip(self.good, found, strict=True))

    def _run(self, *, seconds: float = SECONDS) -> Ended:
        with self.reader.around():
            return run([str(word) for word in self.reader.words(self.folder)], seconds=seconds)


def kept(folder: Path) -> Iterator[tuple[str, bool, Damage]]:
    """(reader, whether values were replaced, damage) of each case in a folder of cases, READER/TEXTS-HASH/FILE."""
    for case in sorted(p for p in folder.glob("*/*") if p.is_dir()):
        yield case.parent.name, case.name.startswith("values"), files_of(case)
