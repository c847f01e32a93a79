"""A document cut into sentences and clauses, which tells in which of them a unit stands, and how."""

import bisect
import itertools
import re
from collections.abc import Sequence

import numpy as np

from tigerjax.text.grams import Keys, gram_hashes, keys

NEAR = 400
"""A question stands at most so many characters before its answer."""
_SENTENCE = re.compile(r"(?<=[。！？!?])(?![。！？!?”’」』])|(?<=\.)(?=\s)|(?<=\n)")
_CLAUSE = re.compile(
    r"(?<=[，,、；;：:。！？!?…—（）()\[\]【】“”\"‘’「」『』《》〈〉\n])|(?<=\.)(?=\s)|(?=[（(\[【“‘「『《〈])"
)
_FINAL = "。！？!?.…"


def final(text: str) -> bool:
    """Whether a text ends as a sentence does."""
    return text.rstrip(" \t\r\n\u3000\"'”’」』)）")[-1:] in tuple(_FINAL)


def _near(borders: Sequence[int], at: int, slack: int) -> bool:
    place = bisect.bisect_left(borders, at - slack)
    return place < len(borders) and borders[place] <= at + slack


class Text:
    """A document whose sentences and clauses are known by raw text and by key."""

    def __init__(self, sentences: Sequence[Sequence[str]], own: Keys):
        """`sentences` are lists of clauses, `own` has the keys of all clauses."""
        whole = ["".join(clauses) for clauses in sentences]
        ends = list(itertools.accumulate(map(len, whole)))
        self._borders = [[end - len(part), end] for end, part in zip(ends, whole, strict=True)]
        self._final = [final(part) for part in whole]
        self._keys = own
        self._key = own.codes.tobytes().decode("utf-32-le", "surrogatepass")
        self._clauses: list[int] = own.starts.tolist()
        first = [0, *itertools.accumulate(map(len, sentences))]
        self._starts: list[int] = [self._clauses[i] for i in first]
        self._grams: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def of(cls, texts: Sequence[str]) -> list["Text"]:
        """One `Text` for each text. The keys of all clauses are made at once, which is faster."""
        cut_up = [[[c for c in _CLAUSE.split(s) if c] for s in _SENTENCE.split(text) if s] for text in texts]
        every = keys([clause for sentences in cut_up for clauses in sentences for clause in clauses])
        out, first = [], 0
        for sentences in cut_up:
            last = first + sum(map(len, sentences))
            starts = every.starts[first : last + 1]
            at = slice(starts[0], starts[-1])
            out.append(cls(sentences, Keys(every.codes[at], starts - starts[0], every.begins[at])))
            first = last
        return out

    def spans(self, unit: np.ndarray, n: int, size: int, least: int) -> list[list[int]]:
        """[start, end) in characters of the sentences that hold a unit; [] where its grams are scattered.

        The unit is given by its distinct grams of n characters and by the size of its key. Half of its grams that the
        document has must stand within twice its size. A sentence counts when they cover half of it, or `least`
        characters.
        """
        if n not in self._grams:
            hashes = gram_hashes(self._keys.codes.astype(np.uint64), n)
            order = np.argsort(hashes, kind="stable")
            self._grams[n] = (hashes[order], order)
        hashes, order = self._grams[n]
        # Units are short, documents long: what is looked up is the unit.
        first = np.searchsorted(hashes, unit)
        count = np.searchsorted(hashes, unit, "right") - first
        held = count > 0
        first, count = first[held], count[held]
        at = np.sort(order[np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())])
        together = np.searchsorted(at, at + 2 * size) - np.arange(len(at))
        if not len(at) or 2 * together.max() < len(count):
            return []
        covered = np.zeros(len(self._keys.codes), bool)
        covered[(at[:, None] + np.arange(n)).ravel()] = True
        total = np.concatenate([[0], np.cumsum(covered)])
        counts, sizes = np.diff(total[self._starts]), np.diff(self._starts)
        keep = (counts > 0) & ((counts >= least) | (2 * counts >= sizes))
        return [self._borders[i] for i in np.flatnonzero(keep)]

    def touched(self, start: int, end: int, slack: int) -> list[list[int]]:
        """[start, end) in characters of the sentences that a unit touches at [start, end) of the key, give or take."""
        first = bisect.bisect_right(self._starts, start + slack) - 1
        last = max(bisect.bisect_left(self._starts, end - slack), first + 1)
        return [self._borders[i] for i in range(max(first, 0), min(last, len(self._borders)))]

    def has_before(self, question: str, start: int) -> bool:
        """Whether a question, given by its key, stands near before a place of the key."""
        return bool(question) and self._key.find(question, max(0, start - NEAR - len(question)), start + 1) >= 0

    def is_clauses(self, start: int, end: int, slack: int) -> bool:
        """Whether [start, end) of the key is whole clauses, give or take."""
        return _near(self._clauses, start, slack) and _near(self._clauses, end, slack)

    def is_sentences(self, start: int, end: int, slack: int) -> bool:
        """Whether [start, end) of the key is whole sentences, give or take, of which the last has a full stop."""
        if not (_near(self._starts, start, slack) and _near(self._starts, end, slack)):
            return False
        last = bisect.bisect_left(self._starts, max(end - slack, 1)) - 1
        return self._final[min(last, len(self._final) - 1)]
