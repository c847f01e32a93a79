"""Adds Chinese pieces to a base tokenizer, so that no id of text without Chinese changes.

The new pieces come from a BPE that was trained on Chinese text. Those are taken that consist of Han characters, CJK
punctuation and full-width forms only, and that the base does not have. They keep their order, and get scores below all
of the base: piece k gets floor(base minimum) - 1 - k. Then

1. a new piece can only be formed inside a run of CJK characters, so other text keeps its ids, even between Chinese;
2. inside a run, merges happen in the trained order;
3. all parts of a new piece are there too, so every new id can occur;
4. no two new scores are equal, so every implementation gives the same ids.

SentencePiece ranks single characters after all merges. If the list were cut off at a number, a character could be
missing that a chosen piece is made of. So each piece brings its missing characters along. (Where none would be missing,
this selects the same pieces as a plain cut.) A character that is in no chosen piece may be left out when the new model
has more pieces than are needed, however common it is; a comma is an example, as nothing is merged with it.
`characters_left_out` counts these. A new model that was trained to exactly the size that is needed leaves none out.
Where the text has more new characters than pieces are needed, no size of it does, and the vocabulary must be larger.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from tigerjax.errors import ConfigError
from tigerjax.files.manifest import stage, write_json
from tigerjax.tokenizer.added import MODEL_FILE, SPECIALS_FILE
from tigerjax.tokenizer.export import export
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.model_file import NORMAL, SPECIAL_TEXTS, new_proto, processor, read_proto

MAX_NAMED = 3
"""The most bad pieces that an error names; it counts them all."""
CJK_RANGES = (
    (0x2E80, 0x2FDF),  # radicals
    (0x3001, 0x303F),  # CJK symbols and punctuation, without the ideographic space
    (0x3400, 0x4DBF),  # extension A
    (0x4E00, 0x9FFF),  # unified ideographs
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0xFE30, 0xFE4F),  # vertical punctuation
    (0xFF01, 0xFF65),  # full-width letters, digits and punctuation: newspapers print numbers in these
    (0xFFE0, 0xFFE6),  # full-width signs
    (0x20000, 0x2FA1F),  # extensions B to F
    (0x30000, 0x323AF),  # extensions G and H
)
MOST_SHOWN = 40
"""The most characters left out that the figures name. The most common come first, as the trainer ranks them so."""
BPE = 2
"""model_type of a SentencePiece BPE; 1 is unigram, whose scores are not merge priorities."""


def is_cjk(character: str) -> bool:
    """Whether a character is Han, CJK punctuation or full-width. Curly quotes and dashes are not: English has them."""
    code = ord(character)
    return code >= CJK_RANGES[0][0] and any(first <= code <= last for first, last in CJK_RANGES)


def has_cjk(text: str) -> bool:
    """Whether the text has a CJK character. Only the ids of such text may change."""
    return any(map(is_cjk, text))


@dataclasses.dataclass(frozen=True)
class Piece:
    """One entry of the new vocabulary."""

    text: str
    score: float


def _check_model(proto: Any, path: Path, what: str) -> None:
    if proto.trainer_spec.model_type != BPE:
        raise ConfigError(
            f"{what} {path} is not BPE (model_type {proto.trainer_spec.model_type}): unigram scores are not merge"
            " priorities; train it with `tigerjax tokenizer train`"
        )
    if proto.normalizer_spec.precompiled_charsmap or proto.normalizer_spec.name not in ("identity", ""):
        raise ConfigError(
            f"{what} {path} has normaliser {proto.normalizer_spec.name!r}; the merge rule needs identity, or old ids"
            " would change"
        )
    texts = [piece.piece for piece in proto.pieces]
    if len(set(texts)) != len(texts):
        twice = sorted(text for text, count in Counter(texts).items() if count > 1)
        raise ConfigError(
            f"{what} {path} has {len(twice)} duplicate pieces, such as {twice[:MAX_NAMED]};"
            " train it with `tigerjax tokenizer train`"
        )


def base_minimum(proto: Any) -> float:
    """The lowest score of a NORMAL piece that is not only whitespace (Llama-2 has 16 of these, with -1e9)."""
    return min(piece.score for piece in proto.pieces if piece.type == NORMAL and piece.piece.strip("▁"))


def candidates(base: Any, new: Any, script_filter: Literal["cjk", "none"] = "cjk") -> list[str]:
    """The NORMAL pieces of the new model, in their order, that the base lacks and that pass the script filter."""
    old = {piece.piece for piece in base.pieces}
    ranked = sorted(
        (i for i, piece in enumerate(new.pieces) if piece.type == NORMAL), key=lambda i: (-new.pieces[i].score, i)
    )
    texts = (new.pieces[i].piece for i in ranked)
    return [t for t in texts if t not in old and (script_filter == "none" or all(map(is_cjk, t)))]


def select(ranked: list[str], have: Iterable[str], count: int) -> list[str]:
    """The first `count` of the ranked pieces in their order, with every single character that they are made of.

    `have` are the pieces of the base.
    """
    known, available = set(have), set(ranked)
    chosen: set[str] = set()
    for text in ranked:
        if text in chosen:
            continue
        missing = {c for c in text if c not in known and c not in chosen} | {text}
        if len(chosen) + len(missing) <= count and missing <= available:
            chosen |= missing
        if len(chosen) == count:
            break
    return [text for text in ranked if text in chosen]


def fitting_size(new: Any, ranked: list[str], need: int) -> int:
    """The size at which the new model, trained on the same text, would have exactly `need` pieces to add.

    It can be computed, as a smaller model has the first merges of a larger one, and all of its single characters.
    """
    alive = set(ranked)
    pieces = [(-piece.score, piece.piece) for piece in new.pieces if piece.type == NORMAL and len(piece.piece) > 1]
    left, size = need - sum(len(text) == 1 for text in ranked), len(new.pieces) - len(pieces)
    for _, text in sorted(pieces, key=lambda pair: pair[0]):
        if left <= 0:
            break
        left -= text in alive
        size += 1
    return size


def _merged(base: Any, texts: list[str], score_rule: str) -> Any:
    proto = new_proto()
    proto.CopyFrom(base)
    top = math.floor(base_minimum(base)) - 1
    for k, text in enumerate(texts):
        score = float(top - k) if score_rule == "below_base" else 0.0
        proto.pieces.add(piece=text, score=score, type=NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    # A float32 holds integers of 24 bits exactly. Larger neighbours would become equal.
    assert score_rule != "below_base" or abs(top - len(texts)) < 2**24, (top, len(texts))
    return proto


def dead_pieces(proto: Any, first: int) -> list[int]:
    """The ids from `first` on that can never occur: not even their own text is encoded to them."""
    bare = new_proto()
    bare.CopyFrom(proto)
    bare.normalizer_spec.add_dummy_prefix = False
    encode = processor(bare, Path(MODEL_FILE)).encode
    return [i for i in range(first, len(bare.pieces)) if encode(bare.pieces[i].piece) != [i]]


def extend(
    base: Path,
    new: Path,
    size: int,
    out: Path,
    *,
    script_filter: Literal["cjk", "none"] = "cjk",
    score_rule: Literal["below_base", "base_style_zero"] = "below_base",
    verify: bool = False,
) -> dict[str, Any]:
    """Writes a tokenizer folder of exactly `size` entries, the three specials last; returns the manifest.

    `base` and `new` are tokenizer folders or .model files, both BPE with the identity normaliser. ConfigError when too
    few new pieces pass the filter. Other values of `script_filter` and `score_rule` than the defaults are for
    comparisons only. `verify` is that of `manifest.stage`.
    """
    old_model, new_model = read_proto(base), read_proto(new)
    _check_model(old_model, base, "base")
    _check_model(new_model, new, "new model")
    old_count = len(old_model.pieces)
    if Tokenizer(base).size != old_count:
        raise ConfigError(f"base {base} is extended already: it has special tokens; give its {MODEL_FILE} alone")
    need = size - old_count - len(SPECIAL_TEXTS)
    if need < 1:
        raise ConfigError(
            f"vocab_size={size} leaves {need} new pieces after {old_count} of the base and {len(SPECIAL_TEXTS)} special"
            f" tokens; give at least {old_count + len(SPECIAL_TEXTS) + 1}"
        )
    config = {"size": size, "script_filter": script_filter, "score_rule": score_rule}
    with stage(out, name="tokenizer_extend", config=config, inputs=[base, new], verify=verify) as run:
        if run.done:
            return run.manifest or {}
        have = [piece.piece for piece in old_model.pieces]
        ranked = candidates(old_model, new_model, script_filter)
        unreachable = 0
        while True:
            texts = select(ranked, have, need)
            proto = _merged(old_model, texts, score_rule)
            dead = set(dead_pieces(proto, old_count)) if score_rule == "below_base" else set()
            if not dead:
                break
            # CJK pieces of the base are merged first, which can make a new piece unreachable. Others take its place.
            unreachable += len(dead)
            gone = {proto.pieces[i].piece for i in dead}
            ranked = [text for text in ranked if text not in gone]
        if len(texts) < need:  # found only here: a piece that is missed above may be unreachable
            less = old_count + len(texts) + len(SPECIAL_TEXTS)
            raise ConfigError(
                f"only {len(texts)} of {len(new_model.pieces)} pieces of {new} survive the merge rule, {need} are"
                f" needed for vocab_size={size}; train the new model larger (now {len(new_model.pieces)})"
                + (f", or ask for {less} at most" if texts else " or on other text: none of its pieces is new")
            )
        (run.tmp / MODEL_FILE).write_bytes(proto.SerializeToString())
        first = len(proto.pieces)
        chosen = set(texts)
        characters = sum(len(text) == 1 for text in ranked)
        left_out = [text for text in ranked if len(text) == 1 and text not in chosen]
        write_json(
            run.tmp / SPECIALS_FILE,
            {name: {"text": text, "id": first + n} for n, (name, text) in enumerate(SPECIAL_TEXTS.items())},
        )
        export(run.tmp)
        run.figures = {
            "vocab_size": size,
            "base_pieces": old_count,
            "new_pieces": len(texts),
            "survivors": len(ranked) + unreachable,
            "unreachable_skipped": unreachable,
            "fitting_size": fitting_size(new_model, ranked, need),
            "characters_left_out": len(left_out),
            "most_common_left_out": "".join(left_out[:MOST_SHOWN]),
            "highest_new_score": proto.pieces[old_count].score,
            "base_minimum": base_minimum(old_model),
        }
        if characters > need:  # each of them stands in every new model of this text, however small
            run.figures["fitting_vocab_size"] = size + characters - need
    return run.manifest or {}
