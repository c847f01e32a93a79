"""Owns what a user's record is: every format is read here, and becomes documents and SFT examples for every stage."""

from tigerjax.files.jsonl import Record
from tigerjax.records.block import READING, FileBlock, Reading, TextUnit
from tigerjax.records.dialogue import with_system
from tigerjax.records.document import MOST_OFTEN, as_document, document_weight
from tigerjax.records.fields import DENIED_SOURCES, blank, checked_weight, denied, finite_number, refuse_denied
from tigerjax.records.formats import Files, blocks, format_of, left_out, output_name, read, read_block, reading_of
from tigerjax.records.ids import (
    Identity,
    Ids,
    SeenIds,
    Way,
    first_of,
    given_id,
    identity,
    numbered,
    record_id,
    repeated,
    ways,
)
from tigerjax.records.inputs import Inputs, Paths, distinct_names, expand, ids_of, inputs_config, speed
from tigerjax.records.notes import NOT_GIVEN, NUMBERED, RENAMED, SAID, TRIMMED, changes, note, shown, tell
from tigerjax.records.preferences import Unusable, as_preference
from tigerjax.records.sft import as_sft
from tigerjax.records.validated import (
    Shaper,
    as_record,
    documents,
    documents_and_examples,
    only_document,
    sft_examples,
    text_of,
)

__all__ = [
    "DENIED_SOURCES",
    "MOST_OFTEN",
    "NOT_GIVEN",
    "NUMBERED",
    "READING",
    "RENAMED",
    "SAID",
    "TRIMMED",
    "FileBlock",
    "Files",
    "Identity",
    "Ids",
    "Inputs",
    "Paths",
    "Reading",
    "Record",
    "SeenIds",
    "Shaper",
    "TextUnit",
    "Unusable",
    "Way",
    "as_document",
    "as_preference",
    "as_record",
    "as_sft",
    "blank",
    "blocks",
    "changes",
    "checked_weight",
    "denied",
    "distinct_names",
    "document_weight",
    "documents",
    "documents_and_examples",
    "expand",
    "finite_number",
    "first_of",
    "format_of",
    "given_id",
    "identity",
    "ids_of",
    "inputs_config",
    "left_out",
    "note",
    "numbered",
    "only_document",
    "output_name",
    "read",
    "read_block",
    "reading_of",
    "record_id",
    "refuse_denied",
    "repeated",
    "sft_examples",
    "shown",
    "speed",
    "tell",
    "text_of",
    "ways",
    "with_system",
]
