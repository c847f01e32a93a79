"""How often a document is in the rows of its source: by its weight and a hash of its id."""

import math

NOT_TAKEN, TAKEN_AGAIN = "not taken", "taken again"
"""Names of the counts of documents that are in no row because of their weight, and of further copies of others."""


def times(identity: str, weight: float) -> int:
    """How many copies of a document are in the rows: weight + u, rounded down, where u in [0, 1) is a hash of the id.

    Of documents of weight 0.3 three in ten are there, and of weight 2.5 half are there twice and half three times. The
    hash depends on nothing else, so a document that is there stays when its weight grows, or when others are added.
    """
    import xxhash

    drawn = xxhash.xxh3_64_intdigest(f"weight {identity}".encode("utf-8", "surrogatepass"))
    return math.floor(weight + drawn / 2**64)
