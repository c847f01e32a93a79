"""Records of files as documents or SFT examples: checked, brought into one shape, each with an id."""

import functools
from collections.abc import Callable, Iterator
from typing import Protocol

from tigerjax.errors import DataError
from tigerjax.files.jsonl import OnBad, Record, named, refuse_empty
from tigerjax.files.manifest import canonical
from tigerjax.records import formats
from tigerjax.records.document import NAMES, as_document, text_name, weighted_document
from tigerjax.records.fields import refuse_denied, refuse_odd_source, wrapped
from tigerjax.records.ids import SeenIds, identity, ways
from tigerjax.records.inputs import Paths, expand, ids_of
from tigerjax.records.notes import shown, tell
from tigerjax.records.sft import Counts, as_sft, shape_of


class Shaper(Protocol):
    """`as_record`, or one of those that it chooses between."""

    def __call__(self, record: Record, where: str, *, counts: Counts | None = None) -> Record: ...


def as_record(record: Record, where: str, *, allow_empty: bool = False, counts: Counts | None = None) -> Record:
    """A record as the document or the SFT example that it is; `text` beside a dialogue is a copy of it.

    Raises DataError for a record that is neither, or that lacks what a document or an example needs.
    """
    refuse_odd_source(where, record)
    if shape_of(record) is not None:
        return as_sft(record, where, allow_empty=allow_empty, counts=counts)
    if text_name(record) is None:
        raise DataError(
            f"{named(where, record)}: needs 'messages', 'conversations', or 'instruction' and 'output' as an SFT"
            f" example, or its text in {NAMES} as a document; has {sorted(record)}{wrapped(record)}"
        )
    return as_document(record, where, allow_empty=allow_empty)


def only_document(record: Record, where: str, *, counts: Counts | None = None) -> Record:
    """A record as a document. Raises DataError for an SFT example too."""
    if shape_of(record) is not None:
        raise DataError(f"{named(where, record)}: an SFT example, but this stage takes documents; leave its file out")
    return as_record(record, where, counts=counts)


def text_of(record: Record) -> str:
    """The text of a document, or all messages of an SFT example, one after another."""
    return record["text"] if "text" in record else "\n".join(message["content"] for message in record["messages"])


def documents(
    patterns: Paths, *, on_bad: OnBad | None = None, counts: Counts | None = None, weighted: bool = False
) -> Iterator[Record]:
    """The documents of the files, in order, each with an id of its own, as `ids.SeenIds` gives it. With `weighted`
    each has a `weight`, as of `document.weighted_document`.

    Raises DataError for an id that a file gives twice, with both places, and for what is no document, with file:number,
    unless it goes to `on_bad(error, its bytes)`. What happened to records (`notes.SAID`) is counted in `counts`;
    without it, it is said on standard error.
    """
    return _validated(patterns, weighted_document if weighted else as_document, on_bad, counts)


def sft_examples(
    patterns: Paths, *, on_bad: OnBad | None = None, allow_empty: bool = False, counts: Counts | None = None
) -> Iterator[Record]:
    """The SFT examples of the files, in order, made of every form of `sft`. Otherwise as `documents`."""
    changed: Counts = {} if counts is None else counts
    shape = functools.partial(as_sft, allow_empty=allow_empty, counts=changed)
    return _validated(patterns, shape, on_bad, counts, changed)


def documents_and_examples(patterns: Paths, *, counts: Counts | None = None) -> Iterator[Record]:
    """The records of the files, in order, each as the document or the SFT example that it is (`as_record`).

    Otherwise as `documents`."""
    changed: Counts = {} if counts is None else counts
    return _validated(patterns, functools.partial(as_record, counts=changed), None, counts, changed)


def _validated(
    patterns: Paths,
    shape: Callable[[Record, str], Record],
    on_bad: OnBad | None,
    counts: Counts | None,
    changed: Counts | None = None,
) -> Iterator[Record]:
    ids = ids_of(patterns)
    seen, way = SeenIds(ids), ways(ids)[0]
    files = expand(patterns)
    for path in files:
        number = 0
        for number, record in formats.read(path, on_bad=on_bad, reading=files.reading):
            where = f"{path}:{number}"
            refuse_denied(where, record)
            try:
                shaped = shape(record, where)
                yield {**shaped, "id": seen.take(where, identity(where, record, way))}
            except DataError as error:
                if on_bad is None:
                    raise
                on_bad(error, canonical(record) + b"\n")
        refuse_empty(path, number)
    if counts is not None:
        counts.update({name: counts.get(name, 0) + more for name, more in seen.counts.items()})
    else:
        tell(shown(files), {**(changed or {}), **seen.counts})
