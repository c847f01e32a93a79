"""Reading a Llama one token at a time: prefill once, then decode, the KV cache an argument and a result.

    logits_BV, cache = prefill(weights, config, compute, prompts_BT, segment_ids_BT, max_len=S)
    cache = repeat(cache, n)                    # n answers to each prompt, after one prefill
    logits_BV, cache = decode_step(weights, config, compute, cache, token_B, cache.lengths_B)

Every shape is static: B rows, S = max_len slots. A token at position p of its row lives in slot p, whichever side
the prompt was padded on, so `s <= position` is the whole mask and rows of different lengths need nothing else.
Keys lie as K H S and values as K S H: the two products of a step then read them as they lie. With S before K, XLA:CPU
transposes the whole cache at every step.

Layers come in stacks, weights and cache alike: one of all layers, which a loop runs through, or more (`unstack`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import on_each, spec
from tigerjax.model import attention
from tigerjax.model.llama import model as llama

MATRIX_ROWS = 8  # rows that a TPU's matrix unit takes at a time


class Cache(NamedTuple):
    """Rotated keys and values in the compute dtype. Slots from lengths_B on hold nothing that is read."""

    keys: tuple[jax.Array, ...]
    """k_LBKHS of each stack of layers."""
    values: tuple[jax.Array, ...]
    """v_LBKSH of each."""
    lengths_B: jax.Array
    """Slots filled, so also the position of the next token; int32."""


def unstack(weights: llama.Weights) -> llama.Weights:
    """`layers` as a tuple of stacks of one layer each. A loop over a stack is in a compiled program once, but XLA:CPU
    copies each layer's weights and cache out of it, in every step."""
    depth = jax.tree.leaves(weights["layers"])[0].shape[0]
    cut = tuple(jax.tree.map(lambda w_L, at=at: w_L[at : at + 1], weights["layers"]) for at in range(depth))
    return weights | {"layers": cut}


def _stacks(weights: llama.Weights) -> tuple[Any, ...]:
    layers = weights["layers"]
    return layers if isinstance(layers, tuple) else (layers,)


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

    block, compute = llama.Block(config), attention.fitting(compute, T)

    def layer(x_BTD: jax.Array, w: Any) -> Any:
        return block.apply({"params": w}, x_BTD, positions_BT, attend)

    x_BTD = weights["embed"][tokens_BT].astype(compute.dtype)
    filled = []
    for w_L in _stacks(weights):
        x_BTD, stack = jax.lax.scan(layer, x_BTD, w_L)
        filled.append(stack)
    keys, values = zip(*filled, strict=True)
    lengths_B = valid_BT.sum(axis=1, dtype=jnp.int32)
    last_BT = jnp.maximum(lengths_B - 1, 0)[:, None]
    last_BTD = jnp.take_along_axis(x_BTD, last_BT[:, :, None], axis=1)
    return _logits(weights, config, last_BTD), Cache(keys, values, lengths_B)


def decode_step(
    weights: llama.Weights,
    config: ModelConfig,
    compute: ComputeConfig,
    cache: Cache,
    token_B: jax.Array,
    position_B: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Reads token_B at position_B (< S) and writes it: (logits_BV float32 of the token after it, new cache).

    `position_B` is `cache.lengths_B` in the ordinary case; a row that has ended may stay where it is.
    """
    before_BS = jnp.arange(cache.keys[0].shape[-1]) < position_B[:, None]
    block = llama.Block(config)

    # The layers only read the cache, and the new token's keys and values are written once, after all of them: a write
    # in every layer is a loop over rows in every layer on a TPU, and makes XLA copy the cache into a layout for it.
    def layer(x_BTD: jax.Array, w_and_cache: Any) -> Any:
        w, k_BKHS, v_BKSH = w_and_cache

        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
            new_k_BKH, new_v_BKH = k_BTKH[:, 0], v_BTKH[:, 0]
            return _read(q_BTNH, k_BKHS, v_BKSH, before_BS, new_k_BKH, new_v_BKH), (new_k_BKH, new_v_BKH)

        return block.apply({"params": w}, x_BTD, position_B[:, None], attend)

    x_BTD = weights["embed"][token_B[:, None]].astype(compute.dtype)
    new = []
    for stack in zip(_stacks(weights), cache.keys, cache.values, strict=True):
        x_BTD, of_stack = jax.lax.scan(layer, x_BTD, stack)
        new.append(of_stack)
    # A layer's new keys do not wait for its reading, so without this XLA:CPU sees no order between reading and writing,
    # and copies every cache twice a step. x is there after all layers; 0 x as an integer is 0, of NaN too.
    after_B = position_B + (0.0 * x_BTD[:, 0, 0]).astype(jnp.int32)
    cut, new_cut = spec(None, "batch", "act_kv_heads", None, None), spec(None, "batch", "act_kv_heads", None)

    def write(axis: int, stacks: tuple[jax.Array, ...], new: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # Each device writes its own rows: XLA would gather a cache that is written at an index of a split axis.
        one = on_each(functools.partial(_write, axis=axis), (cut, new_cut, spec("batch")), cut)
        return tuple(one(old, new_LBKH, after_B) for old, new_LBKH in zip(stacks, new, strict=True))

    new_k, new_v = zip(*new, strict=True)
    written = write(4, cache.keys, new_k), write(3, cache.values, new_v)
    return _logits(weights, config, x_BTD), Cache(*written, position_B.astype(jnp.int32) + 1)


def _write(cache: jax.Array, new_LBKH: jax.Array, position_B: jax.Array, *, axis: int) -> jax.Array:
    """The cache (L, B, …) with each row's `new_LBKH` in its slot position_B, which is an index of `axis`."""
    rows = functools.partial(_write_rows, axis=axis)
    return jax.lax.platform_dependent(
        cache, new_LBKH, position_B, tpu=rows, default=functools.partial(_scatter, axis=axis)
    )


def _scatter(cache: jax.Array, new_LBKH: jax.Array, position_B: jax.Array, *, axis: int) -> jax.Array:
    # Rows are a batch dimension of the scatter: in place. A vmap over rows means the same, but moves them to the front,
    # and XLA:CPU then copies the whole cache.
    places = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(0, 2, 3),
        inserted_window_dims=(axis,),
        scatter_dims_to_operand_dims=(axis,),
        operand_batching_dims=(1,),
        scatter_indices_batching_dims=(0,),
    )
    return jax.lax.scatter(cache, position_B[:, None], new_LBKH, places, unique_indices=True, mode="clip")


def _write_rows(cache: jax.Array, new_LBKH: jax.Array, position_B: jax.Array, *, axis: int) -> jax.Array:
    # XLA:TPU would give a scatter the cache in another layout than the products read, and copy all of it for that in
    # every step: so row by row, and the layout held. (XLA:GPU would start a kernel a row.)
    as_it_lies = Layout(major_to_minor=tuple(range(cache.ndim)))

    def row(b: jax.Array, cache: jax.Array) -> jax.Array:
        new_L1KH = jax.lax.dynamic_slice_in_dim(new_LBKH, b, 1, axis=1)
        start = [jnp.int32(0)] * cache.ndim
        start[1], start[axis] = b, position_B[b]
        written = jax.lax.dynamic_update_slice(cache, jnp.expand_dims(new_L1KH, axis), start)
        return with_layout_constraint(written, as_it_lies)

    return jax.lax.fori_loop(0, cache.shape[1], row, cache)


def _read(
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    before_BS: jax.Array,
    new_k_BKH: jax.Array,
    new_v_BKH: jax.Array,
) -> jax.Array:
    """out_BTNH of one query a row over the cache as it lies and its own token; precision as in attention.weigh."""
    B, T, N, H = q_BTNH.shape
    K = k_BKHS.shape[1]
    rest = k_BKHS, v_BKSH, before_BS, new_k_BKH, new_v_BKH

    def padded(q_BKGH: jax.Array, *rest: jax.Array) -> jax.Array:
        # Of fewer queries a head XLA:TPU makes sums on the vector unit, which take longer than the cache's bytes.
        more = max(0, MATRIX_ROWS - N // K)
        return _read_groups(jnp.pad(q_BKGH, ((0, 0), (0, 0), (0, more), (0, 0))), *rest)[:, :, : N // K]

    q_BKGH = q_BTNH.reshape(B, K, N // K, H)
    return jax.lax.platform_dependent(q_BKGH, *rest, tpu=padded, default=_read_groups).reshape(B, T, N, H)


def _read_groups(
    q_BKGH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    before_BS: jax.Array,
    new_k_BKH: jax.Array,
    new_v_BKH: jax.Array,
) -> jax.Array:
    """out_BKGH."""
    H = q_BKGH.shape[-1]
    scores_BKGS = jnp.einsum("BKGH,BKHS->BKGS", q_BKGH, k_BKHS, preferred_element_type=jnp.float32) * H**-0.5
    scores_BKGS = jnp.where(before_BS[:, None, None], scores_BKGS, attention.MASKED)
    own_BKG1 = jnp.einsum("BKGH,BKH->BKG", q_BKGH, new_k_BKH, preferred_element_type=jnp.float32)[..., None] * H**-0.5
    # One softmax over both, without a place for the new token among the others.
    most_BKG1 = jnp.maximum(scores_BKGS.max(-1, keepdims=True), own_BKG1)
    weights_BKGS, own_BKG1 = jnp.exp(scores_BKGS - most_BKG1), jnp.exp(own_BKG1 - most_BKG1)
    total_BKG1 = weights_BKGS.sum(-1, keepdims=True) + own_BKG1
    probs_BKGS, own_BKG1 = ((p / total_BKG1).astype(v_BKSH.dtype) for p in (weights_BKGS, own_BKG1))
    return jnp.einsum("BKGS,BKSH->BKGH", probs_BKGS, v_BKSH) + own_BKG1 * new_v_BKH[:, :, None]


def repeat(cache: Cache, n: int) -> Cache:
    """Each row n times, copies side by side: row b of the prompts is rows b * n .. b * n + n - 1."""
    keys, values = (tuple(jnp.repeat(a, n, axis=1) for a in stacks) for stacks in (cache.keys, cache.values))
    return Cache(keys, values, jnp.repeat(cache.lengths_B, n))


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
