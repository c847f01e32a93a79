"""Short units: found in documents by comparing letter by letter, so that a slip of the pen does not hide them.

A unit of L characters may differ from a document in E places (`edits_allowed`). Of E + 1 pieces of the unit one is then
as it was. So each piece gives one *seed*, a gram that is looked up. Where a document has a seed, the whole unit is
aligned with the text around it.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from tigerjax.text.grams import gram_hashes

UnitKind = Literal["characters", "letters"]
SHORTEST: dict[UnitKind, int] = {"characters": 8, "letters": 24}
"""A unit whose key is shorter says too little to be knowledge: 8 Chinese characters, or 24 letters [our choice]."""
SHORT_BELOW: dict[UnitKind, int] = {"characters": 48, "letters": 160}
"""Longer units are found by their grams."""
LONGEST = 320
"""A longer unit that is not found by its grams, because it repeats a few of them, is not looked for."""
NAME_BELOW: dict[UnitKind, int] = {"characters": 20, "letters": 60}
"""A shorter unit may be a name that is only mentioned: it must be whole clauses of the document [our choice]."""
SEED: dict[UnitKind, int] = {"characters": 4, "letters": 8}
"""The characters of a seed. SHORTEST divided by `edits_allowed` + 1 is not less."""
SHORT_WORD = (2, 2)
WORD: dict[UnitKind, tuple[int, int]] = {"characters": SHORT_WORD, "letters": (3, 6)}
"""(m, w): where a document has m wrong characters within w, it has another word, and no slip of the pen. What may be a
name is held to SHORT_WORD, so that "was" is no slip for "is"."""
CANDIDATES = 1 << 15
"""Places that are compared at one time."""
LOOK = 4
"""After so many characters each, places that cannot be the unit any more are left out."""


def edits_allowed(size: int, kind: UnitKind) -> int:
    """In how many places a unit may differ: about three times what 2% of noise changes, so that 95% is found."""
    if kind == "letters":
        return 2 + max(size - SHORTEST[kind], 0) // 22
    return 1 if size < 16 else 2 if size < 28 else 3 + (size - 28) // 12


class Seeds(NamedTuple):
    """Seeds, sorted by hash: unit `units[i]` has the gram `hashes[i]` at the character `places[i]` of its key."""

    hashes: np.ndarray
    units: np.ndarray
    places: np.ndarray


def seeds(given: Sequence[tuple[str, UnitKind]]) -> Seeds:
    """The seeds of units that are given as (key, kind)."""
    found: list[tuple[np.ndarray, list[int], list[int]]] = []
    for kind, n in SEED.items():
        grams: list[str] = []
        units: list[int] = []
        places: list[int] = []
        for unit, (key, of) in enumerate(given):
            if of != kind:
                continue
            pieces = edits_allowed(len(key), kind) + 1
            size = len(key) // pieces
            for i in range(pieces):
                at = i * size + (size - n) // 2
                grams.append(key[at : at + n])
                units.append(unit)
                places.append(at)
        codes = np.frombuffer("".join(grams).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
        found.append((gram_hashes(codes, n)[::n], units, places))
    hashes = np.concatenate([f[0] for f in found])
    order = np.argsort(hashes, kind="stable")
    columns = (np.array([*found[0][i], *found[1][i]], np.int64)[order] for i in (1, 2))
    return Seeds(hashes[order], *columns)


def _aligned(
    units: np.ndarray, rows: np.ndarray, sizes: np.ndarray, text: np.ndarray, starts: np.ndarray, edits: int
) -> tuple[np.ndarray, np.ndarray]:
    """(fewest edits, end) with which each of units[rows] stands in `text`, beginning at starts +- edits; more than
    `edits` and no end where it does not stand there.

    units[rows[i]] has sizes[i] characters. This is the usual table of edit distances, for all rows at once: a cell says
    with how few edits the unit's first i characters become the text from somewhere near the start up to start + i + d,
    where -edits <= d <= edits. The least of them never falls with i (Ukkonen 1985, Algorithms for approximate string
    matching), so a row whose cells are all above `edits` is left out of the rest. Most rows are soon.
    """
    width, far, last = 2 * edits + 1, np.int16(1 << 12), len(text) - 1
    middle = np.abs(np.arange(width, dtype=np.int16) - edits)[:, None]
    fewest, ends = np.full(len(rows), far), np.zeros(len(rows), np.int64)
    left = np.arange(len(rows))
    cells = np.zeros((width + 1, len(rows)), np.int16)
    cells[width] = far  # beside the band
    for i in range(units.shape[1]):
        letters = units[rows, i]
        new = np.empty_like(cells)
        new[width] = far
        for d in range(width):
            at = starts + (i + d - edits)
            same = (text[np.clip(at, 0, last)] == letters) & (at >= 0) & (at <= last)
            cell = cells[d] + ~same
            np.minimum(cell, cells[d + 1] + 1, out=cell)  # the unit's character is missing in the text
            if d:
                np.minimum(cell, new[d - 1] + 1, out=cell)  # the text has one more
            new[d] = cell
        cells = new
        done = sizes == i + 1
        if done.any():
            best = np.argmin(cells[:width, done] * np.int16(64) + middle, axis=0)
            fewest[left[done]] = cells[best, np.flatnonzero(done)]
            ends[left[done]] = starts[done] + sizes[done] + best - edits
        elif i % LOOK:
            continue
        on = ~done & (cells[:width].min(axis=0) <= edits)
        left, rows, sizes, starts, cells = left[on], rows[on], sizes[on], starts[on], cells[:, on]
        if not len(left):
            break
    return fewest, ends


class Found(NamedTuple):
    """Places where documents hold units: document, unit, [start, end) in the document's key, and number of edits."""

    texts: np.ndarray
    units: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    edits: np.ndarray


def _once(places: np.ndarray) -> np.ndarray:
    """int64 [3, n] of the different columns, sorted. Where the numbers of a column fit into one, that one is sorted, in
    an eighth of the time."""
    if not places.shape[1]:
        return places
    lowest = places.min(axis=1, keepdims=True)
    places = places - lowest
    first, second, third = (places.max(axis=1) + 1).tolist()
    if first * second * third >= 1 << 63:
        return np.unique(places, axis=1) + lowest
    numbers = np.sort((places[0] * second + places[1]) * third + places[2])
    numbers = numbers[np.diff(numbers, prepend=-1) > 0]
    return np.stack([numbers // (second * third), numbers // third % second, numbers % third]) + lowest


class ShortIndex:
    """Finds short units, given as (key, kind), at the seeds that documents have."""

    def __init__(self, given: Sequence[tuple[str, UnitKind]]):
        self._seeds = seeds(given)
        self._codes = [np.frombuffer(key.encode("utf-32-le", "surrogatepass"), "<u4") for key, _ in given]
        self._sizes = np.array([len(key) for key, _ in given], np.int64)
        self._edits = np.array([edits_allowed(len(key), kind) for key, kind in given], np.int64)

    def find(
        self, texts: np.ndarray, hashes: np.ndarray, at: np.ndarray, keys: np.ndarray, begins: np.ndarray
    ) -> Found:
        """Where the units are in documents.

        `texts`, `hashes` and `at` say which gram a document has at which character of its key. Document i has the key
        keys[begins[i]:begins[i + 1]].
        """
        keys = np.asarray(keys)  # a memmap is slower to index
        first = np.searchsorted(self._seeds.hashes, hashes)
        count = np.searchsorted(self._seeds.hashes, hashes, "right") - first
        total = np.concatenate([[0], np.cumsum(count)])
        out: list[np.ndarray] = [np.zeros((5, 0), np.int64)]
        low = 0
        while low < len(texts):
            high = max(low + 1, int(np.searchsorted(total, total[low] + CANDIDATES, "right")) - 1)
            n = count[low:high]
            seed = np.repeat(first[low:high] - (total[low:high] - total[low]), n) + np.arange(n.sum())
            start = np.repeat(at[low:high], n) - self._seeds.places[seed]
            places = np.stack([np.repeat(texts[low:high], n), self._seeds.units[seed], start])
            out.append(self._compared(_once(places), keys, begins))
            low = high
        return Found(*np.unique(np.concatenate(out, axis=1), axis=1))

    def _compared(self, places: np.ndarray, keys: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """int64 [5, n] as `Found`, of those (document, unit, start) at which the unit stands."""
        out: list[np.ndarray] = [np.zeros((5, 0), np.int64)]
        edits_of = self._edits[places[1]]
        for allowed in np.unique(edits_of).tolist():
            mine = places[:, edits_of == allowed]
            sizes, begin = self._sizes[mine[1]], begins[mine[0]]
            chosen, row = np.unique(mine[1], return_inverse=True)
            units = np.zeros((len(chosen), int(sizes.max())), np.uint32)
            for i, unit in enumerate(chosen.tolist()):
                units[i, : self._sizes[unit]] = self._codes[unit]
            edits, end = _aligned(units, row.reshape(-1), sizes, keys, begin + mine[2], allowed)
            end -= begin
            inside = (end - sizes + edits >= 0) & (end <= begins[mine[0] + 1] - begin)
            found = np.stack([mine[0], mine[1], np.maximum(end - sizes, 0), end, edits])
            out.append(found[:, (edits <= allowed) & inside])
        return np.concatenate(out, axis=1)
