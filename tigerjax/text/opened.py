"""A document cut into sentences and clauses, which tells in which of them a unit stands, and how."""

import bisect
import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tigerjax.text.grams import Keys, gram_hashes, keys

NOISE = 0.02
"""Of so many wrong characters a unit is to be found all the same."""
OWN = 0.1
"""A unit of which a document has no more than this share of what only the unit has is not there [our choice]."""
COMPARED = 400
"""A longer unit is compared by its first characters."""
ALL_COVERED, SOME_COVERED = 0.95, 0.85
"""A sentence is whole when grams cover so much of it: of a unit of COMPARED characters at most, and of a longer one, of
which only some grams are known."""
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


def _near(borders: Sequence[int], at: int, slack: int) -> Sequence[int]:
    return borders[bisect.bisect_left(borders, at - slack) : bisect.bisect_right(borders, at + slack)]


class _Change(NamedTuple):
    """Where a text differs from unit[i:j]."""

    i: int
    j: int
    size: int
    """The characters that differ."""
    doubled: bool
    """Whether a character is only there twice."""
    other_number: bool
    """Whether the text has other digits in this place. A digit that is lost or doubled is a slip."""


def _changes(unit: str, there: str) -> list[_Change]:
    """Where a text differs from a unit."""
    out = []
    for tag, i, j, first, last in difflib.SequenceMatcher(None, unit, there, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        new, beside = there[first:last], unit[max(0, i - 1) : j + 1]
        digits = {c for c in new if c.isdigit()}
        doubled = i == j and set(new) <= set(beside)
        other = bool(digits) and not doubled and (i == j or any(c.isdigit() for c in unit[i:j]))
        out.append(_Change(i, j, max(j - i, last - first), doubled, other))
    return out


class LongUnit(NamedTuple):
    """A unit that is found by its grams."""

    grams: np.ndarray
    """Its distinct grams, in the order of its text; of many, some."""
    common: np.ndarray
    """bool: grams that more than a few documents have."""
    n: int
    """Characters of a gram."""
    run: int
    """So many characters that follow each other to the letter are more than a phrase."""
    key: str

    @property
    def size(self) -> int:
        return len(self.key)


def _is_boilerplate(unit: LongUnit, held: np.ndarray) -> bool:
    """Whether what only this unit has is missing, and the rest is what many documents have.

    A page of a manual shares half of its text with others of its kind; the half that says something it does not share.
    NOISE hides less than that.
    """
    own = int(np.count_nonzero(~unit.common))
    held_own, share = int(np.count_nonzero(held & ~unit.common)), int(np.count_nonzero(held)) / len(held)
    return share < (1 - NOISE) ** unit.n and own > 0 and held_own <= OWN * own


def _wrong(changes: Sequence[_Change], size: int) -> list[int]:
    """The places of the characters of a unit that are wrong, or missing, or after which there are others."""
    out: list[int] = []
    for change in changes:
        at_end = change.i == 0 or change.j == size  # there a text begins and ends with some characters more
        more = 0 if at_end or change.doubled else max(0, change.size - (change.j - change.i))
        out += [*range(change.i, change.j), *[change.j] * more]
    return out


def _other_words(wrong: Sequence[int], word: tuple[int, int]) -> tuple[int, int]:
    """(other words, slips): `word` = (m, w), where m characters of w that follow each other differ, there is a word."""
    least, width = word
    words = slips = at = 0
    while at < len(wrong):
        if at + least <= len(wrong) and wrong[at + least - 1] - wrong[at] < width:
            words, at = words + 1, at + least
        else:
            slips, at = slips + 1, at + 1
    return words, slips


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

    def spans(self, unit: LongUnit, least: int, word: tuple[int, int]) -> list[list[int]]:
        """[start, end) in characters of the sentences that hold a unit; [] where it is not really there.

        Half of its grams that the document has must stand within twice its size. A sentence counts when they cover half
        of it, or `least` characters. A unit that differs in more than slips of the pen (`word` as of `_other_words`)
        is there when whole sentences are that make up half of it, when they are not what many documents have, and when
        half of it stands there to the letter: entries of a menu and rows of a table are alike for other reasons.
        """
        n = unit.n
        if n not in self._grams:
            hashes = gram_hashes(self._keys.codes.astype(np.uint64), n)
            order = np.argsort(hashes, kind="stable")
            self._grams[n] = (hashes[order], order)
        hashes, order = self._grams[n]
        # Units are short, documents long: what is looked up is the unit.
        first = np.searchsorted(hashes, unit.grams)
        count = np.searchsorted(hashes, unit.grams, "right") - first
        held = count > 0
        if _is_boilerplate(unit, held):
            return []
        first, count = first[held], count[held]
        places = order[np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())]
        at = np.sort(places)
        together = np.searchsorted(at, at + 2 * unit.size) - np.arange(len(at))
        if not len(at) or 2 * together.max() < len(count):
            return []
        counts, sizes = self._covered(at, n), np.diff(self._starts)
        if not held.all():
            close = np.searchsorted(at, at + unit.size + n) - np.arange(len(at))
            first_place = at[len(at) - 1 - np.argmax(close[::-1])]
            gram = np.repeat(np.flatnonzero(held), count)[places == first_place][0]
            start = int(first_place - gram * (unit.size - n + 1) / len(held))  # where the unit begins, about
            near = slice(*np.searchsorted(self._starts, [start - n, start + 2 * unit.size]))
            complete = counts[near] >= (ALL_COVERED if unit.size <= COMPARED else SOME_COVERED) * sizes[near]
            complete &= 2 * self._covered(places[~np.repeat(unit.common[held], count)], n)[near] >= sizes[near]
            whole = 2 * sizes[near][complete].sum() >= unit.size and self._has_half(unit, start)
            if not whole and not self._has_noise(unit, start, word):
                return []
        keep = (counts > 0) & ((counts >= least) | (2 * counts >= sizes))
        return [self._borders[i] for i in np.flatnonzero(keep)]

    def _covered(self, at: np.ndarray, n: int) -> np.ndarray:
        """Of each sentence, the characters of its key that grams of n characters at these places cover."""
        covered = np.zeros(len(self._keys.codes), bool)
        covered[(at[:, None] + np.arange(n)).ravel()] = True
        return np.diff(np.concatenate([[0], np.cumsum(covered)])[self._starts])

    def touched(self, start: int, end: int, slack: int) -> list[list[int]]:
        """[start, end) in characters of the sentences that a unit touches at [start, end) of the key, give or take."""
        first = bisect.bisect_right(self._starts, start + slack) - 1
        last = max(bisect.bisect_left(self._starts, end - slack), first + 1)
        return [self._borders[i] for i in range(max(first, 0), min(last, len(self._borders)))]

    def has_before(self, question: str, start: int) -> bool:
        """Whether a question, given by its key, stands near before a place of the key."""
        return bool(question) and self._key.find(question, max(0, start - NEAR - len(question)), start + 1) >= 0

    def has_slips(self, unit: str, start: int, end: int, slack: int, word: tuple[int, int]) -> bool:
        """Whether a unit, given by its key, differs from [start, end) only as slips of the pen do.

        Another word is none, and neither is another number.
        """
        changes = _changes(unit, self._key[max(0, start - slack) : end + slack])
        inside = [c for c in changes if c.i < c.j or 0 < c.i < len(unit)]
        return not any(c.other_number for c in inside) and not _other_words(_wrong(changes, len(unit)), word)[0]

    def _has_noise(self, unit: LongUnit, start: int, word: tuple[int, int]) -> bool:
        """Whether a long unit about [start, …) has more slips of the pen than other words where it differs."""
        key = unit.key[:COMPARED]
        changes = _changes(key, self._key[max(0, start - unit.n) : start + len(key) + unit.n])
        words, slips = _other_words(_wrong(changes, len(key)), word)
        return words < slips or not words

    def _has_half(self, unit: LongUnit, start: int) -> bool:
        """Whether half of a long unit stands about [start, …) to the letter, in runs of at least `unit.run`."""
        run, place = unit.run, max(0, start - unit.n)
        there = self._key[place : start + 2 * unit.size]
        runs = {there[i : i + run] for i in range(len(there) - run + 1)}
        copied = np.zeros(unit.size, bool)
        for i in range(unit.size - run + 1):
            copied[i : i + run] |= unit.key[i : i + run] in runs
        return bool(2 * np.count_nonzero(copied) >= unit.size)

    def is_clauses(self, unit: str, start: int, end: int, edits: int, allowed: int) -> bool:
        """Whether a unit, given by its key, is whole clauses about [start, end) of the key, with so many edits.

        Characters that are only doubled are no edits, but with them there are no more than `allowed`.
        """
        return any(self._whole(self._clauses, unit, (start, end), edits, allowed))

    def is_sentences(self, unit: str, start: int, end: int, edits: int, allowed: int) -> bool:
        """Whether a unit is whole sentences about [start, end), as of `is_clauses`; the last has a full stop."""
        ends = self._whole(self._starts, unit, (start, end), edits, allowed)
        return any(self._final[max(bisect.bisect_left(self._starts, last) - 1, 0)] for last in ends)

    def _whole(
        self, borders: Sequence[int], unit: str, place: tuple[int, int], edits: int, allowed: int
    ) -> Iterator[int]:
        """The borders near the end of a place, up to which the text from one near its start is the unit."""
        for last in _near(borders, place[1], allowed):
            for first in _near(borders, place[0], allowed):
                changes = _changes(unit, self._key[first:last])
                own = sum(change.size for change in changes if not change.doubled)
                if own <= edits and sum(change.size for change in changes) <= allowed:
                    yield last
