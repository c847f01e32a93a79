"""Owns what a user's record is: every format is read here, and becomes documents and SFT examples for every stage."""

from tigerjax.files.jsonl import Record
from tigerjax.records.block import Block
from tigerjax.records.document import as_document
from tigerjax.records.fields import DENIED_SOURCES, denied, record_id, refuse_denied, unique_id
from tigerjax.records.formats import blocks, output_name, read, read_block
from tigerjax.records.inputs import Paths, distinct_names, expand, speed
from tigerjax.records.preferences import Unusable, as_preference
from tigerjax.records.sft import as_sft
from tigerjax.records.validated import as_record, documents, sft_examples, text_of

__all__ = [
    "DENIED_SOURCES",
    "Block",
    "Paths",
    "Record",
    "Unusable",
    "as_document",
    "as_preference",
    "as_record",
    "as_sft",
    "blocks",
    "denied",
    "distinct_names",
    "documents",
    "expand",
    "output_name",
    "read",
    "read_block",
    "record_id",
    "refuse_denied",
    "sft_examples",
    "speed",
    "text_of",
    "unique_id",
]
