"""Reading a Llama one token at a time: prefill once, then decode, the KV cache an argument and a result.

    weights = by_layer(weights, compute.dtype)
    logits_BV, cache = prefill(weights, config, compute, prompts_BT, segment_ids_BT, max_len=S)
    cache = repeat(cache, n)                    # n answers to each prompt, after one prefill
    logits_BV, cache = decode_step(weights, config, compute, cache, token_B, cache.lengths_B)

Every shape is static: B rows, S = max_len slots. A token at position p of its row lives in slot p, whichever side
the prompt was padded on, so `s <= position` is the whole mask and rows of different lengths need nothing else.
Keys lie as K H S and values as K S H: the two products of a step then read them as they lie. With S before K, XLA:CPU
transposes the whole cache at every step.
Every layer has arrays of its own, weights and cache, and the layers are written out one by one: of one array of all
layers a loop copies slice by slice. That is a seventh of a decode step on XLA:CPU, and by the cycles that libtpu
estimates for a v5p (8 layers of a 7B, 64 rows on 4 chips) two thirds of it. Programs of deep models compile longer.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model import attention, llama


class Cache(NamedTuple):
    """Rotated keys and values in the compute dtype. Slots from lengths_B on hold nothing that is read."""

    keys: tuple[jax.Array, ...]
    """k_BKHS of each layer."""
    values: tuple[jax.Array, ...]
    """v_BKSH of each layer."""
    lengths_B: jax.Array
    """Slots filled, so also the position of the next token; int32."""


def by_layer(weights: llama.Weights, dtype: str) -> dict[str, Any]:
    """Weights on the device in the dtype of the products, `layers` a tuple of the weights of each."""
    stacked = weights["layers"]
    depth = len(jax.tree.leaves(stacked)[0])
    layers = tuple(jax.tree.map(lambda a_L, i=i: jnp.asarray(a_L[i], dtype), stacked) for i in range(depth))
    rest = {name: w for name, w in weights.items() if name != "layers"}
    return {**jax.tree.map(lambda a: jnp.asarray(a, dtype), rest), "layers": layers}


def prefill(
    weights: Mapping[str, Any],
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

    x_BTD = weights["embed"][tokens_BT].astype(compute.dtype)
    layers: list[tuple[jax.Array, jax.Array]] = []
    for w in weights["layers"]:
        out: Any = llama.Block(config).apply({"params": w}, x_BTD, positions_BT, attend)
        x_BTD, layer = out
        layers.append(layer)
    keys, values = zip(*layers, strict=True)
    lengths_B = valid_BT.sum(axis=1, dtype=jnp.int32)
    last_BT = jnp.maximum(lengths_B - 1, 0)[:, None]
    last_BTD = jnp.take_along_axis(x_BTD, last_BT[:, :, None], axis=1)
    return _logits(weights, config, last_BTD), Cache(keys, values, lengths_B)


def decode_step(
    weights: Mapping[str, Any],
    config: ModelConfig,
    compute: ComputeConfig,
    cache: Cache,
    token_B: jax.Array,
    position_B: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Writes token_B at position_B (< S) and reads it: (logits_BV float32 of the token after it, new cache).

    `position_B` is `cache.lengths_B` in the ordinary case; a row that has ended may stay where it is.
    """
    mask_BS = jnp.arange(cache.keys[0].shape[-1]) <= position_B[:, None]
    layers: list[tuple[jax.Array, jax.Array]] = []
    x_BTD = weights["embed"][token_B[:, None]].astype(compute.dtype)
    for w, old_BKHS, old_BKSH in zip(weights["layers"], cache.keys, cache.values, strict=True):

        def attend(
            q_BTNH: jax.Array,
            k_BTKH: jax.Array,
            v_BTKH: jax.Array,
            old_BKHS: jax.Array = old_BKHS,
            old_BKSH: jax.Array = old_BKSH,
        ) -> Any:
            k_BKHS = _write(old_BKHS, k_BTKH[:, 0], position_B, axis=-1)
            v_BKSH = _write(old_BKSH, v_BTKH[:, 0], position_B, axis=-2)
            return _read(q_BTNH, k_BKHS, v_BKSH, mask_BS), (k_BKHS, v_BKSH)

        out: Any = llama.Block(config).apply({"params": w}, x_BTD, position_B[:, None], attend)
        x_BTD, layer = out
        layers.append(layer)
    keys, values = zip(*layers, strict=True)
    return _logits(weights, config, x_BTD), Cache(keys, values, position_B.astype(jnp.int32) + 1)


def _write(cache: jax.Array, new: jax.Array, position_B: jax.Array, *, axis: int) -> jax.Array:
    """The cache (B, …) of a layer with `new` in the slot position_B of each row; `new` is without the slots' axis."""
    slot = axis % cache.ndim
    # Rows are a batch dimension of the scatter: local where they are split over devices, and in place. A vmap over
    # rows means the same, but moves them to the front, and XLA:CPU then copies the whole cache in every layer.
    places = jax.lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(1, new.ndim)),
        inserted_window_dims=(slot,),
        scatter_dims_to_operand_dims=(slot,),
        operand_batching_dims=(0,),
        scatter_indices_batching_dims=(0,),
    )
    return jax.lax.scatter(cache, position_B[:, None], new, places, unique_indices=True, mode="clip")


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
    keys, values = (tuple(jnp.repeat(a, n, axis=0) for a in part) for part in (cache.keys, cache.values))
    return Cache(keys, values, jnp.repeat(cache.lengths_B, n))


def _pad_right(tokens_BT: jax.Array, valid_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotates each row so that its first valid token comes first."""
    T = tokens_BT.shape[1]
    first_B = jnp.argmax(valid_BT, axis=1)
    from_BT = (jnp.arange(T) + first_B[:, None]) % T
    return jnp.take_along_axis(tokens_BT, from_BT, axis=1), jnp.take_along_axis(valid_BT, from_BT, axis=1)


def _logits(weights: Mapping[str, Any], config: ModelConfig, x_BTD: jax.Array) -> jax.Array:
    """logits_BV of the single token in x_BTD."""
    normed_BTD: Any = llama.RMSNorm(config.norm_eps).apply({"params": weights["final_norm"]}, x_BTD)
    return llama.logits(normed_BTD, weights["head"], config)[:, 0]
