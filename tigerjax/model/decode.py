"""Reading one token at a time: prefill once, then decode. The KV cache is an argument and a result.

    logits_BV, cache = prefill(weights, config, compute, prompts_BT, segment_ids_BT, max_len=S)
    cache = repeat(cache, n)                    # n answers to each prompt, after one prefill
    logits_BV, cache = decode_step(weights, config, compute, cache, token_B, cache.lengths_B)

    logits_BV, cache = extend(weights, config, compute, cache, tokens_BT, count_B, reach=S)   # T more of each row

    x_BTD, kept = keep(weights, config, compute, tokens_BT, segment_ids_BT)
    x_BTD = branch(weights, config, compute, branches, kept)        # many rows behind a few beginnings

Every shape is static: B rows, S = max_len slots. How the cache lies is described in `tigerjax.model.cache`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model import attention, decode_stack
from tigerjax.model import cache as kv
from tigerjax.model import rope as rotary
from tigerjax.model.cache import Cache
from tigerjax.model.decoder import Block
from tigerjax.model.layers import RMSNorm, Weights, head, logits, whole_rows
from tigerjax.model.quantised import read_all
from tigerjax.model.trees import Branches, Kept, attend_branches


def prefill(
    weights: Weights,
    config: ModelConfig,
    compute: ComputeConfig,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    max_len: int,
) -> tuple[jax.Array, Cache]:
    """(logits_BV float32 after each row's last token, cache of max_len slots).

    One prompt per row: `segment_ids_BT` is 1 on its tokens, which are contiguous, and 0 on the padding before or
    after them. A row of padding only gives finite logits that mean nothing, and length 0.

    Raises ConfigError for prompts longer than `max_len`.
    """
    T = tokens_BT.shape[1]
    if max_len < T:
        raise ConfigError(f"max_len={max_len} slots do not hold prompts of {T} tokens; raise it")
    tokens_BT, valid_BT = _pad_right(tokens_BT, segment_ids_BT > 0)
    positions_BT = jnp.broadcast_to(jnp.arange(T), tokens_BT.shape)
    ids_BT = valid_BT.astype(jnp.int32)
    positions_BT = rotary.of_tokens(positions_BT, ids_BT, config.rope)

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
        out_BTNH = attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=compute, window=config.extras.window)
        k_BKHS, v_BKSH = k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3)
        none, slots = (0, 0), (0, max_len - T)
        return out_BTNH, (jnp.pad(k_BKHS, (none, none, none, slots)), jnp.pad(v_BKSH, (none, none, slots, none)))

    block, compute = Block(config), attention.fitting(compute, T)

    def layer(x_BTD: jax.Array, w: Any) -> Any:
        return block.apply({"params": read_all(w, compute.dtype)}, x_BTD, positions_BT, attend)

    x_BTD = weights["embed"][tokens_BT].astype(compute.dtype)
    filled = []
    for w_L in kv.stacks(weights):
        x_BTD, stack = jax.lax.scan(layer, x_BTD, w_L)
        filled.append(stack)
    keys, values = zip(*filled, strict=True)
    lengths_B = valid_BT.sum(axis=1, dtype=jnp.int32)
    last_BT = jnp.maximum(lengths_B - 1, 0)[:, None]
    last_BTD = jnp.take_along_axis(x_BTD, last_BT[:, :, None], axis=1)
    return _logits(weights, config, last_BTD), Cache(keys, values, lengths_B)


def decode_step(
    weights: Weights,
    config: ModelConfig,
    compute: ComputeConfig,
    cache: Cache,
    token_B: jax.Array,
    position_B: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Reads token_B at position_B (< S) and writes it: (logits_BV float32 of the token after it, new cache).

    `position_B` is `cache.lengths_B` in the ordinary case; a row that has ended may stay where it is. With rope kind
    dynamic, past its original length, this is not what the whole row gives: the keys in the cache keep the angles of
    the length at which they were written, while the new token has those of the length now. So does `transformers`.
    """
    slot_1S, window = jnp.arange(kv.slots_of(cache))[None], config.extras.window
    before_BS = slot_1S < position_B[:, None]
    if window is not None:
        before_BS &= slot_1S > position_B[:, None] - window
    block = Block(config)

    # The layers only read the cache. The new token's keys and values are written once, after all of them: a write in
    # every layer would be a loop over rows in every layer on a TPU, and XLA would copy the cache into a layout for it.
    def layer(x_BTD: jax.Array, w_and_cache: Any) -> Any:
        w, *held = w_and_cache
        k_BKHS, v_BKSH = (kv.rows_of(one, cache.page_BT, axis) for one, axis in zip(held, (3, 2), strict=True))

        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
            new_k_BKH, new_v_BKH = k_BTKH[:, 0], v_BTKH[:, 0]
            return kv.attend(q_BTNH, k_BKHS, v_BKSH, before_BS, new_k_BKH, new_v_BKH), (new_k_BKH, new_v_BKH)

        return block.apply({"params": read_all(w, compute.dtype)}, x_BTD, position_B[:, None], attend)

    x_BTD = weights["embed"][token_B[:, None]].astype(compute.dtype)
    new = []
    for stack in zip(kv.stacks(weights), cache.keys, cache.values, strict=True):
        if compute.decode_kernels == "off":
            x_BTD, of_stack = jax.lax.scan(layer, x_BTD, stack)
        else:
            decode_stack.check(config, compute, stack[0], cache)
            interpret = compute.decode_kernels == "interpret"
            x_BTD, of_stack = decode_stack.run(
                x_BTD, *stack, position_B, cache.page_BT, config=config, interpret=interpret
            )
        new.append(of_stack)
    # The cache must be written after every layer has read it. Nothing else tells XLA:CPU so, and it would copy every
    # cache twice a step. x_BTD exists only after all layers, and 0 * x as an integer is 0, even where x is NaN.
    after_B = position_B + (0.0 * x_BTD[:, 0, 0]).astype(jnp.int32)
    new_k, new_v = zip(*new, strict=True)
    cache = kv.append(cache, new_k, new_v, after_B)._replace(lengths_B=position_B.astype(jnp.int32) + 1)
    return _logits(weights, config, x_BTD), cache


def extend(
    weights: Weights,
    config: ModelConfig,
    compute: ComputeConfig,
    cache: Cache,
    tokens_BT: jax.Array,
    count_B: jax.Array,
    *,
    reach: int,
) -> tuple[jax.Array, Cache]:
    """Reads the first count_B of T more tokens of each row: (logits_BV float32 after the last of them, new cache).

    A row of count 0 stays as it is; its logits mean nothing. The cache needs T free slots in each row, and only its
    first `reach` slots are read: no row may be longer before these tokens. With rope kind dynamic the tokens together
    must be no longer than the original length. The attention is the reference one, whatever the config names.
    """
    T, first_B = tokens_BT.shape[1], cache.lengths_B
    positions_BT = first_B[:, None] + jnp.arange(T)
    slot_BS = jnp.concatenate([jnp.broadcast_to(jnp.arange(reach), (len(tokens_BT), reach)), positions_BT], axis=1)
    there_BS = jnp.concatenate([jnp.arange(reach) < first_B[:, None], jnp.ones(tokens_BT.shape, bool)], axis=1)
    mask_BTS = there_BS[:, None] & (slot_BS[:, None] <= positions_BT[..., None])
    if (window := config.extras.window) is not None:
        mask_BTS &= slot_BS[:, None] > positions_BT[..., None] - window
    read_BT = (jnp.arange(T) < count_B[:, None]).astype(jnp.int32)
    positions_BT = rotary.of_tokens(positions_BT, read_BT, config.rope)
    block = Block(config)

    def layer(x_BTD: jax.Array, w_and_cache: Any) -> Any:
        w, k_BKHS, v_BKSH = w_and_cache

        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
            before_k_BSKH = kv.first(k_BKHS, 3, reach, compute.dtype).transpose(0, 3, 1, 2)
            before_v_BSKH = kv.first(v_BKSH, 2, reach, compute.dtype).transpose(0, 2, 1, 3)
            k_BSKH = jnp.concatenate([before_k_BSKH, k_BTKH], axis=1)
            v_BSKH = jnp.concatenate([before_v_BSKH, v_BTKH], axis=1)
            return attention.weigh(q_BTNH, k_BSKH, v_BSKH, mask_BTS), (k_BTKH, v_BTKH)

        return block.apply({"params": read_all(w, compute.dtype)}, x_BTD, positions_BT, attend)

    x_BTD = weights["embed"][tokens_BT].astype(compute.dtype)
    new = []
    for stack in zip(kv.stacks(weights), cache.keys, cache.values, strict=True):
        x_BTD, of_stack = jax.lax.scan(layer, x_BTD, stack)
        new.append(of_stack)
    keys, values = zip(*new, strict=True)
    last_BT1 = jnp.maximum(count_B - 1, 0)[:, None, None]
    last_BTD = jnp.take_along_axis(x_BTD, last_BT1, axis=1)
    return _logits(weights, config, last_BTD), kv.append_several(cache, keys, values, count_B)


def keep(
    weights: Weights, config: ModelConfig, compute: ComputeConfig, tokens_BT: jax.Array, segment_ids_BT: jax.Array
) -> tuple[jax.Array, Kept]:
    """(x_BTD after the final norm, keys and values of all layers) of rows whose tokens come first, padding after."""
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    positions_BT = rotary.of_tokens(positions_BT, segment_ids_BT, config.rope)
    block, compute = Block(config), attention.fitting(compute, tokens_BT.shape[1])

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
        out_BTNH = attention.attend(
            q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, compute=compute, window=config.extras.window
        )
        return out_BTNH, (k_BTKH, v_BTKH)

    def layer(x_BTD: jax.Array, w: Any) -> Any:
        return block.apply({"params": read_all(w, compute.dtype)}, x_BTD, positions_BT, attend)

    x_BTD = weights["embed"][tokens_BT].astype(compute.dtype)
    x_BTD, kept = jax.lax.scan(layer, x_BTD, weights["layers"])
    return whole_rows(_normed(weights, config, x_BTD)), Kept(*kept)


def branch(
    weights: Weights, config: ModelConfig, compute: ComputeConfig, rows: Branches, kept: Kept | None
) -> jax.Array:
    """x_BTD after the final norm, of rows of trees; `kept` None when nothing comes before them.

    No kernel knows such masks, so this is the reference attention, whatever the config names. Its scores are
    W x (S + W) numbers a head and tree, so trees must be small. No sequence may be longer than the original length of
    rope kind dynamic: what rows share would then have other angles for each of them.
    """
    block, window = Block(config), config.extras.window

    def layer(x_BTD: jax.Array, w_and_kept: Any) -> Any:
        w, kept = w_and_kept

        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Any:
            return attend_branches(q_BTNH, k_BTKH, v_BTKH, rows, kept, window=window), None

        return block.apply({"params": read_all(w, compute.dtype)}, x_BTD, rows.positions_BT, attend)

    x_BTD = weights["embed"][rows.tokens_BT].astype(compute.dtype)
    x_BTD, _ = jax.lax.scan(layer, x_BTD, (weights["layers"], kept))
    return whole_rows(_normed(weights, config, x_BTD))


def _pad_right(tokens_BT: jax.Array, valid_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotates each row so that its first valid token comes first."""
    T = tokens_BT.shape[1]
    first_B = jnp.argmax(valid_BT, axis=1)
    from_BT = (jnp.arange(T) + first_B[:, None]) % T
    return jnp.take_along_axis(tokens_BT, from_BT, axis=1), jnp.take_along_axis(valid_BT, from_BT, axis=1)


def _logits(weights: Weights, config: ModelConfig, x_BTD: jax.Array) -> jax.Array:
    """logits_BV of the single token in x_BTD."""
    return logits(_normed(weights, config, x_BTD), head(weights, config), config)[:, 0]


def _normed(weights: Weights, config: ModelConfig, x_BTD: jax.Array) -> jax.Array:
    normed_BTD: Any = RMSNorm(config.norm_eps).apply({"params": weights["final_norm"]}, x_BTD)
    return normed_BTD
