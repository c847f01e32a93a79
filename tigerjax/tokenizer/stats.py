"""Measures a tokenizer on texts: characters and bytes per token, characters that become byte tokens, unused pieces."""

from collections import Counter
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files.progress import Progress
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.sample import read_all
from tigerjax.tokenizer.verify import language

MOST_SHOWN = 40
"""The most characters without a piece that the figures name; the most frequent come first."""


def stats(folder: Path, texts: list[Path], progress: Progress | None = None) -> dict[str, Any]:
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
    for _, text, declared in read_all(texts, progress and progress("measured", "GB")):
        for line in filter(None, text.split("\n")):
            counts = by_language.setdefault(declared or language(line), Counter())
            spans = tok.encode_spans(line)
            used.update(i for i, *_ in spans)
            # Of the byte tokens of a character, only the last has a length.
            fallen = Counter(line[begin:end] for i, begin, end in spans if end > begin and tok.is_byte(i))
            in_bytes.update(fallen)
            counts.update(
                characters=len(line),
                bytes=len(line.encode()),
                tokens=len(spans),
                in_bytes=fallen.total(),
            )
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
