"""The fields that documents and SFT examples share: a source that is allowed, and texts."""

import math
import re
import unicodedata
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files.foreign import shown
from tigerjax.files.jsonl import Record, named

MOST_WEIGHT = 1e6  # a larger one is a slip, as in `config.ranges.Factor`
UNSEEN = ("Cc", "Cf")
"""Unicode's categories of control characters, and of zero-width and direction marks."""
DENIED_SOURCES = ("commoncrawl", "c4")
"""Sources that no pretraining data may have: Llama-2 was pretrained on these already."""
_DENIED = re.compile(r"(?:^|/)(?:common[-_ ]?crawl|c4)(?![^\W_])")


def denied(record: Record) -> bool:
    """Whether the record's `source`, or a part of it between slashes, is a denied name or begins with one.

    `c4`, `C4/en`, `c4_en` and `allenai/c4` are denied, `c4isr_forum` is not. No record is that says `source_allowed`.
    """
    return record.get("source_allowed") is not True and bool(_DENIED.search(str(record.get("source", "")).casefold()))


def refuse_odd_source(where: str, record: Record) -> None:
    """DataError for a source that is a list or an object: it cannot be compared with those that are denied."""
    if not isinstance(source := record.get("source"), str | int | float | None):
        raise DataError(
            f"{named(where, record)}: field 'source' is {type(source).__name__} {shown(source)}, but text is needed;"
            " write the source's name, or remove the field"
        )


def refuse_denied(where: str, record: Record) -> None:
    """Lets a record pass. Raises DataError for one of a denied source, so that none is trained on unnoticed."""
    refuse_odd_source(where, record)
    if denied(record):
        raise DataError(
            f"{named(where, record)}: source {record['source']!r} is denied, as {', '.join(DENIED_SOURCES)} are;"
            " remove it, correct the source, or use `tigerjax data clean` with --drop-denied, which drops such records,"
            f" or with --allow-source {record['source']!r}, which keeps them"
        )


def blank(text: str) -> bool:
    """Whether a text shows nothing: no character, or spaces, controls and zero-width characters only."""
    return all(char.isspace() or unicodedata.category(char) in UNSEEN for char in text)


def finite_number(value: Any) -> float | None:
    """A finite number as a float; None for anything else, such as a truth value or a whole number beyond all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def number_in(value: Any) -> float | None:
    """A finite number, also one that is written as text, as every field of a CSV is; None for anything else."""
    try:
        return finite_number(float(value) if isinstance(value, str) else value)
    except ValueError:
        return None


def checked_weight(value: Any, where: str, name: str = "weight") -> float:
    """A weight, which is a number that is not negative. The sum of weights stays finite, as none is above MOST_WEIGHT.

    Raises DataError for anything else."""
    number = finite_number(value)
    if number is None or not 0 <= number <= MOST_WEIGHT:
        raise DataError(
            f"{where}: {name} {shown(value)} must be a number that is not negative, and at most {MOST_WEIGHT:,.0f}"
        )
    return number


def text_field(where: str, record: Record, field: str) -> str:
    """The text of a field; DataError when it holds anything else."""
    value = record.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} is {type(value).__name__}, but text is needed")
    return value


def wrapped(record: Record) -> str:
    """Advice for a record that holds a list of records in one field, as `datasets` and many downloads wrap them. The
    turns of a chat are no records."""
    lists = [name for name, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) != 1 or {"role", "from"} & set(record[lists[0]][0]):
        return ""
    return f"; if its {lists[0]!r} is the list of records, write one of them on each line (jq -c '.{lists[0]}[]' FILE)"
