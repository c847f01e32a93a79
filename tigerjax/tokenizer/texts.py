"""The texts of files of any size, a block at a time, on a runner of `tigerjax.stages.runner` or in this process.

`over` gives a function the texts of each block. What it returns comes back in the order of the files and blocks, so the
result is the same on any runner. A worker holds one record at a time, and what the function keeps.
"""

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl, paths
from tigerjax.files.progress import Advance


class RecordText(NamedTuple):
    """What a tokenizer reads of a record."""

    id: str
    text: str
    lang: str | None
    """As the record says it; None where it says nothing."""


class TextRunner(Protocol):
    """What is used of `tigerjax.stages.runner.Runner`. It is entered for the time that its steps take."""

    verify: bool

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def cores(self) -> int | None: ...

    def reporter(self, what: str, unit: str) -> Advance | None: ...

    def each(self, function: Callable[[Any], Any], items: Sequence[Any], work: Path, step: str) -> list[Any]: ...


class Here:
    """A runner that does everything in this process, without progress."""

    verify = False

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cores(self) -> int:
        return 1

    def reporter(self, what: str, unit: str) -> None:
        return None

    def each(self, function: Callable[[Any], Any], items: Sequence[Any], work: Path, step: str) -> list[Any]:
        return [function(item) for item in items]


HERE = Here()
Work = Callable[[int, Iterator[RecordText]], Any]
"""Given (number of the block, its texts), it returns what JSON can hold. It must be picklable."""


def over(work: Work, files: Sequence[Path], runner: TextRunner, step: str, folder: Path | None = None) -> list[Any]:
    """[work(number, texts)] of all blocks of the files, of any format that `tigerjax.records` reads.

    `folder` is where the runner may put its own files; None: a temporary folder, and the runner is entered. A language
    that is no text counts as none, and one line for each file says how many. DataError names file and line of a record
    without text, a file that is not there, and one without records.
    """
    for path in map(paths.of, files):
        if not path.exists():
            raise DataError(f"{path} does not exist; give text or JSONL files")
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="tigerjax-") as temporary, runner:
            return over(work, files, runner, step, Path(temporary))
    blocks = records.blocks(files, lambda cut, given: runner.each(cut, given, folder, "blocks"))
    found = runner.each(functools.partial(_block, work), blocks, folder, step)
    seen, odd = Counter[str](), Counter[str]()
    for block, (read, without, _) in zip(blocks, found, strict=True):
        seen[str(block.path)] += read
        odd[str(block.path)] += without
    for path in map(paths.of, files):
        jsonl.refuse_empty(path, seen[str(path)])
        tell_odd(path, odd[str(path)])
    return [given for _, _, given in found]


def _block(work: Work, block: records.FileBlock) -> tuple[int, int, Any]:
    """(records, those with a language that is no text, what `work` returned) of a block."""
    counts = Counter[str]()
    given = work(block.number, _texts(block, counts))
    return counts["read"], counts["odd"], given


def _texts(block: records.FileBlock, counts: Counter[str]) -> Iterator[RecordText]:
    for number, record, _ in records.read_block(block):
        counts.update(read=1, odd=is_odd(record))
        yield read_record(record, f"{block.path}:{number}")


def read_record(record: records.Record, where: str) -> RecordText:
    """What a tokenizer reads of the record at `where`; DataError where it has no text."""
    lang = record.get("lang")
    text = _text_of(record, where)
    return RecordText(records.identity(where, record).id, text, lang if isinstance(lang, str) else None)


def is_odd(record: records.Record) -> bool:
    """Whether the record's language is something else than text."""
    return record.get("lang") is not None and not isinstance(record["lang"], str)


def tell_odd(path: Path, number: int) -> None:
    """Says how many records of a file are odd, where there are any."""
    if number:
        records.note(f"{path}: the field 'lang' of {number} records is no text, so they count as without a language")


def _text_of(record: records.Record, where: str) -> str:
    """The text of a document, a prompt, or the messages of a dialogue."""
    if isinstance(text := record.get("text", record.get("prompt")), str):
        return text
    messages = record.get("messages")
    if isinstance(messages, list) and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        return records.text_of(record)
    return records.text_of(records.as_record(record, where, allow_empty=True))
