"""What of an extended tokenizer.json can be checked without a text."""

from pathlib import Path
from typing import Any

from tigerjax.tokenizer import bpe
from tigerjax.tokenizer.bpe import Base

PROPERTIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("old ids and merges stay", ("old_ids_changed", "old_merges_changed")),
    ("no id changes outside Chinese", ("plain_lines_changed", "mixed_lines_changed")),
    ("every new row is alive", ("dead_rows",)),
    ("decode(encode(x)) = x", ("round_trip_failures",)),
    ("merges, entries, rest of the file", ("merges_not_allowed", "entry_errors", "header_errors")),
    ("no special token from text", ("specials_from_text",)),
    ("Hugging Face gives the same ids", ("hf_mismatches",)),
)
"""The seven properties of an extended byte-level BPE, each with its figures."""


def structure(folder: Path, base: Path) -> dict[str, Any]:
    """{vocab_size, new_pieces, old_ids_changed, old_merges_changed, merges_not_allowed, entry_errors, header_errors,
    dead_rows} of the tokenizer.json in `folder`, which was extended from that in `base`.

    `entry_errors` counts new entries that no new merge makes, and new merges without an entry of their own.
    `header_errors` counts parts of the file that differ though only entries and merges may.
    """
    old, new = bpe.read(base), bpe.read(folder)
    before, after = _entries(old), _entries(new)
    learnt = new.merges[len(old.merges) :]
    added = {text: i for text, i in after.items() if text not in before}
    made = {first + second for first, second in learnt}
    expected = set(range(old.described.size, new.described.size))
    cut = bpe.made(new.described.content)
    return {
        "vocab_size": new.described.size,
        "new_pieces": len(added),
        "old_ids_changed": sum(after.get(text) != i for text, i in before.items()),
        "old_merges_changed": sum(
            one != other for one, other in zip(old.merges, new.merges[: len(old.merges)], strict=False)
        )
        + max(0, len(old.merges) - len(new.merges)),
        "merges_not_allowed": sum(not _allowed(pair) for pair in learnt),
        "entry_errors": len(made ^ set(added)) + len(learnt) - len(made) + len(expected ^ set(added.values())),
        "header_errors": _changed_parts(old.described.content, new.described.content),
        "dead_rows": len(bpe.dead(cut, ((text, i) for text, i in added.items() if _known(text)))),
    }


def _entries(of: Base) -> dict[str, int]:
    return of.vocab | {text: i for i, text in of.described.added.items()}


def _known(token: str) -> bool:
    """Whether the letters of a token stand for bytes; an entry that no merge makes may have others."""
    try:
        return bool(bpe.bytes_of(token))
    except KeyError:
        return False


def _allowed(pair: bpe.Pair) -> bool:
    return all(map(_known, pair)) and bpe.allowed(pair)


def _changed_parts(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Parts of two tokenizer.json that differ, apart from entries and merges."""
    pairs = [(old, new, {"model"}), (old["model"], new["model"], {"vocab", "merges"})]
    return sum(one.get(name) != other.get(name) for one, other, skip in pairs for name in {*one, *other} - skip)
