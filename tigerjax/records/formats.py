"""The formats of files and folders that hold records: one table, in which a new format is one entry.

    *.jsonl, *.ndjson, *.json             one JSON object per line
    *.json that begins with [             one JSON list of objects
    *.txt that begins with a JSON object  one JSON object per line
    *.txt                                 plain text: each line that is not blank is a document, {"text": line};
                                          `Reading.text_unit` makes it a paragraph or the whole file
    *.csv, *.tsv                          the first line names the columns; tabs divide those of *.tsv
    *.parquet                             each row is a record
    *.arrow, *.feather                    each row is a record; Arrow's stream format or its file format
    *.tfrecord*                           tf.train.Example, one string a feature, or a JSON object a record
    *.array_record*, *.arrayrecord*       the same
    *.seqio                               names a SeqIO task: each of its examples is a record
    *.warc, *.wet                         web archives: each page is a document
    a folder with state.json              what `save_to_disk` of the `datasets` library writes
    a folder with dataset_dict.json       the same with several splits, of which "train" is read
    a folder with dataset_info.json       a TFDS dataset, of which the split "train" is read

Files of text may be compressed: *.zst, *.gz or *.xz after the name above. Capital letters count as small ones. A file
with another name is JSONL when its first character is {, else plain text; it is refused when it is no text.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.errors import DataError
from tigerjax.files import jsonl, packed, paths
from tigerjax.records import columnar, seqio_tasks, tensorflow_files, text_files, web_archives
from tigerjax.records.block import READING, FileBlock, Reading
from tigerjax.records.notes import DAMAGED


class Format(NamedTuple):
    """How the records of one kind of file are read."""

    read: Callable[[FileBlock, jsonl.OnBytes | None], Iterator[tuple[int, Any]]]
    """(number, what the file holds for one record) of a block; DataError where reading cannot go on."""
    parse: Callable[[str, Any], jsonl.Record]
    """(file:number, that) to a record; DataError where it is none, and reading goes on after it."""
    cut: Callable[[Path, int], Iterable[text_files.Span]] | None = None
    """The blocks of a file whose records have at most so many bytes; None for a file that is read from its beginning to
    its end by one worker."""
    endings: tuple[str, ...] = ()
    """Of the file's name, without .zst, .gz or .xz."""
    inside: tuple[str, ...] = ()
    """These mark the format wherever they stand in the name, as in x.tfrecord-00000-of-00001."""
    folder: tuple[str, ...] = ()
    """The format is a folder that holds one of these files."""
    of_others: bool = False
    """The records were written by servers everywhere: one that cannot be read is left out and counted by every stage,
    where a broken record of another format stops all but `clean`."""
    compressed: tuple[str, ...] = ()
    """The compressions of the whole file that are read: .zst, .gz, .xz."""


class Files(list[Path]):
    """Files and folders, and how they are read."""

    def __init__(self, files: Iterable[Path], reading: Reading = READING):
        super().__init__(files)
        self.reading = reading


def reading_of(given: Any) -> Reading:
    """How these inputs are read, where they are `Files` or `Inputs` that say so."""
    return getattr(given, "reading", READING)


VERSION = re.compile(r"\d+\.\d+\.\d+")
ANY = tuple(packed.NAMES)
LINES = (".jsonl", ".ndjson")
JSONL = Format(text_files.lines, text_files.parse_line, text_files.cut_lines, endings=(*LINES, ".json"), compressed=ANY)
JSON_LIST = Format(text_files.array, text_files.parse_element, compressed=ANY)
TEXT = Format(text_files.texts, text_files.parse_text, text_files.cut_lines, endings=(".txt",), compressed=ANY)
FORMATS = (
    JSONL,
    JSON_LIST,
    TEXT,
    Format(text_files.csv_rows, text_files.parse_csv, endings=(".csv",), compressed=ANY),
    Format(functools.partial(text_files.csv_rows, tabs=True), text_files.parse_csv, endings=(".tsv",), compressed=ANY),
    Format(columnar.parquet, columnar.parse_row, columnar.cut_parquet, endings=(".parquet",)),
    Format(columnar.arrow, columnar.parse_row, endings=(".arrow", ".feather")),
    Format(tensorflow_files.tfrecords, tensorflow_files.parse_record, inside=(".tfrecord",), compressed=(".gz",)),
    Format(tensorflow_files.array_records, tensorflow_files.parse_record, inside=(".array_record", ".arrayrecord")),
    Format(seqio_tasks.examples, seqio_tasks.parse_example, endings=(seqio_tasks.ENDING,)),
    Format(
        web_archives.web_records, web_archives.parse_page, endings=(".warc", ".wet"), compressed=ANY, of_others=True
    ),
    Format(columnar.dataset, columnar.parse_row, columnar.cut_dataset, folder=(columnar.STATE, columnar.SPLITS)),
    Format(tensorflow_files.tfds_rows, tensorflow_files.parse_tfds, folder=(tensorflow_files.TFDS_INFO,)),
)


def _by_name(name: str) -> Format | None:
    """The format that a file's name (without .zst, .gz, .xz) stands for."""
    name = name.lower()
    for form in FORMATS:
        if name.endswith(form.endings) or any(mark in name for mark in form.inside):
            return form
    return None


def is_a_file_of_records(name: str) -> bool:
    """Whether a stage's output of this name holds records; its *.json files hold figures."""
    form = _by_name(name.lower().removesuffix(".zst"))
    return form is not None and not name.lower().endswith(".json")


def is_a_dataset(folder: Path) -> bool:
    """Whether a folder is one of those that are read as a whole."""
    return any((folder / file).is_file() for form in FORMATS for file in form.folder)


def jsonl_by_content(path: Path, reading: Reading = READING) -> bool:
    """Whether a file is read as JSONL although its name says text."""
    name = path.name[: len(path.name) - len(packed.ending(path))] if path.is_file() else ""
    return _by_name(name) is TEXT and format_of(path, reading) is JSONL


def format_of(path: Path, reading: Reading = READING) -> Format:
    """The format of a file or folder, by its name or what lies in it.

    A .txt file whose first line is a JSON object is JSONL, unless another text unit than the line is asked for. Raises
    DataError for a folder of no known format, and for a file that is none of text.
    """
    if path.is_dir():
        for folder in FORMATS:
            if any((path / file).is_file() for file in folder.folder):
                return folder
        raise DataError(
            f"{path}: a folder without {tensorflow_files.TFDS_INFO} (TFDS) or {columnar.STATE} (datasets.save_to_disk);"
            f" name the files in it, such as '{path}/*.jsonl'"
        )
    ending = packed.ending(path)
    name = path.name[: len(path.name) - len(ending)]
    form = _by_name(name)
    if path.name.lower().endswith(packed.ARCHIVES) or (ending and name.lower().endswith(".tar")):
        raise DataError(f"{path}: an archive or a compression that is not read; unpack it, and name the files in it")
    if form is TEXT and reading.text_unit == "line" and text_files.is_jsonl(path):
        return JSONL
    if form is None or name.lower().endswith(".json"):
        beginning = text_files.beginning(path)
        if b"\0" in beginning:
            advice = packed.compression(beginning) or "convert it to JSONL"
            raise DataError(f"{path}: no text, and its name does not say which format it has; {advice}")
        if form is None:
            return JSONL if beginning.startswith(b"{") else TEXT
        return JSON_LIST if beginning.startswith(b"[") else JSONL
    if ending and ending not in form.compressed:
        raise DataError(f"{path}: this format is not read when it is compressed by {ending[1:]}; unpack the file")
    return form


def output_name(path: Path) -> str:
    """The name of the JSONL file that a stage writes for an input: that of JSONL stays, others end in .jsonl.

    The output of a .zst file is compressed in the same way; that of other compressed files is not compressed.
    """
    if path.is_dir():  # a TFDS dataset lies in NAME/1.0.0
        name = f"{path.parent.name}-{path.name}" if VERSION.fullmatch(path.name) else path.name
        return f"{name}.jsonl"
    ending = packed.ending(path)
    name = path.name[: len(path.name) - len(ending)]
    form = _by_name(name)
    if form is not None and not name.lower().endswith(LINES):
        marks = [re.escape(mark) for mark in form.inside] + [f"{re.escape(mark)}$" for mark in form.endings]
        name = re.sub("|".join(marks), "", name, flags=re.IGNORECASE) + ".jsonl"
    return name + (ending if ending == ".zst" else "")


Span = tuple[int, int | None, int]
"""(start, end, first) of a block."""


def spans(reading: Reading, path: Path) -> list[Span]:
    """The blocks of a file. Its lines are counted for that, so it is read to its end."""
    form = format_of(path, reading)
    whole = form is TEXT and reading.text_unit != "line"
    if form.cut is None or packed.ending(path) or whole:  # a compressed file cannot be entered in the middle
        return [(0, None, 1)]
    return list(form.cut(path, reading.max_bytes))


ForEachFile = Callable[[Callable[[Path], list[Span]], Sequence[Path]], Iterable[list[Span]]]
"""What calls a function for each file, as `map` does."""


def blocks(files: Sequence[Path], cut: ForEachFile = map) -> list[FileBlock]:
    """The files in blocks, numbered in order; each is read by one worker at a time. `Files` say how they are read.

    `cut` decides where the files are read for it.
    """
    reading = reading_of(files)
    found = zip(files, cut(functools.partial(spans, reading), files), strict=True)
    cut_up = [(path, *span) for path, of_file in found for span in of_file]
    return [FileBlock(n, path, start, end, first, reading) for n, (path, start, end, first) in enumerate(cut_up)]


def _parsed(
    block: FileBlock, form: Format, on_bad: jsonl.OnBad | None, on_bytes: jsonl.OnBytes | None = None
) -> Iterator[tuple[int, jsonl.Record, Any]]:
    for number, given in form.read(block, on_bytes):
        try:
            record = form.parse(f"{block.path}:{number}", given)
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error, given if isinstance(given, bytes) else json.dumps(given, default=str).encode() + b"\n")
        else:
            yield number, record, given


def left_out(block: FileBlock, counts: MutableMapping[str, int]) -> jsonl.OnBad | None:
    """For `read_block`: counts records that cannot be read, where the format is one of which they are left out."""

    def count(error: DataError, given: bytes) -> None:
        counts[DAMAGED] = counts.get(DAMAGED, 0) + 1

    return count if format_of(block.path, block.reading).of_others else None


def read_block(block: FileBlock, *, on_bad: jsonl.OnBad | None = None) -> Iterator[tuple[int, jsonl.Record, bytes]]:
    """(number, record, its line of JSON) of a block's records; the line of JSONL is as it stands in the file.

    The number counts the lines of JSONL, text and CSV and the records of other formats, from 1. Raises
    DataError with file:number for what is no record, unless it goes to `on_bad(error, its bytes)` where that is given.
    """
    form = format_of(block.path, block.reading)
    for number, record, given in _parsed(block, form, on_bad):
        yield number, record, given if form is JSONL else jsonl.dumped(record)


def read(
    path: str | Path,
    *,
    on_bad: jsonl.OnBad | None = None,
    on_bytes: jsonl.OnBytes | None = None,
    reading: Reading = READING,
) -> Iterator[tuple[int, jsonl.Record]]:
    """(number, record) of all records of a file or folder, as in `read_block`.

    `on_bytes` is called with the bytes read so far; only the formats of text call it. Raises DataError for a file that
    cannot be read, and with file:number for what is no record.
    """
    whole = FileBlock(0, paths.of(path), reading=reading)
    for number, record, _ in _parsed(whole, format_of(whole.path, reading), on_bad, on_bytes):
        yield number, record
