"""Which blocks of queries and keys the splash kernel computes, by the places of the queries in their row.

JAX's own masks compute every element of T x S to find this out: 270 s for a row of 131,072 tokens. And their queries
are in the order of the row. Here a block is known by its first and last place only.
"""

import functools
from typing import Any

import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from tigerjax.config import SplashConfig


def reads(query: Any, key: Any, *, window: int | None) -> Any:
    """Whether a query reads a key, by their places in the row: no later one, and none `window` places before it."""
    causal = key <= query
    return causal if window is None else causal & (query - key < window)


@functools.cache
def read_by(window: int | None) -> Any:
    """`reads` as the kernel takes it, one and the same function each time: by it, jax knows what it has traced."""
    return functools.partial(reads, window=window)


def mask_infos(place_PT: np.ndarray, c: SplashConfig, window: int | None) -> tuple[Any, ...]:
    """(forward, backward of q, backward of k and v) as the kernel's MaskInfo, with leading axis P in every array.

    `place_PT` (int32) has the place in its row of every query of P shares; keys are whole and in order. The second is
    None with `fused_backward`.
    """
    of = functools.partial(_info, place_PT.astype(np.int32), window)
    dq = None if c.fused_backward else of(c.block_q_dq, c.block_kv_dq)
    dkv = of(c.block_q_dkv, c.block_kv_dkv, keys_outside=True, whole=c.fused_backward)
    return of(c.block_q, c.block_kv), dq, dkv


FIRST, LAST, RUNS, FIRST_OF_QUERIES, LAST_OF_QUERIES = 1, 2, 4, 8, 16
"""Flags of a step in `steps`: the first and last of the inner loop's sweep, one that computes, and the first and last
that visit a block of queries."""
_FLAGS, _BLOCKS = 5, 13


def unpacked(word: Any) -> tuple[Any, Any]:
    """(block of queries, block of keys) of a step."""
    return word >> (_FLAGS + _BLOCKS), (word >> _FLAGS) & (2**_BLOCKS - 1)


def steps(place_PT: np.ndarray, window: int | None, block_q: int, block_kv: int, *, keys_outside: bool) -> np.ndarray:
    """step_PL int32: the pairs of blocks that have work, in the order of a loop over blocks of queries (or of keys)
    and in it the others, each packed in a word with its flags. Shares with less work repeat their last pair, idle.
    Keys that no query of the share reads have one pair, with all flags but RUNS: their gradients are written too."""
    runs_PQK = _visible(place_PT, window, block_q, block_kv)
    words = []
    for runs in runs_PQK:
        runs = runs.T if keys_outside else runs
        visited = runs.copy()
        visited[:, -1] |= ~runs.any(axis=1)
        outer, inner = np.nonzero(visited)
        query, key = (inner, outer) if keys_outside else (outer, inner)
        new = np.diff(outer, prepend=-1) != 0
        flags = RUNS * runs[outer, inner] + FIRST * new + LAST * np.roll(new, -1)
        for flag, visits in ((FIRST_OF_QUERIES, query), (LAST_OF_QUERIES, query[::-1])):
            seen = np.zeros(len(query), bool)
            seen[np.unique(visits, return_index=True)[1]] = True
            flags += flag * (seen if flag == FIRST_OF_QUERIES else seen[::-1])
        words.append((query << (_FLAGS + _BLOCKS)) | (key << _FLAGS) | flags)
    longest = max(map(len, words))
    idle = [np.repeat(word[-1:] & ~(2**_FLAGS - 1), longest - len(word)) for word in words]
    return np.stack([np.concatenate(pair) for pair in zip(words, idle, strict=True)]).astype(np.int32)


def tables(place_PT: np.ndarray, c: SplashConfig, window: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps forward, steps backward, places) of the kernels of `wide.py`, with leading axis P."""
    place_PT = place_PT.astype(np.int32)
    forward = steps(place_PT, window, c.block_q, c.block_kv, keys_outside=False)
    return forward, steps(place_PT, window, c.block_q_dkv, c.block_kv_dkv, keys_outside=True), place_PT


def _visible(place_PT: np.ndarray, window: int | None, block_q: int, block_kv: int) -> np.ndarray:
    """runs_PQK: whether a block of queries reads a key of a block."""
    starts = np.arange(0, place_PT.size, block_kv)
    queries = place_PT.reshape(len(place_PT), -1, block_q)
    runs = starts <= queries.max(axis=2)[..., None]
    if window is not None:
        runs &= starts + block_kv > queries.min(axis=2)[..., None] - window + 1
    return np.asarray(runs)


def _info(
    place_PT: np.ndarray,
    window: int | None,
    block_q: int,
    block_kv: int,
    *,
    keys_outside: bool = False,
    whole: bool = False,
) -> MaskInfo:
    """`keys_outside`: the outer loop is over blocks of keys. `whole`: no step of the inner loop is left out."""
    runs = _visible(place_PT, window, block_q, block_kv)
    if keys_outside:
        runs = runs.swapaxes(1, 2)
    width = runs.shape[2] if whole else int(runs.sum(axis=2).max())
    parts = [_shrunk(one, width) for one in runs]
    runs, following = (np.stack(part)[:, None] for part in zip(*parts, strict=True))  # with an axis of heads
    if keys_outside:
        runs, following = runs.swapaxes(2, 3), following.swapaxes(2, 3)
    # The kernel keeps both in scalar memory, which is scarce.
    small: Any = np.int8 if following.max() < 128 else np.int16
    return MaskInfo(following.astype(small), None, runs.astype(np.int8), None, place_PT)


def _shrunk(runs: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(whether a step computes, which inner block it has), in `width` steps of the inner loop.

    A step that computes nothing names the block that the next one with work needs, so that it is fetched in time.
    """
    inner = runs.shape[1]
    flat = np.flatnonzero(runs)
    after = np.searchsorted(flat, np.arange(runs.size)) % len(flat)
    following = (flat[after] % inner).reshape(runs.shape)
    if width == inner:
        return runs, following
    # Steps with work come first; those behind them name the last block again, which is there already.
    order = np.argsort(~runs, axis=1, kind="stable")[:, :width]
    last = np.where(runs.any(axis=1), inner - 1 - runs[:, ::-1].argmax(axis=1), 0)
    runs = np.take_along_axis(runs, order, axis=1)
    return runs, np.where(runs, order, last[:, None])
