"""Characters per token on held-out Chinese, before and after a vocabulary grows, for `replicate.py`.

`embedded`: 90% of the embedded Chinese books train pieces for the shipped base of 32,000, the rest is measured; the
vocabulary grows by so many pieces as the arm says. `by-name`: the documents that `real_sources.py` installs, 28,512
pieces as in TigerBot's 60,515; a seed holds out 2% of the documents, and samples verse by a tenth as `real_text.py`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from tigerjax.quickstart import state as quick

BASE = quick.EMBEDDED / "base_32000.model"
EMBEDDED_PIECES = (250, 500, 1000, 1750)
EMBEDDED_TRAINED, EMBEDDED_HELD_OUT = 3400, 0.1
BY_NAME_SIZE, BY_NAME_HELD_OUT, BY_NAME_TRAINED = 60_515, 0.02, 42_500
VERSE = ("tang_zh", "song_zh", "ci_zh")
VERSE_SHARE = 0.1


def embedded(out: Path, seed: int) -> dict[str, Any]:
    """Before and after by number of new pieces, and what became of English."""
    from tigerjax.files.jsonl import write_jsonl
    from tigerjax.tokenizer.extend import extend
    from tigerjax.tokenizer.train import train_model

    folder = out / "work" / f"tokens-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    books = [d for d in quick.read(quick.EMBEDDED / "corpus_zh.jsonl") if d["source"] != "facts"]
    english = [d["text"] for d in quick.read(quick.EMBEDDED / "corpus_en.jsonl")]
    trained, held = _split(books, seed, EMBEDDED_HELD_OUT)
    write_jsonl(folder / "train.jsonl", trained)
    train_model([folder / "train.jsonl"], EMBEDDED_TRAINED, folder / "zh")
    figures: dict[str, Any] = {"trained_on": sum(len(d["text"]) for d in trained), "before": _ratio(BASE, held)}
    figures["english_before"] = _tokens(BASE, english)
    for pieces in EMBEDDED_PIECES:
        target = folder / f"plus_{pieces}"
        extend(BASE, folder / "zh", 32_000 + pieces + 3, target)
        figures[f"+{pieces}"] = _ratio(target, held)
        figures["english_after"] = _tokens(target, english)
    return figures


def by_name(out: Path, seed: int, text: Path) -> dict[str, Any]:
    """Before and after of all sources together and of each, at 60,515 entries."""
    from tigerjax.files.jsonl import write_jsonl
    from tigerjax.tokenizer.extend import extend
    from tigerjax.tokenizer.train import train_model

    folder = out / "work" / f"by-name-{seed}"
    (folder / "train").mkdir(parents=True, exist_ok=True)
    held: dict[str, list[Any]] = {}
    given = []
    for path in sorted(text.glob("*_zh.jsonl")):
        trained, held[path.stem] = _split(quick.read(path), seed, BY_NAME_HELD_OUT)
        if path.stem in VERSE:
            trained = [d for d in trained if _fraction(seed, f"verse {d['id']}") < VERSE_SHARE]
        given.append(folder / "train" / path.name)
        write_jsonl(given[-1], trained)
    train_model(given, BY_NAME_TRAINED, folder / "first")
    size = extend(BASE, folder / "first", BY_NAME_SIZE, folder / "grown_first")["figures"]["fitting_size"]
    train_model(given, size, folder / "zh")
    extend(BASE, folder / "zh", BY_NAME_SIZE, folder / "grown")
    everything = [d for documents in held.values() for d in documents]
    figures: dict[str, Any] = {"before": _ratio(BASE, everything), "after": _ratio(folder / "grown", everything)}
    figures["by_source"] = {
        name: [_ratio(BASE, documents), _ratio(folder / "grown", documents)]
        for name, documents in held.items()
        if documents
    }
    return figures


def _fraction(seed: int, name: str) -> float:
    return xxhash.xxh3_64_intdigest(f"{seed}\0{name}".encode()) / 2**64


def _split(documents: Iterable[dict[str, Any]], seed: int, share: float) -> tuple[list[Any], list[Any]]:
    """(trained, held out), by the hash of the seed and the id."""
    sides: tuple[list[Any], list[Any]] = ([], [])
    for document in documents:
        sides[_fraction(seed, document["id"]) < share].append(document)
    return sides


def _ratio(tokenizer: Path, documents: list[dict[str, Any]]) -> float:
    """Characters per token."""
    texts = [d["text"] for d in documents]
    return sum(map(len, texts)) / _tokens(tokenizer, texts)


def _tokens(tokenizer: Path, texts: list[str]) -> int:
    from tigerjax.tokenizer.load import Tokenizer

    return sum(map(len, Tokenizer(tokenizer).encode_batch(texts)))
