"""Choosing the next token: temperature, top-k, top-p, and the random stream of one candidate.

The stream is a pure function of (seed, round, prompt_id, candidate, step). Nothing about the batch enters it, so a
candidate does not change with its neighbours, their order, the mesh or how many candidates its prompt gets.
"""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Nuclei are mostly smaller than this, and XLA's top_k of 256 costs a fraction of the bisection over all of V.
PREFIX_TOKENS = 256
# The inverse-CDF walk first picks a block of the vocabulary and then a token in it: one pass over V, two short sums.
BLOCK_TOKENS = 256
ONE_FLOAT32_BITS = 0x3F800000


def prompt_words(prompt_id: str) -> np.ndarray:
    """Two uint32 words of a prompt id (64 bits of BLAKE2b), the form in which fold_in takes it."""
    return np.frombuffer(hashlib.blake2b(prompt_id.encode(), digest_size=8).digest(), dtype="<u4").astype(np.uint32)


def candidate_keys(seed: int, round_: int, prompt_ids: Sequence[str], candidates: Sequence[int]) -> jax.Array:
    """keys_C, one a candidate: fold_in of seed, round, prompt id and candidate number; the step is folded in later."""
    words_C2 = np.stack([prompt_words(p) for p in prompt_ids])
    return _keys(np.uint32(seed), np.uint32(round_), words_C2, np.asarray(candidates, np.uint32))


@jax.jit
def _keys(seed: jax.Array, round_: jax.Array, words_C2: jax.Array, candidates_C: jax.Array) -> jax.Array:
    # The generator is named: another default of the process must not change the samples.
    start = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), round_)

    def one(words_2: jax.Array, candidate: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(start, words_2[0]), words_2[1]), candidate)

    return jax.vmap(one)(words_C2, candidates_C)


def truncate(weights_BV: jax.Array, *, top_p: float, top_k: int) -> jax.Array:
    """Zeroes what top-k and then top-p cut away from unnormalised probabilities whose row maximum is 1.

    top_k=0 and top_p=1 cut nothing. Top-p keeps the smallest set of most probable tokens whose share of what top-k
    left is at least top_p (Holtzman et al. 2020, section 3.1); tokens tied with the least probable kept one are kept.
    """
    V = weights_BV.shape[-1]
    if 0 < top_k < V:
        least_B = jax.lax.top_k(weights_BV, top_k)[0][:, -1]
        weights_BV = jnp.where(weights_BV >= least_B[:, None], weights_BV, 0.0)
    if top_p >= 1.0:
        return weights_BV
    target_B = top_p * weights_BV.sum(-1)
    prefix_BC = jax.lax.top_k(weights_BV, min(PREFIX_TOKENS, V))[0]
    mass_BC = jnp.cumsum(prefix_BC, axis=-1)
    # A row inside its prefix never uses the bisection, even when a neighbour needs it: rows stay independent.
    inside_B = mass_BC[:, -1] >= target_B
    place_B = jnp.argmax(mass_BC >= target_B[:, None], axis=-1)
    near_B = jnp.take_along_axis(prefix_BC, place_B[:, None], axis=-1)[:, 0]
    least_B = jax.lax.cond(
        inside_B.all(), lambda: near_B, lambda: jnp.where(inside_B, near_B, _bisect(weights_BV, target_B))
    )
    return jnp.where(weights_BV >= least_B[:, None], weights_BV, 0.0)


def _bisect(weights_BV: jax.Array, target_B: jax.Array) -> jax.Array:
    """The largest threshold_B with sum(weights >= threshold) >= target: exact, over the bits of float32 in [0, 1]."""
    # Non-negative floats are ordered as their bits are, so 30 halvings of an integer interval reach the last bit,
    # where sorting 80 x 32,000 floats takes XLA:CPU several times as long.
    bits_BV = jax.lax.bitcast_convert_type(weights_BV, jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_B, high_B = bounds
        middle_B = (low_B + high_B) // 2
        enough_B = jnp.where(bits_BV >= middle_B[:, None], weights_BV, 0.0).sum(-1) >= target_B
        return jnp.where(enough_B, middle_B, low_B), jnp.where(enough_B, high_B, middle_B)

    start = jnp.zeros_like(target_B, jnp.int32), jnp.full_like(target_B, ONE_FLOAT32_BITS + 1, jnp.int32)
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 30, halve, start)[0], jnp.float32)


def choose(
    logits_BV: jax.Array, keys_B: jax.Array, *, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> jax.Array:
    """tokens_B int32: the argmax at temperature 0, else one draw a row after temperature, top-k, top-p in that order.

    A token with probability 0 (padding columns at -inf, whatever was truncated) is never drawn, whatever rounding does.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    if temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    weights_BV = jnp.exp((logits_BV - logits_BV.max(-1, keepdims=True)) / temperature)
    return _draw(truncate(weights_BV, top_p=top_p, top_k=top_k), keys_B)


def _draw(weights_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """One index a row with probability proportional to its weight, by inverse CDF from one uniform a row."""
    B, V = weights_BV.shape
    size = min(BLOCK_TOKENS, V)
    blocks_BXY = jnp.pad(weights_BV, ((0, 0), (0, -V % size))).reshape(B, -1, size)
    total_BX = blocks_BXY.sum(-1)
    point_B = jax.vmap(jax.random.uniform)(keys_B) * total_BX.sum(-1)
    block_B, left_B = _first_above(total_BX, point_B)
    token_B, _ = _first_above(jnp.take_along_axis(blocks_BXY, block_B[:, None, None], axis=1)[:, 0], left_B)
    return (block_B * size + token_B).astype(jnp.int32)


def _first_above(weights_BX: jax.Array, point_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first index_B of positive weight whose running sum passes point_B, and how far into it the point lies."""
    sums_BX = jnp.cumsum(weights_BX, axis=-1)
    hit_BX = (sums_BX > point_B[:, None]) & (weights_BX > 0)
    # Rounding can leave the point at or past the last sum: then it belongs to the heaviest entry.
    index_B = jnp.where(hit_BX.any(-1), jnp.argmax(hit_BX, axis=-1), jnp.argmax(weights_BX, axis=-1))
    at_B1 = index_B[:, None]
    before_B = jnp.take_along_axis(sums_BX, at_B1, axis=-1) - jnp.take_along_axis(weights_BX, at_B1, axis=-1)
    return index_B, jnp.maximum(point_B - before_B[:, 0], 0.0)
