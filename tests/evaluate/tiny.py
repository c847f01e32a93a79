"""A tiny random Llama for evaluation; no two sizes equal, padding columns that would win if nothing masked them."""

import numpy as np

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.convert.table import put, table

COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=48)
CONTEXT = 80
CONFIG = ModelConfig(
    num_layers=2,
    model_dim=16,
    mlp_dim=40,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    vocab_size=262,
    padded_vocab_size=272,
    rope_base=3000.0,
    norm_eps=3e-4,
)


def weights(config=CONFIG, seed=0):
    rng, out = np.random.default_rng(seed), {}
    for row in table(config, rows=config.vocab_size):
        shape = row.stacked_shape(config)
        scale = 1.0 if "norm" in row.ours else 0.0
        put(out, row.ours, (scale + 0.3 * rng.normal(size=shape)).astype(np.float32))
    out["embed"] *= 4
    out["head"][:, config.vocab_size :] = 50.0
    return out


def sequences(count=11, seed=1, vocab=CONFIG.vocab_size):
    """(ids, first) of lengths in two buckets, scored from everywhere."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 70, count)
    return [(rng.integers(3, vocab, n).tolist(), int(rng.integers(1, n))) for n in lengths]
