"""Llama with a key-value cache: one prefill of a batch of prompts, then one token a row at a time.

Prompts are padded on the left, so that every row writes its next token into the same slot: one
dynamic_update_slice a layer instead of a scatter. A row's real tokens occupy slots start_B[b] .. filled-1, and the
position of slot s is s - start. The cache is an argument and a result; nothing here keeps state.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.model import attention, llama

Weights = Any


class Cache(NamedTuple):
    """Keys and values of every layer; start_B is the first real slot of a row, `filled` the next one to be written."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array
    start_B: jax.Array
    filled: jax.Array


def cast(weights: Weights, compute: ComputeConfig) -> Weights:
    """Weights in the activation dtype, once, instead of once a token."""
    return jax.tree.map(lambda a: a.astype(compute.dtype), weights)


def prefill(weights: Weights, config: ModelConfig, tokens_BT: jax.Array, start_B: jax.Array) -> tuple[jax.Array, Cache]:
    """logits_BV of the token after the last column, and the cache; tokens before start_B are padding on the left."""
    T = tokens_BT.shape[1]
    slots_T = jnp.arange(T)
    positions_BT = jnp.maximum(slots_T[None, :] - start_B[:, None], 0)
    mask_BTS = (slots_T[None, :, None] >= slots_T[None, None, :]) & (slots_T[None, None, :] >= start_B[:, None, None])

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, Any]:
        return attention.weigh(q_BTNH, k_BTKH, v_BTKH, mask_BTS), (k_BTKH, v_BTKH)

    def layer(x_BTD: jax.Array, w: Weights) -> tuple[jax.Array, Any]:
        return llama.Block(config, parent=None).apply({"params": w}, x_BTD, positions_BT, attend)

    x_BTD, (k_LBSKH, v_LBSKH) = jax.lax.scan(layer, weights["embed"][tokens_BT], weights["layers"])
    return _logits(weights, config, x_BTD[:, -1:]), Cache(k_LBSKH, v_LBSKH, start_B, jnp.int32(T))


def concatenate(caches: Sequence[Cache]) -> Cache:
    """Caches of equal length, one under the other."""
    return Cache(
        jnp.concatenate([c.k_LBSKH for c in caches], axis=1),
        jnp.concatenate([c.v_LBSKH for c in caches], axis=1),
        jnp.concatenate([c.start_B for c in caches]),
        caches[0].filled,
    )


def grow(cache: Cache, rows_R: jax.Array, slots: int) -> Cache:
    """The cache of one prompt batch given to the rows that continue it (row r continues prompt rows_R[r]), with room.

    This is where the n candidates of a prompt share its one prefill.
    """

    def take(a_LBSKH: jax.Array) -> jax.Array:
        return jnp.pad(a_LBSKH[:, rows_R], ((0, 0), (0, 0), (0, slots), (0, 0), (0, 0)))

    return Cache(take(cache.k_LBSKH), take(cache.v_LBSKH), cache.start_B[rows_R], cache.filled)


def decode_step(weights: Weights, config: ModelConfig, cache: Cache, token_B: jax.Array) -> tuple[jax.Array, Cache]:
    """logits_BV of the token after token_B, and the cache with token_B in it."""
    S, L = cache.k_LBSKH.shape[2], cache.k_LBSKH.shape[0]
    slots_S = jnp.arange(S)
    mask_BTS = ((slots_S >= cache.start_B[:, None]) & (slots_S <= cache.filled))[:, None, :]
    positions_BT = (cache.filled - cache.start_B)[:, None]

    def layer(carry: tuple[jax.Array, jax.Array, jax.Array], scanned: Any) -> tuple[Any, None]:
        # The caches travel as the carry, updated in place: as scanned outputs they would be copied whole every token.
        x_BTD, k_LBSKH, v_LBSKH = carry
        index, w = scanned
        at = (index, 0, cache.filled, 0, 0)

        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, Any]:
            new_k_LBSKH = jax.lax.dynamic_update_slice(k_LBSKH, k_BTKH[None], at)
            new_v_LBSKH = jax.lax.dynamic_update_slice(v_LBSKH, v_BTKH[None], at)
            out_BTNH = attention.weigh(q_BTNH, new_k_LBSKH[index], new_v_LBSKH[index], mask_BTS)
            return out_BTNH, (new_k_LBSKH, new_v_LBSKH)

        x_BTD, kept = llama.Block(config, parent=None).apply({"params": w}, x_BTD, positions_BT, attend)
        return (x_BTD, *kept), None

    start = (weights["embed"][token_B][:, None], cache.k_LBSKH, cache.v_LBSKH)
    (x_BTD, k_LBSKH, v_LBSKH), _ = jax.lax.scan(layer, start, (jnp.arange(L), weights["layers"]))
    return _logits(weights, config, x_BTD), Cache(k_LBSKH, v_LBSKH, cache.start_B, cache.filled + 1)


def _logits(weights: Weights, config: ModelConfig, x_BTD: jax.Array) -> jax.Array:
    norm = llama.RMSNorm(config.norm_eps, parent=None)
    x_BTD = norm.apply({"params": weights["final_norm"]}, x_BTD)
    return llama.logits(x_BTD, weights["head"], config)[:, 0]
