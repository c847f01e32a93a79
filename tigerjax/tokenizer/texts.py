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
from tigerjax.records.quarantine import Quarantine


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


class Blocks(NamedTuple):
    """What `read_blocks` gives."""

    given: list[Any]
    """What the work returned of each block."""
    read: int
    """Records that are none of the bad ones."""
    bad: int


def over(work: Work, files: Sequence[Path], runner: TextRunner, step: str) -> list[Any]:
    """[work(number, texts)] of all blocks of the files, of any format that `tigerjax.records` reads.

    The runner is entered. Otherwise as `read_blocks`, for which a bad record is an error.
    """
    _refuse_absent(files)
    with tempfile.TemporaryDirectory(prefix="tigerjax-") as temporary, runner:
        return read_blocks(work, files, runner, step, Path(temporary)).given


def _refuse_absent(files: Sequence[Path]) -> None:
    for path in map(paths.of, files):
        if not path.exists():
            raise DataError(f"{path} does not exist; give text or JSONL files")


def read_blocks(
    work: Work, files: Sequence[Path], runner: TextRunner, step: str, folder: Path, *, quarantine: bool = False
) -> Blocks:
    """Calls work(number, texts) for all blocks of the files.

    `folder` is where the runner may put its own files, and with `quarantine` the bad records, for `quarantine.write`. A
    language that is no text counts as none, and one line for each file says how many. DataError names file and line of
    a record without text (unless there is a quarantine), a file that is not there, and one without records.
    """
    _refuse_absent(files)
    blocks = records.blocks(files, lambda cut, given: runner.each(cut, given, folder, "blocks"))
    found = runner.each(functools.partial(_block, work, folder if quarantine else None), blocks, folder, step)
    by_file: dict[str, Counter[str]] = {str(path): Counter() for path in map(paths.of, files)}
    for block, (counts, _) in zip(blocks, found, strict=True):
        by_file[str(block.path)].update(counts)
    for path in map(paths.of, files):
        of = by_file[str(path)]
        jsonl.refuse_empty(path, of["read"] + of["bad"])
        tell_odd(path, of["odd"])
        records.tell(str(path), of)
    total = sum(by_file.values(), Counter[str]())
    return Blocks([given for _, given in found], total["read"], total["bad"])


def _block(work: Work, kept: Path | None, block: records.FileBlock) -> tuple[dict[str, int], Any]:
    """(how many records were read, are bad and so on, what `work` returned) of a block."""
    counts, bad = Counter[str](), None if kept is None else Quarantine()
    given = work(block.number, _texts(block, counts, bad))
    if kept is not None and bad is not None:
        bad.save(kept, block.number)
        counts["bad"] = bad.count
    return dict(counts), given


def _texts(block: records.FileBlock, counts: Counter[str], bad: Quarantine | None) -> Iterator[RecordText]:
    for number, record, line in records.read_block(block, on_bad=bad or records.left_out(block, counts)):
        try:
            made = read_record(record, f"{block.path}:{number}")
        except DataError as error:
            if bad is None:
                raise
            bad(error, line)
        else:
            counts.update(read=1, odd=is_odd(record))
            yield made


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
