"""Measures a tokenizer on texts: characters and bytes per token, characters that become byte tokens, unused pieces."""

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.texts import HERE, RecordText, TextRunner, over
from tigerjax.tokenizer.verify import language

MOST_SHOWN = 40
"""The most characters without a piece that the figures name; the most frequent come first."""


def _measured(folder: Path, number: int, texts: Iterator[RecordText]) -> dict[str, Any]:
    """The sums of a block's lines by language, its characters without a piece, and the pieces that it uses."""
    tok = Tokenizer(folder)
    by_language: dict[str, Counter[str]] = {}
    in_bytes: Counter[str] = Counter()
    used: set[int] = set()
    for _, text, declared in texts:
        for line in filter(None, text.split("\n")):
            counts = by_language.setdefault(declared or language(line), Counter())
            spans = tok.encode_spans(line)
            used.update(i for i, *_ in spans)
            # Of the byte tokens of a character, only the last has a length.
            fallen = Counter(line[begin:end] for i, begin, end in spans if end > begin and tok.is_byte(i))
            in_bytes.update(fallen)
            counts.update(characters=len(line), bytes=len(line.encode()), tokens=len(spans), in_bytes=fallen.total())
    return {"by_language": by_language, "in_bytes": in_bytes, "used": sorted(used)}


def stats(folder: Path, texts: list[Path], runner: TextRunner = HERE) -> dict[str, Any]:
    """The figures of a tokenizer on texts.

    For each language: characters, tokens, chars_per_token, bytes_per_token, and byte_share. The last is the share of
    characters that have no piece, so that each of their bytes is a token. The language is a record's `lang`, or else
    guessed by the share of CJK characters. `in_bytes` names the most frequent characters without a piece, and
    `unused_pieces` counts the pieces that no line used. Raises DataError where there is no text.
    """
    tok = Tokenizer(folder)
    by_language: dict[str, Counter[str]] = {}
    in_bytes: Counter[str] = Counter()
    used: set[int] = set()
    for block in over(functools.partial(_measured, folder), texts, runner, "measured"):
        for lang, counts in block["by_language"].items():
            by_language.setdefault(lang, Counter()).update(counts)
        in_bytes.update(block["in_bytes"])
        used.update(block["used"])
    if not by_language:
        raise DataError(f"{', '.join(map(str, texts))}: no text to measure the tokenizer on; give files that hold some")
    return {
        "vocab_size": tok.size,
        "languages": {
            lang: {
                "characters": counts["characters"],
                "tokens": counts["tokens"],
                "chars_per_token": round(counts["characters"] / counts["tokens"], 4),
                "bytes_per_token": round(counts["bytes"] / counts["tokens"], 4),
                "byte_share": round(counts["in_bytes"] / counts["characters"], 6),
            }
            for lang, counts in sorted(by_language.items())
        },
        "in_bytes": dict(sorted(in_bytes.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_SHOWN]),
        "unused_pieces": tok.pieces - len(used),
    }
