"""A checkpoint's vocabulary grown from a base tokenizer's to an extended one's."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from tigerjax.config import ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model.layers import NORMAL
from tigerjax.tokenizer.added import FAST_FILE, MODEL_FILE

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer


InitialRows = Literal["mean", "random"]
"""How the rows of new tokens begin: as the mean of the rows of the old tokens that spell the same text, or as in a new
model."""


def first_new(base: "Tokenizer") -> int:
    """The id of the first token that an extension adds. In a tokenizer.json the added tokens keep their ids."""
    return base.size if base.is_json else base.pieces


def sub_tokens(vocab_size: int, base: "Tokenizer", new: "Tokenizer") -> list[list[int]]:
    """For each id from `first_new` on, the old ids whose mean its row becomes.

    For a piece they are those with which the base spells the same text; no "▁" is put before it. For an added token
    that the base has too, it is the old one. For a new pad the list is empty.

    `vocab_size` is the checkpoint's. ConfigError when it is not the base's, or when the new tokenizer is of another
    kind, does not begin with the pieces of the base, or lacks one of its added tokens.
    """
    if base.is_json != new.is_json:
        kinds = (MODEL_FILE, FAST_FILE)
        raise ConfigError(
            f"tokenizer {new.folder} is a {kinds[new.is_json]}, and {base.folder} a {kinds[base.is_json]}: neither is"
            " made of the other; give what `tigerjax tokenizer extend` made of the model's own"
        )
    if vocab_size != base.size:
        raise ConfigError(
            f"checkpoint has vocab_size={vocab_size}, base tokenizer {base.folder} has {base.size} entries;"
            " give the tokenizer that the checkpoint was trained with"
        )
    if base.is_json:
        from tigerjax.tokenizer import bpe  # the numeric core imports without `tokenizers`

        return bpe.old_parts(bpe.read(base.folder), bpe.read(new.folder))
    if new.pad is None:
        raise ConfigError(
            f"new tokenizer {new.folder} must not be without special tokens; the one to grow into comes from"
            " `tigerjax tokenizer extend`"
        )
    changed = [i for i in range(base.pieces) if i >= new.pieces or base.piece(i) != new.piece(i)]
    if changed:
        raise ConfigError(
            f"tokenizer {new.folder} is not an extension of {base.folder}: {len(changed)} entries differ, the first is"
            f" id {changed[0]}; give the tokenizer that was made of it by `tigerjax tokenizer extend`"
        )
    old = {new.pad if i == base.pad else text: i for i, text in base.added.items()}
    if gone := [text for text in old if text not in (new.pad, *new.added.values())]:
        raise ConfigError(
            f"tokenizer {new.folder} lacks {len(gone)} added tokens of {base.folder}, such as {gone[0]!r}: their rows"
            f" would be lost; if that is meant, import with --vocab-size {base.pieces}, and give the tokenizer.model"
            " alone as base"
        )

    def stands_for(i: int) -> list[int]:
        text = new.piece(i)
        if i in new.added and (key := i if i == new.pad else text) in old:
            return [old[key]]
        return [] if i == new.pad else base.encode_bare(text.replace("\u2581", " "))

    return [stands_for(i) for i in range(base.pieces, new.size)]


def moved(kept: int, sub_tokens: list[list[int]]) -> dict[int, int]:
    """{old id: new id} of the added tokens, which stand behind the new pieces once a vocabulary has grown.

    `kept` is `first_new` of the base, and `sub_tokens` are those of this module."""
    return {ids[0]: i for i, ids in enumerate(sub_tokens, kept) if len(ids) == 1 and ids[0] >= kept}


def _grown(old_VD: np.ndarray, kept: int, sub_tokens: list[list[int]], rows: int) -> np.ndarray:
    """The first `kept` rows, then one for each list: the float32 mean of those old rows. Then zeros up to `rows`."""
    out_VD = np.zeros((rows, old_VD.shape[1]), old_VD.dtype)
    out_VD[:kept] = old_VD[:kept]
    for n, ids in enumerate(sub_tokens, kept):
        if ids:
            out_VD[n] = old_VD[ids].astype(np.float32).mean(axis=0, dtype=np.float32).astype(old_VD.dtype)
    return out_VD


def resize(
    weights: dict[str, Any],
    config: ModelConfig,
    base: "Tokenizer",
    new: "Tokenizer",
    *,
    multiple: int = 128,
    rows: InitialRows = "mean",
    seed: int = 0,
) -> tuple[dict[str, Any], ModelConfig]:
    """Weights and config for the extended tokenizer; `embed` and `head` become numpy arrays, the rest is untouched.

    A new row is the mean of the base rows that spell the same text, or drawn at random by `seed`. The pad's row and the
    padding up to a multiple are zero. The rows of the base's pieces keep every bit, and those of its added tokens move
    behind the new pieces. ConfigError when the checkpoint's vocabulary is not the base's, or when the new tokenizer is
    no extension of it.
    """
    stands_for = sub_tokens(config.vocab_size, base, new)
    if multiple < 1:
        raise ConfigError(f"multiple={multiple} must be at least 1")
    padded = -(-new.size // multiple) * multiple
    shapes = {"embed": (config.padded_vocab_size, config.model_dim)}
    if not config.tied:
        shapes["head"] = (config.model_dim, config.padded_vocab_size)
    for name, shape in shapes.items():
        if name not in weights or tuple(weights[name].shape) != shape:
            given = tuple(weights[name].shape) if name in weights else "missing"
            raise ConfigError(f"weight {name} is {given}, the checkpoint's config needs {shape}")
    kept = first_new(base)
    old = {"embed": np.asarray(weights["embed"])}
    if not config.tied:
        old["head"] = np.asarray(weights["head"]).T
    grown = {name: _grown(old_VD, kept, stands_for, padded) for name, old_VD in old.items()}
    if rows == "random":
        own = [i for i, ids in enumerate(stands_for, kept) if ids and not (i in new.added and ids[0] in base.added)]
        for n, out_VD in enumerate(grown.values()):
            key = jax.random.fold_in(jax.random.key(seed), n)
            out_VD[own] = NORMAL(key, (len(own), config.model_dim), out_VD.dtype)
    resized = weights | {"embed": grown["embed"]}
    if not config.tied:
        resized["head"] = np.ascontiguousarray(grown["head"].T)
    return resized, dataclasses.replace(config, vocab_size=new.size, padded_vocab_size=padded)
