"""Which source gives the next row. The order is a fixed schedule, in which nothing is drawn.

A run has one phase or several. In each the shares of its sources are exact at every prefix: no source is a row ahead of
its share or behind it. A phase may begin with a ramp, over which the shares move evenly from those of the phase before.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Phase:
    """The shares of sources from a row of the run on, until the next phase begins."""

    rates: Mapping[str, float]
    """Token shares by source, on any positive scale."""
    first: int = 0
    """Rows of the run, over all hosts, before the phase."""
    ramp: int = 0
    """Over so many of its rows the shares move from `before` to `rates`."""
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def names(self) -> list[str]:
        """The sources that have a share of the phase, sorted."""
        both = {**self.before, **self.rates} if self.ramp else self.rates
        return sorted(name for name in both if self.rates.get(name) or (self.ramp and self.before.get(name)))

    @functools.cached_property
    def shares(self) -> list[tuple[float, float]]:
        """(share at the begin of the ramp, share after it) of each of `names`; each side sums to 1."""
        after = _normal([self.rates.get(name, 0.0) for name in self.names])
        return list(
            zip(_normal([self.before.get(n, 0.0) for n in self.names]) if self.ramp else after, after, strict=True)
        )

    def share(self, name: str, row: float) -> float:
        """The share of a source at a row of the run, which is in this phase."""
        if name not in self.names:
            return 0.0
        before, after = self.shares[self.names.index(name)]
        gone = min((row - self.first) / self.ramp, 1.0) if self.ramp else 1.0
        return before + gone * (after - before)

    def wanted(self, i: int, rows: float) -> float:
        """How many of the first `rows` rows of the phase the i-th source should give."""
        before, after = self.shares[i]
        within = min(rows, self.ramp)
        moving = within * before + (after - before) * within * within / (2 * self.ramp) if self.ramp else 0.0
        return moving + after * (rows - within)

    def rows_for(self, i: int, wanted: float) -> float:
        """After how many rows of the phase the i-th source should have given `wanted` rows; may be infinite."""
        before, after = self.shares[i]
        if not self.ramp or (in_ramp := self.wanted(i, self.ramp)) < wanted:
            past = wanted - (in_ramp if self.ramp else 0.0)
            return self.ramp + past / after if after > 0 else math.inf
        # before x r + (after - before) x r^2 / (2 x ramp) = wanted, in the form that has no difference of near numbers
        root = math.sqrt(max(0.0, before * before + 2 * wanted * (after - before) / self.ramp))
        return 2 * wanted / (before + root) if before + root > 0 else math.inf

    def next(self, counts: Sequence[int]) -> int:
        """The index in `names` of the source that gives the next row, after `counts` rows of each in this phase.

        The deficit of a source is what it should have given of the rows up to the next one, less its count. Of the k
        sources, those with a deficit of at least 1 / (2k - 2) may be next. The one of them that would be late first is
        taken. With two sources that is the one with the larger deficit. At every prefix the deficit of each is at most
        1 - 1 / (2k - 2), which is less than 1 row, also where the shares move (Tijdeman 1980, the chairman assignment
        problem). To always take the largest deficit has no such bound for k > 2.
        """
        k = len(counts)
        if k == 1:
            return 0
        slack, n = 1 / (2 * k - 2), sum(counts) + 1
        best, soonest = -1, math.inf
        for i, count in enumerate(counts):
            if self.wanted(i, n) - count < slack - 1e-9:  # 1e-9: the product is rounded
                continue
            deadline = self.rows_for(i, count + 1 - slack)
            if best < 0 or deadline < soonest - 1e-9:
                best, soonest = i, deadline
        if best < 0:  # cannot happen in exact arithmetic: the deficits add up to 1
            best = max(range(k), key=lambda i: self.wanted(i, n) - counts[i])
        return best


def _normal(rates: Sequence[float]) -> list[float]:
    total = sum(rates)
    return [rate / total for rate in rates]


def order(phases: Sequence[Phase]) -> Iterator[str]:
    """The source of each row, without end. The Loader and SeqIO's `sample_fn` both follow it."""
    for phase, end in zip(phases, [*(later.first for later in phases[1:]), math.inf], strict=True):
        counts = [0] * len(phase.names)
        for _ in _numbers(phase.first, end):
            chosen = phase.next(counts)
            counts[chosen] += 1
            yield phase.names[chosen]


def _numbers(first: int, end: float) -> Iterator[int]:
    while first < end:
        yield first
        first += 1


def needed(phases: Sequence[Phase], rows: int) -> dict[str, float]:
    """How many of the first `rows` rows of a run each source should give."""
    out: dict[str, float] = {}
    for phase, end in zip(phases, [*(later.first for later in phases[1:]), rows], strict=True):
        length = max(0, min(end, rows) - phase.first)
        for i, name in enumerate(phase.names):
            out[name] = out.get(name, 0.0) + phase.wanted(i, length)
    return out
