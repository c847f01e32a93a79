"""A checkpoint's vocabulary grown from a base tokenizer's to an extended one's."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tigerjax.config import ModelConfig
from tigerjax.errors import ConfigError

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer


def sub_tokens(vocab_size: int, base: "Tokenizer", new: "Tokenizer") -> list[list[int]]:
    """For each new id, the ids of the base tokenizer that spell the same text; an empty list for the pad. No "▁" is put
    before a piece.

    `vocab_size` is the checkpoint's. ConfigError when it is not the base's, or when the new tokenizer does not begin
    with the entries of the base.
    """
    if vocab_size != base.size:
        raise ConfigError(
            f"checkpoint has vocab_size={vocab_size}, base tokenizer {base.folder} has {base.size} entries;"
            " give the tokenizer that the checkpoint was trained with (an extended checkpoint is not extended again)"
        )
    if base.pad is not None or new.pad is None:
        raise ConfigError(
            f"base {base.folder} must be without specials and new {new.folder} with them; the new one comes from"
            " `tigerjax tokenizer extend`"
        )
    changed = [i for i in range(base.size) if i >= new.pieces or base.piece(i) != new.piece(i)]
    if changed:
        raise ConfigError(
            f"tokenizer {new.folder} is not an extension of {base.folder}: {len(changed)} entries differ, the first is"
            f" id {changed[0]}"
        )
    return [
        [] if i == new.pad else base.encode_bare(new.piece(i).replace("\u2581", " "))
        for i in range(base.size, new.size)
    ]


def _grown(old_VD: np.ndarray, sub_tokens: list[list[int]], rows: int) -> np.ndarray:
    """old_VD with one more row for each list: the float32 mean of those old rows. Then zero rows up to `rows`."""
    out_VD = np.zeros((rows, old_VD.shape[1]), old_VD.dtype)
    out_VD[: len(old_VD)] = old_VD
    for n, ids in enumerate(sub_tokens, len(old_VD)):
        if ids:
            out_VD[n] = old_VD[ids].astype(np.float32).mean(axis=0, dtype=np.float32).astype(old_VD.dtype)
    return out_VD


def resize(
    weights: dict[str, Any], config: ModelConfig, base: "Tokenizer", new: "Tokenizer", *, multiple: int = 128
) -> tuple[dict[str, Any], ModelConfig]:
    """Weights and config for the extended tokenizer; `embed` and `head` become numpy arrays, the rest is untouched.

    A new row is the mean of the base rows that spell the same text. The pad's row and the padding up to a multiple are
    zero. The old rows keep every bit. ConfigError when the checkpoint's vocabulary is not the base's, or when the new
    tokenizer does not begin with the entries of the base.
    """
    stands_for = sub_tokens(config.vocab_size, base, new)
    if multiple < 1:
        raise ConfigError(f"multiple={multiple} must be at least 1")
    padded = -(-new.size // multiple) * multiple
    shapes = {
        "embed": (config.padded_vocab_size, config.model_dim),
        "head": (config.model_dim, config.padded_vocab_size),
    }
    for name, shape in shapes.items():
        if name not in weights or tuple(weights[name].shape) != shape:
            given = tuple(weights[name].shape) if name in weights else "missing"
            raise ConfigError(f"weight {name} is {given}, the checkpoint's config needs {shape}")
    embed_VD = np.asarray(weights["embed"])[: base.size]
    head_VD = np.asarray(weights["head"]).T[: base.size]
    resized = weights | {
        "embed": _grown(embed_VD, stands_for, padded),
        "head": np.ascontiguousarray(_grown(head_VD, stands_for, padded).T),
    }
    return resized, dataclasses.replace(config, vocab_size=new.size, padded_vocab_size=padded)
