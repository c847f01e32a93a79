"""Choosing the next token: temperature, top-k, top-p, and the random stream of one candidate.

The stream is a pure function of (seed, round, prompt_id, candidate, step). It does not depend on the batch. So a
candidate is the same whatever its neighbours are, in any order, on any mesh, and however many its prompt gets.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# A draw first picks a block of the vocabulary and then a token in it: one pass over V and two short sums. Padded
# vocabularies are multiples of 128, so blocks of 128 need no padding.
BLOCK_TOKENS = 128


def prompt_words(prompt_id: str) -> np.ndarray:
    """A prompt id as two uint32 words (64 bits of its BLAKE2b), which is what fold_in takes."""
    return np.frombuffer(hashlib.blake2b(prompt_id.encode(), digest_size=8).digest(), dtype="<u4").astype(np.uint32)


def candidate_keys(seed: int, round_: int, prompt_ids: Sequence[str], candidates: Sequence[int]) -> jax.Array:
    """keys_C, one per candidate: seed, round, prompt id and candidate number folded in. The step is folded in later."""
    words_C2 = np.stack([prompt_words(p) for p in prompt_ids])
    return _keys(np.uint32(seed), np.uint32(round_), words_C2, np.asarray(candidates, np.uint32))


@jax.jit
def _keys(seed: jax.Array, round_: jax.Array, words_C2: jax.Array, candidates_C: jax.Array) -> jax.Array:
    # The generator is named, so that another default of the process does not change the samples.
    start = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), round_)

    def one(words_2: jax.Array, candidate: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(start, words_2[0]), words_2[1]), candidate)

    return jax.vmap(one)(words_C2, candidates_C)


def choose(
    logits_BV: jax.Array, keys_B: jax.Array, *, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> jax.Array:
    """tokens_B int32: the argmax at temperature 0, else one draw per row, after temperature, then top-k, then top-p.

    top_k=0 and top_p=1 cut nothing. Top-p keeps the smallest set of most probable tokens whose share of what top-k
    left is at least top_p (Holtzman et al. 2020, section 3.1); tokens that tie with the least probable of them are kept
    too. A token of probability 0 (a padding column at -inf, or one that was cut) is never drawn, not even by rounding.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    if temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    weights_BV = jnp.exp((logits_BV - logits_BV.max(-1, keepdims=True)) / temperature)
    if 0 < top_k < weights_BV.shape[-1]:
        least_B = jax.lax.top_k(weights_BV, top_k)[0][:, -1]
        weights_BV = jnp.where(weights_BV >= least_B[:, None], weights_BV, 0.0)
    return _draw(weights_BV, keys_B, top_p)


def choose_each(
    logits_BV: jax.Array, keys_B: jax.Array, *, temperature_B: jax.Array, top_p_B: jax.Array, top_k_B: jax.Array
) -> jax.Array:
    """tokens_B, drawn as `choose` draws them, with settings of its own for each row: one program for all settings."""
    logits_BV = logits_BV.astype(jnp.float32)
    greedy_B = temperature_B == 0.0
    likeliest_B = jax.lax.cond(
        greedy_B.any(),
        lambda: jnp.argmax(logits_BV, axis=-1).astype(jnp.int32),
        lambda: jnp.zeros(len(logits_BV), jnp.int32),
    )

    def sampled() -> jax.Array:
        temperature_B1 = jnp.where(greedy_B, 1.0, temperature_B)[:, None]
        weights_BV = jnp.exp((logits_BV - logits_BV.max(-1, keepdims=True)) / temperature_B1)
        weights_BV = jax.lax.cond((top_k_B > 0).any(), _cut, lambda weights_BV, _: weights_BV, weights_BV, top_k_B)
        token_B = _draw(weights_BV, keys_B, jnp.where(greedy_B, 1.0, top_p_B))
        return jnp.where(greedy_B, likeliest_B, token_B)

    return jax.lax.cond(greedy_B.all(), lambda: likeliest_B, sampled)


def _cut(weights_BV: jax.Array, top_k_B: jax.Array) -> jax.Array:
    """The weights, 0 where they are below the top_k-th largest of their row; top_k 0 cuts nothing."""
    # Floats that are not negative are in the order of their bits. So the top_k-th largest is found bit by bit, in 31
    # passes over V, whatever top_k is; a sort would take longer.
    bits_BV = jax.lax.bitcast_convert_type(weights_BV, jnp.int32)

    def with_bit(n: jax.Array, least_B: jax.Array) -> jax.Array:
        tried_B = least_B | (1 << (30 - n))
        return jnp.where((bits_BV >= tried_B[:, None]).sum(-1) >= top_k_B, tried_B, least_B)

    least_B = jax.lax.fori_loop(0, 31, with_bit, jnp.zeros_like(top_k_B))
    return jnp.where((bits_BV >= least_B[:, None]) | (top_k_B == 0)[:, None], weights_BV, 0.0)


class _Draw(NamedTuple):
    """The state of every row after `tries` draws."""

    tries: jax.Array
    token_B: jax.Array
    pivot_B: jax.Array
    """The next draw is among the tokens that weigh more than this."""
    total_BX: jax.Array
    """Their weight in each block of the vocabulary."""
    done_B: jax.Array


def _draw(weights_BV: jax.Array, keys_B: jax.Array, top_p: float | jax.Array) -> jax.Array:
    """One index per row, among the tokens that top-p keeps, with probability proportional to its weight.

    This sorts nothing and computes no threshold. It draws a token from a set that contains all tokens that top-p
    keeps; at first that is the whole row. If the tokens heavier than the drawn one have less than top_p of the row's
    weight, the token is one that top-p keeps, and it is the result. If not, all tokens that top-p keeps are heavier,
    and the next draw is among those. In each of these sets the tokens that are kept have their own proportions, so
    they have them in the result.

    A try is one pass over V. Tries are few: the first one fails with probability at most 1 - top_p, and each failure
    shrinks the set as a pivot of quickselect does. A row that has its token does not change while others go on.
    """
    B, V = weights_BV.shape
    size = min(BLOCK_TOKENS, V)
    blocks_BXY = jnp.pad(weights_BV, ((0, 0), (0, -V % size))).reshape(B, -1, size)

    def above(pivot_B: jax.Array) -> jax.Array:
        return jnp.where(blocks_BXY > pivot_B[:, None, None], blocks_BXY, 0.0).sum(-1)

    def attempt(s: _Draw) -> _Draw:
        point_B = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, s.tries)))(keys_B)
        block_B, left_B = _first_above(s.total_BX, point_B * s.total_BX.sum(-1))
        block_BY = jnp.take_along_axis(blocks_BXY, block_B[:, None, None], axis=1)[:, 0]
        place_B, _ = _first_above(jnp.where(block_BY > s.pivot_B[:, None], block_BY, 0.0), left_B)
        token_B = (block_B * size + place_B).astype(jnp.int32)
        token_B = jnp.where(s.done_B, s.token_B, token_B)
        weight_B = jnp.take_along_axis(block_BY, place_B[:, None], axis=-1)[:, 0]
        total_BX = above(weight_B)
        done_B = s.done_B | (total_BX.sum(-1) < target_B) | (top_p >= 1.0)
        return _Draw(s.tries + 1, token_B, weight_B, total_BX, done_B)

    nothing_B = jnp.zeros(B, jnp.int32)
    start = _Draw(jnp.int32(0), nothing_B, jnp.zeros(B), above(jnp.zeros(B)), nothing_B > 0)
    # A row of NaN has weight 0; with this target its first try ends it.
    target_B = jnp.maximum(top_p * start.total_BX.sum(-1), jnp.finfo(jnp.float32).tiny)
    if isinstance(top_p, float) and top_p >= 1.0:
        return attempt(start).token_B  # always accepted, so XLA leaves out the pass that would check it
    return jax.lax.while_loop(lambda s: ~s.done_B.all(), attempt, start).token_B


def _first_above(weights_BX: jax.Array, point_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first index_B of positive weight whose running sum is above point_B, and how far into it the point is."""
    sums_BX = jnp.cumsum(weights_BX, axis=-1)
    hit_BX = (sums_BX > point_B[:, None]) & (weights_BX > 0)
    # By rounding the point can be at or past the last sum. Then the heaviest entry is taken.
    index_B = jnp.where(hit_BX.any(-1), jnp.argmax(hit_BX, axis=-1), jnp.argmax(weights_BX, axis=-1))
    at_B1 = index_B[:, None]
    before_B = jnp.take_along_axis(sums_BX, at_B1, axis=-1) - jnp.take_along_axis(weights_BX, at_B1, axis=-1)
    return index_B, jnp.maximum(point_B - before_B[:, 0], 0.0)
