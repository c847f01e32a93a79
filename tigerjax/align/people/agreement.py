"""Combining and comparing rankings that may have ties: Borda points, Kendall's tau-b, Spearman's rho."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np

Ranking = Sequence[Sequence[str]]
"""Groups of equals, best first; every name once."""


def points(ranking: Ranking) -> dict[str, float]:
    """Borda points of each name: the number of names below it, and half the number of its equals."""
    below = sum(len(group) for group in ranking)
    out = {}
    for group in ranking:
        below -= len(group)
        out.update({name: below + (len(group) - 1) / 2 for name in group})
    return out


def borda(rankings: Sequence[Ranking]) -> list[list[str]]:
    """One ranking of several, by the sum of Borda points; names with equal sums share a group."""
    total: dict[str, float] = defaultdict(float)
    for ranking in rankings:
        for name, value in points(ranking).items():
            total[name] += value
    groups: dict[float, list[str]] = defaultdict(list)
    for name in sorted(total):
        groups[total[name]].append(name)
    return [groups[value] for value in sorted(groups, reverse=True)]


def kendall(a: Ranking, b: Ranking) -> float:
    """Tau-b of two rankings of the same names (Kendall 1945); 0 when one of them puts all names into one group."""
    left, right = points(a), points(b)
    both = left_only = right_only = 0
    for x, y in combinations(sorted(left), 2):
        one, two = np.sign(left[x] - left[y]), np.sign(right[x] - right[y])
        both += int(one * two)
        left_only += int(one != 0)
        right_only += int(two != 0)
    return both / math.sqrt(left_only * right_only) if left_only and right_only else 0.0


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation with averaged ties (Spearman 1904); 0 when one side is constant or there are no two values."""
    a, b = _ranks(x), _ranks(y)
    if len(a) < 2 or not a.std() or not b.std():
        return 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()))


def _ranks(values: Sequence[float]) -> np.ndarray:
    """The rank of each value, from 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse]
