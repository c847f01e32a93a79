"""Reading a Llama one token at a time: prefill once, then decode, the KV cache an argument and a result.

    logits_BV, cache = prefill(weights, config, compute, prompts_BT, segment_ids_BT, max_len=S)
    cache = repeat(cache, n)                    # n answers to each prompt, after one prefill
    logits_BV, cache = decode_step(weights, config, compute, cache, token_B, cache.lengths_B)

Every shape is static: B rows, S = max_len slots. A token at position p of its row lives in slot p, whichever side
the prompt was padded on, so `s <= position` is the whole mask and rows of different lengths need nothing else.
Keys lie as K H S and values as K S H: the two products of a step then read them as they lie. With S before K, XLA:CPU
transposes the whole cache at every step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model import attention, llama


class Cache(NamedTuple):
    """Rotated keys and values in the compute dtype. Slots from lengths_B on hold nothing that is read."""

    k_LBKHS: jax.Array
    v_LBKSH: jax.Array
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
        k_BKHS, v_BKSH = k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3)
        none, slots = (0, 0), (0, max_len - T)
        return out_BTNH, (jnp.pad(k_BKHS, (none, none, none, slots)), jnp.pad(v_BKSH, (none, none, slots, none)))

    block = llama.Block(config)

    def layer(x_BTD: jax.Array, w: Any) -> Any:
        return block.apply({"params": w}, x_BTD, positions_BT, attend)

    x_BTD = weights["embed"][tokens_BT].astype(compute.dtype)
    x_BTD, (k_LBKHS, v_LBKSH) = jax.lax.scan(layer, x_BTD, weights["layers"])
    lengths_B = valid_BT.sum(axis=1, dtype=jnp.int32)
    last_BT = jnp.maximum(lengths_B - 1, 0)[:, None]
    last_BTD = jnp.take_along_axis(x_BTD, last_BT[:, :, None], axis=1)
    return _logits(weights, config, last_BTD), Cache(k_LBKHS, v_LBKSH, lengths_B)


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
    mask_BS = jnp.arange(cache.k_LBKHS.shape[-1]) <= position_B[:, None]
    block = llama.Block(config)

    def layer(carry: Any, w_and_index: Any) -> Any:
        x_BTD, k_LBKHS, v_LBKSH = carry
        w, index = w_and_index

        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
            # Only the new token's place is written; the cache is carried, not collected, so that no layer is copied.
            new_k_LBKHS = _write(k_LBKHS, k_BTKH[:, 0, :, :, None], index, position_B, axis=-1)
            new_v_LBKSH = _write(v_LBKSH, v_BTKH[:, 0, :, None, :], index, position_B, axis=-2)
            k_BKHS = jax.lax.dynamic_index_in_dim(new_k_LBKHS, index, 0, keepdims=False)
            v_BKSH = jax.lax.dynamic_index_in_dim(new_v_LBKSH, index, 0, keepdims=False)
            return _read(q_BTNH, k_BKHS, v_BKSH, mask_BS), (new_k_LBKHS, new_v_LBKSH)

        x_BTD, (k_LBKHS, v_LBKSH) = block.apply({"params": w}, x_BTD, position_B[:, None], attend)
        return (x_BTD, k_LBKHS, v_LBKSH), None

    x_BTD = weights["embed"][token_B[:, None]].astype(compute.dtype)
    layers = weights["layers"], jnp.arange(config.num_layers)
    (x_BTD, k_LBKHS, v_LBKSH), _ = jax.lax.scan(layer, (x_BTD, cache.k_LBKHS, cache.v_LBKSH), layers)
    return _logits(weights, config, x_BTD), Cache(k_LBKHS, v_LBKSH, position_B.astype(jnp.int32) + 1)


def _write(cache: jax.Array, new: jax.Array, index: jax.Array, position_B: jax.Array, *, axis: int) -> jax.Array:
    """The cache (L, B, …) with `new` (B, …, one slot at `axis`) in the slot position_B of each row of layer `index`."""
    slot = axis % cache.ndim
    at_B2 = jnp.stack([jnp.broadcast_to(index, position_B.shape), position_B], axis=-1)
    kept = tuple(d for d in range(2, cache.ndim) if d != slot)
    # Rows are a batch dimension of the scatter: local where they are split over devices, and in place. A vmap over
    # rows means the same, but moves them to the front, and XLA:CPU then copies the whole cache in every layer.
    places = jax.lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(1, 1 + len(kept))),
        inserted_window_dims=(0, slot),
        scatter_dims_to_operand_dims=(0, slot),
        operand_batching_dims=(1,),
        scatter_indices_batching_dims=(0,),
    )
    return jax.lax.scatter(cache, at_B2, jnp.squeeze(new, axis), places, unique_indices=True, mode="clip")


def _read(q_BTNH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, mask_BS: jax.Array) -> jax.Array:
    """out_BTNH of one query a row over the cache as it lies; precision as in attention.weigh."""
    B, T, N, H = q_BTNH.shape
    K = k_BKHS.shape[1]
    q_BKGH = q_BTNH.reshape(B, K, N // K, H)
    scores_BKGS = jnp.einsum("BKGH,BKHS->BKGS", q_BKGH, k_BKHS, preferred_element_type=jnp.float32) * H**-0.5
    scores_BKGS = jnp.where(mask_BS[:, None, None], scores_BKGS, attention.MASKED)
    probs_BKGS = jax.nn.softmax(scores_BKGS, axis=-1).astype(v_BKSH.dtype)
    return jnp.einsum("BKGS,BKSH->BKGH", probs_BKGS, v_BKSH).reshape(B, T, N, H)


def repeat(cache: Cache, n: int) -> Cache:
    """Each row n times, copies side by side: row b of the prompts is rows b * n .. b * n + n - 1."""
    k_LBKHS, v_LBKSH = jnp.repeat(cache.k_LBKHS, n, axis=1), jnp.repeat(cache.v_LBKSH, n, axis=1)
    return Cache(k_LBKHS, v_LBKSH, jnp.repeat(cache.lengths_B, n))


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
