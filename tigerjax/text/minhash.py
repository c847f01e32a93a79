"""MinHash signatures of texts, which estimate how similar two texts are.

Shingles are 5 characters (CJK) or 5 words. A signature has 112 values, one a permutation, in 14 bands of 8. Texts that
agree in all values of a band are candidates. The share of all 112 values in which they agree estimates the Jaccard
similarity of their shingles.
"""

from collections.abc import Sequence

import numpy as np

from tigerjax.text import grams
from tigerjax.text.grams import spread

SHINGLE = 5
BANDS, BAND_VALUES = 14, 8
PERMUTATIONS = BANDS * BAND_VALUES
MIN_SHINGLES = 5
SEED = 4
GROUP = 1 << 15
"""Shingles that are permuted together: so many stay in the core's cache."""


def shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, owners): every shingle of a batch, and the index of its text, in the order of the texts."""
    return grams.shingles(texts, SHINGLE, SHINGLE)


def _permutations() -> tuple[np.ndarray, np.ndarray]:
    drawn = spread(np.arange(SEED, SEED + 2 * PERMUTATIONS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (drawn[::2] >> np.uint64(32)).astype(np.uint32) | np.uint32(1), (drawn[1::2]).astype(np.uint32)


def signatures(hashes: np.ndarray, owners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint32 [count, PERMUTATIONS], bool [count]): signatures, and which texts have MIN_SHINGLES or more.

    A permutation is x -> a x + b modulo 2^32 with odd a, applied to the hashes of shingles.
    """
    sizes = np.bincount(owners, minlength=count)
    able = sizes >= MIN_SHINGLES
    out = np.zeros((count, PERMUTATIONS), np.uint32)
    x = (hashes[able[owners]] >> np.uint64(32)).astype(np.uint32)
    chosen = np.flatnonzero(able)
    ends = np.cumsum(sizes[chosen])
    starts = ends - sizes[chosen]
    factors, offsets = _permutations()
    first = 0
    while first < len(chosen):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + GROUP)))
        group = x[starts[first] : ends[last - 1]]
        borders = starts[first:last] - starts[first]
        made = np.empty((PERMUTATIONS, last - first), np.uint32)
        permuted = np.empty_like(group)
        for j in range(PERMUTATIONS):
            np.multiply(group, factors[j], out=permuted)
            permuted += offsets[j]
            made[j] = np.minimum.reduceat(permuted, borders)
        out[chosen[first:last]] = made.T
        first = last
    return out, able


def band_keys(signature: np.ndarray) -> np.ndarray:
    """uint64 [count, BANDS]: equal where two texts agree in all values of a band."""
    values = signature.reshape(len(signature), BANDS, BAND_VALUES).astype(np.uint64)
    total = np.broadcast_to(np.arange(1, BANDS + 1, dtype=np.uint64), values.shape[:2]).copy()
    for j in range(BAND_VALUES):
        total = spread(total * np.uint64(0x9E3779B97F4A7C15) + values[:, :, j])
    return total
