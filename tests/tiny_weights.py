"""One tiny random model for all rooms that decode: that of `tiny_model`, with three key heads and more columns."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tiny_model import CONFIG, ByteTokenizer

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import FLOAT32, ModelConfig
from tigerjax.model import decoder
from tigerjax.model.layers import init


class Tiny(NamedTuple):
    config: ModelConfig
    weights: dict
    tokenizer: ByteTokenizer

    def loaded(self, **others) -> Loaded:
        """What the sampler takes."""
        return Loaded(**(self._asdict() | {"compute": FLOAT32, "sha256": "m"} | others))

    def logits(self, ids: list[int]) -> np.ndarray:
        """logits_TV of a whole forward pass without a cache, at one padded length."""
        tokens_BT = np.zeros((1, 96), np.int32)
        tokens_BT[0, : len(ids)] = ids
        segment_ids_BT = (np.arange(96) < len(ids)).astype(np.int32)[None]
        return np.asarray(_forward(self.weights, self.config, tokens_BT, segment_ids_BT))[0, : len(ids)]


def _apply(weights: dict, config: ModelConfig, tokens_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    return decoder.LanguageModel(config, FLOAT32).apply({"params": weights}, tokens_BT, positions_BT, segment_ids_BT)


_forward = jax.jit(_apply, static_argnums=1)


def make() -> Tiny:
    """Weights large enough that the next token is far from uniform; eos likely enough that answers end."""
    config = dataclasses.replace(CONFIG, model_dim=24, num_heads=6, num_kv_heads=3, head_dim=10)
    shapes = nn.unbox(jax.eval_shape(lambda k: init(decoder.LanguageModel(config, FLOAT32), k), jax.random.key(0)))
    rng = np.random.default_rng(1)
    weights = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) * 0.15, jnp.float32), shapes)
    for norm in (weights["final_norm"], weights["layers"]["attn_norm"], weights["layers"]["mlp_norm"]):
        norm["scale"] = norm["scale"] + 1
    weights["embed"] = weights["embed"] * 6
    # Padding columns that would win by far if nothing masked them.
    weights["head"] = (weights["head"] * 4).at[:, 262:].set(50.0)
    weights["head"] = weights["head"].at[:, 2].mul(3.0)
    return Tiny(config, weights, ByteTokenizer())
