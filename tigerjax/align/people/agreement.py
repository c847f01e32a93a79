"""Combining and comparing rankings that may have ties: Borda points, Kendall's tau-b, Spearman's rho; Krippendorff's
alpha of several people's values."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
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


def alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Krippendorff's alpha of ordinal values (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    Each unit holds the values that people gave to one thing. 1 is full agreement, 0 that of chance. None where no unit
    has two values, or all values are the same.
    """
    pairable = [unit for unit in units if len(unit) > 1]
    values = sorted({value for unit in pairable for value in unit})
    place = {value: i for i, value in enumerate(values)}
    together = np.zeros((len(values), len(values)))  # the coincidence matrix
    for unit in pairable:
        counts = np.bincount([place[value] for value in unit], minlength=len(values))
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = together.sum(axis=1)
    below = np.cumsum(totals) - totals / 2
    apart = np.subtract.outer(below, below) ** 2
    expected = float((np.outer(totals, totals) * apart).sum())
    if not expected:
        return None
    return 1 - (float(totals.sum()) - 1) * float((together * apart).sum()) / expected


def signs(ranking: Ranking) -> dict[tuple[str, str], int]:
    """For every two names in their order: 1 where the first ranks higher, -1 where the second does, 0 for equals."""
    own = points(ranking)
    return {(a, b): int(np.sign(own[a] - own[b])) for a, b in combinations(sorted(own), 2)}


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
