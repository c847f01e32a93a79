"""Reading a Llama one token at a time: prefill once, then decode, the KV cache an argument and a result.

    logits_BV, cache = prefill(weights, config, compute, prompts_BT, segment_ids_BT, max_len=S)
    cache = repeat(cache, n)                    # n answers to each prompt, after one prefill
    logits_BV, cache = decode_step(weights, config, compute, cache, token_B, cache.lengths_B)

Every shape is static: B rows, S = max_len slots. A token at position p of its row lives in slot p, whichever side
the prompt was padded on, so `s <= position` is the whole mask and rows of different lengths need nothing else.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model import attention, llama


class Cache(NamedTuple):
    """Rotated keys and values in the compute dtype. Slots from lengths_B on hold nothing that is read."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array
    lengths_B: jax.Array
    """Slots filled, so also the position of the next token; int32."""


def prefill(
    weights: llama.Weights,
    config: ModelConfig,
    compute: ComputeConfig,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    max_len: int,
) -> tuple[jax.Array, Cache]:
    """(logits_BV float32 after each row's last token, cache of max_len slots).

    One prompt a row: `segment_ids_BT` is 1 on its tokens, which are contiguous, and 0 on the padding before or
    after them. A row of padding only gives finite logits that mean nothing, and length 0.
    """
    T = tokens_BT.shape[1]
    if max_len < T:
        raise ConfigError(f"max_len={max_len} slots do not hold prompts of {T} tokens; raise it")
    tokens_BT, valid_BT = _pad_right(tokens_BT, segment_ids_BT > 0)
    positions_BT = jnp.broadcast_to(jnp.arange(T), tokens_BT.shape)
    ids_BT = valid_BT.astype(jnp.int32)

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
        out_BTNH = attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=compute)
        slots = ((0, 0), (0, max_len - T), (0, 0), (0, 0))
        return out_BTNH, (jnp.pad(k_BTKH, slots), jnp.pad(v_BTKH, slots))

    block = llama.Block(config)

    def layer(x_BTD: jax.Array, w: Any) -> Any:
        return block.apply({"params": w}, x_BTD, positions_BT, attend)

    x_BTD = weights["embed"][tokens_BT].astype(compute.dtype)
    x_BTD, (k_LBSKH, v_LBSKH) = jax.lax.scan(layer, x_BTD, weights["layers"])
    lengths_B = valid_BT.sum(axis=1, dtype=jnp.int32)
    last_BT = jnp.maximum(lengths_B - 1, 0)[:, None]
    last_BTD = jnp.take_along_axis(x_BTD, last_BT[:, :, None], axis=1)
    return _logits(weights, config, last_BTD), Cache(k_LBSKH, v_LBSKH, lengths_B)


def decode_step(
    weights: llama.Weights,
    config: ModelConfig,
    compute: ComputeConfig,
    cache: Cache,
    token_B: jax.Array,
    position_B: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Writes token_B at position_B (< S) and reads it: (logits_BV float32 of the token after it, new cache).

    `position_B` is `cache.lengths_B` in the ordinary case; a row that has ended may stay where it is.
    """
    S = cache.k_LBSKH.shape[2]
    mask_BTS = (jnp.arange(S) <= position_B[:, None])[:, None]
    here_BS11 = (jnp.arange(S) == position_B[:, None])[:, :, None, None]
    block = llama.Block(config)

    def layer(x_BTD: jax.Array, w_and_cache: Any) -> Any:
        w, k_BSKH, v_BSKH = w_and_cache

        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
            # A select, not a scatter: rows write different slots, and the select stays local on every mesh.
            new_k_BSKH = jnp.where(here_BS11, k_BTKH, k_BSKH)
            new_v_BSKH = jnp.where(here_BS11, v_BTKH, v_BSKH)
            return attention.weigh(q_BTNH, new_k_BSKH, new_v_BSKH, mask_BTS), (new_k_BSKH, new_v_BSKH)

        return block.apply({"params": w}, x_BTD, position_B[:, None], attend)

    x_BTD = weights["embed"][token_B[:, None]].astype(compute.dtype)
    x_BTD, (k_LBSKH, v_LBSKH) = jax.lax.scan(layer, x_BTD, (weights["layers"], cache.k_LBSKH, cache.v_LBSKH))
    return _logits(weights, config, x_BTD), Cache(k_LBSKH, v_LBSKH, position_B.astype(jnp.int32) + 1)


def repeat(cache: Cache, n: int) -> Cache:
    """Each row n times, copies side by side: row b of the prompts is rows b * n .. b * n + n - 1."""
    k_LBSKH, v_LBSKH = jnp.repeat(cache.k_LBSKH, n, axis=1), jnp.repeat(cache.v_LBSKH, n, axis=1)
    return Cache(k_LBSKH, v_LBSKH, jnp.repeat(cache.lengths_B, n))


def _pad_right(tokens_BT: jax.Array, valid_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotates each row so that its first valid token comes first."""
    T = tokens_BT.shape[1]
    first_B = jnp.argmax(valid_BT, axis=1)
    from_BT = (jnp.arange(T) + first_B[:, None]) % T
    return jnp.take_along_axis(tokens_BT, from_BT, axis=1), jnp.take_along_axis(valid_BT, from_BT, axis=1)


def _logits(weights: llama.Weights, config: ModelConfig, x_BTD: jax.Array) -> jax.Array:
    """logits_BV of the single token in x_BTD."""
    normed_BTD: Any = llama.RMSNorm(config.norm_eps).apply({"params": weights["final_norm"]}, x_BTD)
    return llama.logits(normed_BTD, weights["head"], config)[:, 0]
