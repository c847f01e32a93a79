"""Random weights of the tiny Llama, with padding columns that would win if nothing masked them; and sequences."""

import numpy as np
from tiny_model import COMPUTE, CONFIG, ByteTokenizer

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.weights import put

CONTEXT = 80


def weights(config=CONFIG, seed=0):
    rng, out = np.random.default_rng(seed), {}
    for row in hf_rows(config, rows=config.vocab_size):
        shape = row.stacked_shape(config)
        scale = 1.0 if "norm" in row.ours else 0.0
        put(out, row.ours, (scale + 0.3 * rng.normal(size=shape)).astype(np.float32))
    out["embed"] *= 4
    out["head"][:, config.vocab_size :] = 50.0
    return out


def loaded(config=CONFIG, tokenizer=None, **others) -> Loaded:
    """These weights as an evaluation takes them."""
    given = {"tokenizer": tokenizer or ByteTokenizer(), "compute": COMPUTE, "sha256": "m"} | others
    return Loaded(config=config, weights=weights(config), **given)


def sequences(count=11, seed=1, vocab=CONFIG.vocab_size):
    """(ids, first) of lengths in two buckets, scored from everywhere."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 70, count)
    return [(rng.integers(3, vocab, n).tolist(), int(rng.integers(1, n))) for n in lengths]
