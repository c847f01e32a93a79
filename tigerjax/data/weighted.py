"""Documents of a weight: how often each stands in an epoch of its source.

The field `weight` of a document says how often it is read in an epoch on average: 0.25 in one of four epochs, 1 in
each, 2.5 twice or three times. A hash of the id and the number of the epoch decide, so nothing is drawn, and a document
stays with what was chosen for it when others come and go. Over the passes for which rows are made, a document stands
weight x passes times, or the whole number next to that.
"""

from collections.abc import Iterable, Iterator, MutableMapping

from tigerjax.files.jsonl import Record
from tigerjax.records import first_of

PASS = "pass"
"""In a record that was chosen: the number of the pass."""
LEFT_OUT, REPEATED = "left_out_by_weight", "repeated_by_weight"
"""Counts: documents, or further copies, by pass."""
UNREAD = "weights_not_read"
"""The count of documents with a weight in a source that reads none."""


def times(identity: str, weight: float, number: int, passes: int) -> int:
    """How often the document stands in the pass of this number, of so many."""
    from xxhash import xxh3_64_intdigest

    place = xxh3_64_intdigest(f"weight {first_of(identity)}".encode("utf-8", "surrogatepass")) / 2**64
    return int(weight + (place + number / passes) % 1.0)


def copies(identity: str, weight: float, number: int, passes: int, counts: MutableMapping[str, int]) -> int:
    """As `times`; adds to the counts of what was left out and repeated."""
    found = times(identity, weight, number, passes)
    what, more = (REPEATED, found - 1) if found else (LEFT_OUT, 1)
    counts[what] = counts.get(what, 0) + more
    return found


def chosen(documents: Iterable[Record], number: int, passes: int, counts: MutableMapping[str, int]) -> Iterator[Record]:
    """The documents of the pass of this number, each as often as it stands there, with the number in PASS.

    Each has its `weight` as a number (`records.documents` with `weighted`).
    """
    for document in documents:
        for _ in range(copies(document["id"], document["weight"], number, passes, counts)):
            yield {**document, PASS: number}
