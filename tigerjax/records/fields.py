"""The fields that documents and SFT examples share: a source that is allowed, and texts."""

from collections.abc import Iterable

from tigerjax.errors import DataError
from tigerjax.files.jsonl import Record, named

DENIED_SOURCES = ("commoncrawl", "c4")
"""Beginnings of `source` that no pretraining data may have: Llama-2 was pretrained on these already."""


def denied(record: Record, deny: Iterable[str] = DENIED_SOURCES) -> bool:
    """Whether the record's `source` begins with a denied name."""
    return str(record.get("source", "")).casefold().startswith(tuple(deny))


def refuse_denied(where: str, record: Record, deny: Iterable[str] = DENIED_SOURCES) -> None:
    """DataError for a record of a denied source, so that none is trained on unnoticed."""
    if denied(record, deny):
        raise DataError(
            f"{named(where, record)}: source {record['source']!r} is denied, as {', '.join(deny)} are; remove it,"
            " correct the source, or drop such records with `tigerjax data clean --drop-denied`"
        )


def text_field(where: str, record: Record, field: str) -> str:
    """The text of a field; DataError when it holds anything else."""
    value = record.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} is {type(value).__name__}, but text is needed")
    return value
