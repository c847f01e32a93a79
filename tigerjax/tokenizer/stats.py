"""What a tokenizer makes of texts: characters and bytes a token, characters that fall back to bytes, unused pieces."""

from collections import Counter
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.tokenizer.load import BYTE, Tokenizer, read_proto
from tigerjax.tokenizer.sample import Progress, read_all
from tigerjax.tokenizer.verify import language

MOST_SHOWN = 40
"""Characters in bytes that the figures name, the most frequent first."""


def stats(folder: Path, texts: list[Path], progress: Progress | None = None) -> dict[str, Any]:
    """By language (a record's `lang`, else told by the share of CJK): characters, tokens, chars_per_token,
    bytes_per_token, and byte_share, the share of characters that have no piece and cost a token a byte.

    `in_bytes` names the most frequent of those characters; `unused_pieces` counts entries that no line used.
    """
    tok = Tokenizer(folder)
    is_byte = [piece.type == BYTE for piece in read_proto(folder).pieces]
    by_language: dict[str, Counter[str]] = {}
    in_bytes: Counter[str] = Counter()
    used: set[int] = set()
    for _, text, declared in read_all(texts, progress and progress("measured", "GB")):
        for line in filter(None, text.split("\n")):
            found = by_language.setdefault(declared or language(line), Counter())
            spans = tok.encode_spans(line)
            used.update(i for i, *_ in spans)
            # of a character's bytes, only the last one has a span that is not empty
            fallen = Counter(line[begin:end] for i, begin, end in spans if is_byte[i] and end > begin)
            in_bytes.update(fallen)
            found.update(
                characters=len(line),
                bytes=len(line.encode()),
                tokens=len(spans),
                in_bytes=fallen.total(),
            )
    if not by_language:
        raise DataError(f"{', '.join(map(str, texts))}: no text to measure the tokenizer on")
    return {
        "vocab_size": tok.size,
        "languages": {
            lang: {
                "characters": found["characters"],
                "tokens": found["tokens"],
                "chars_per_token": round(found["characters"] / found["tokens"], 4),
                "bytes_per_token": round(found["bytes"] / found["tokens"], 4),
                "byte_share": round(found["in_bytes"] / found["characters"], 6),
            }
            for lang, found in sorted(by_language.items())
        },
        "in_bytes": dict(sorted(in_bytes.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_SHOWN]),
        "unused_pieces": tok.pieces - len(used),
    }
