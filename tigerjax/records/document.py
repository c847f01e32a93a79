"""Documents: {id, text, source, lang, meta}.

The text may stand in another field that is common for it (TEXT_FIELDS); the document has it in `text`.
"""

from tigerjax.errors import DataError
from tigerjax.files.foreign import shown
from tigerjax.files.jsonl import Record, named
from tigerjax.records.fields import number_in, text_field, wrapped

TEXT_FIELDS = ("text", "content", "raw_content")
"""The first of these that a record has is its text."""
NAMES = "'text', 'content' or 'raw_content'"
MOST_OFTEN = 100.0
"""The largest `weight` of a document. A larger one must be another kind of figure [our choice]."""


def text_name(record: Record) -> str | None:
    """The field that holds a document's text; None for a record without one."""
    return next((name for name in TEXT_FIELDS if name in record), None)


def as_document(record: Record, where: str, *, allow_empty: bool = False) -> Record:
    """A record with the fields of a document.

    Raises DataError where it has no text, or one of spaces only.
    """
    where = named(where, record)
    name = text_name(record)
    if name is None:
        raise DataError(f"{where}: a document needs its text in {NAMES}; has {sorted(record)}{wrapped(record)}")
    if not text_field(where, record, name).strip() and not allow_empty:
        raise DataError(f"{where}: field {name!r} is empty; remove the record")
    if name != "text":
        record = {"text" if field == name else field: value for field, value in record.items()}
    return {"source": "", "lang": "", **record}


def document_weight(record: Record, where: str) -> float | None:
    """How often an epoch holds the document, on average: its field `weight`; None without one.

    Raises DataError for what is no number from 0 to MOST_OFTEN.
    """
    given = record.get("weight")
    if given in (None, ""):  # "": an empty field of a CSV
        return None
    weight = number_in(given)
    if weight is None or not 0 <= weight <= MOST_OFTEN:
        raise DataError(
            f"{named(where, record)}: weight {shown(given)} must be a number from 0 to {MOST_OFTEN:g}, which says how"
            " often an epoch holds the document; correct or remove it"
        )
    return weight


def weighted_document(record: Record, where: str) -> Record:
    """As `as_document`, with the `document_weight` as its weight, and 1 without one."""
    weight = document_weight(record, where)
    return {**as_document(record, where), "weight": 1.0 if weight is None else weight}
