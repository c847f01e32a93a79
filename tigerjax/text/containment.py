"""How much of a short text a document holds: the containment of its hashed n-grams.

MinHash compares whole texts, so it cannot find an answer of 90 characters in a document of 1,400. The containment can:
it is the share of the answer's grams that the document holds, |G(answer) & G(doc)| / |G(answer)|. Only the document is
ever changed.
"""

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from tigerjax.records import Record
from tigerjax.text.grams import ODD, Keys, Kind, cut, gram_hashes, keys, spread, windows

Action = Literal["cut", "drop", "report"]
KINDS: tuple[Kind, Kind] = ("characters", "words")
THRESHOLD = 0.5
ANCHOR = 8
"""A short unit is looked up by hashes of so many characters at both ends of its key, and then compared in full."""
MIN_QUESTION_CHARACTERS = 50
"""Every answer is a unit. A question is one from this length on."""
SHORTEST_KEY: dict[Kind, int] = {"characters": 8, "words": 24}
"""A unit whose key is shorter says too little to be knowledge: 8 Chinese characters, or 24 letters [our choice]."""
MAX_CUT_SHARE, MIN_LEFT = 0.5, 50
"""A document is dropped when it loses more than this share of its characters, or when fewer than this number stay."""
EXPANSION = 1 << 21
"""Pairs (gram of a document, unit with this gram) that are counted at one time."""

_SENTENCE = re.compile(r"(?<=[。！？!?])(?![。！？!?”’」』])|(?<=\.)(?=\s)|(?<=\n)")


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """When a document holds a unit."""

    gram: int = 8
    min_grams: int = 16
    """Units of fewer grams are found only where the document's key holds their whole key."""
    threshold: float = THRESHOLD


class UnitGrams(NamedTuple):
    """Units of one kind. Unit i belongs to example owners[i]; its distinct grams are grams[starts[i]:starts[i + 1]]."""

    grams: np.ndarray
    starts: np.ndarray
    owners: np.ndarray


class Units(NamedTuple):
    """The units of one part: long ones by kind, short ones as (example, key), and the number that is too short."""

    long: dict[Kind, UnitGrams]
    short: list[tuple[int, str]]
    ignored: int


def unit_texts(record: Record) -> list[str]:
    """The texts of a record that are looked for.

    Of an SFT example every answer, and every question from MIN_QUESTION_CHARACTERS on; of a document its text.
    """
    if "text" in record:
        return [record["text"]]
    return [
        message["content"]
        for message in record["messages"]
        if message["role"] == "assistant" or len(message["content"]) >= MIN_QUESTION_CHARACTERS
    ]


def distinct(texts: np.ndarray, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each (text, gram) pair once, sorted by text and gram."""
    order = np.lexsort((grams, texts))
    texts, grams = texts[order], grams[order]
    first = np.ones(len(grams), bool)
    first[1:] = (grams[1:] != grams[:-1]) | (texts[1:] != texts[:-1])
    return texts[first], grams[first]


def make_units(examples: Sequence[Sequence[str]], search: Search) -> Units:
    """The units of a part; `examples` are the `unit_texts` of each record."""
    owners = np.repeat(np.arange(len(examples)), [len(texts) for texts in examples])
    batch = keys([text for texts in examples for text in texts])
    cjk, sizes = batch.cjk(), np.diff(batch.starts)
    long: dict[Kind, UnitGrams] = {}
    is_long = np.zeros(len(owners), bool)
    shortest = np.where(cjk, SHORTEST_KEY["characters"], SHORTEST_KEY["words"])
    for kind in KINDS:
        chosen = cjk if kind == "characters" else ~cjk
        hashes, texts = windows(cut(batch.only(chosen), kind), search.gram)
        texts, hashes = distinct(texts, hashes)
        enough = np.bincount(texts, minlength=len(owners)) >= search.min_grams
        is_long |= enough
        hashes, texts = hashes[enough[texts]], texts[enough[texts]]
        mine = np.flatnonzero(enough)
        long[kind] = UnitGrams(hashes, np.searchsorted(texts, np.append(mine, len(owners))), owners[mine])
    is_short = ~is_long & (sizes >= shortest)
    short = {
        (int(owners[i]), batch.codes[batch.starts[i] : batch.starts[i + 1]].tobytes().decode("utf-32-le")): None
        for i in np.flatnonzero(is_short)
    }
    return Units(long, list(short), int((~is_long & ~is_short).sum()))


def anchors(short_keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """uint64 hashes of the first and of the last ANCHOR characters of each key. A document that holds it has both."""
    ends = []
    for at in (slice(ANCHOR), slice(-ANCHOR, None)):
        codes = np.array([[ord(c) for c in key[at]] for key in short_keys], np.uint64)
        ends.append(gram_hashes(codes.ravel(), ANCHOR)[::ANCHOR])
    return ends[0], ends[1]


def named(texts: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """uint64 hash of each (text, hash) pair."""
    return spread(texts.astype(np.uint64) * ODD + hashes)


class Filter:
    """A Bloom filter with one hash function over the grams of all units.

    Most grams of a document are in no unit. One bit is read to know it.
    """

    BITS_A_GRAM = 16

    def __init__(self, bits: np.ndarray):
        self.bits = bits
        self._shift = np.uint64(64 - (len(bits) * 8 - 1).bit_length())

    @classmethod
    def sized(cls, count: int) -> "Filter":
        """An empty filter for `count` grams. Of others, at most about one in BITS_A_GRAM passes it."""
        return cls(np.zeros(1 << max(10, (count * cls.BITS_A_GRAM // 8 - 1).bit_length()), np.uint8))

    def add(self, grams: np.ndarray) -> None:
        at = np.unique(grams >> self._shift)
        np.bitwise_or.at(self.bits, at >> np.uint64(3), np.uint8(1) << (at & np.uint64(7)).astype(np.uint8))

    def may_hold(self, grams: np.ndarray) -> np.ndarray:
        """For each gram False when it was certainly not added, and True when it may have been."""
        at = grams >> self._shift
        return (self.bits[at >> np.uint64(3)] >> (at & np.uint64(7)).astype(np.uint8)) & 1 == 1


def matches(batch: Keys, known: Filter, search: Search) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{kind: distinct (text, gram) pairs of a batch that pass the filter}, and the same for anchors under "short"."""
    passed = {}
    cuts: dict[str, tuple[Kind, int]] = {
        "characters": ("characters", search.gram),
        "words": ("words", search.gram),
        "short": ("characters", ANCHOR),
    }
    for name, (kind, n) in cuts.items():
        hashes, texts = windows(cut(batch, kind), n)
        at = np.flatnonzero(known.may_hold(hashes))
        passed[name] = distinct(texts[at], hashes[at])
    return passed


class Index:
    """An inverted index, gram -> units, over some of the units of one kind. `stopped` grams are left out of it."""

    def __init__(self, units: UnitGrams, stopped: np.ndarray):
        sizes = np.diff(units.starts)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        counting = ~np.isin(units.grams, stopped)
        self.stopped = np.intersect1d(units.grams, stopped)
        self.sizes = np.bincount(owner[counting], minlength=len(sizes))
        flat, owner = units.grams[counting], owner[counting]
        order = np.argsort(flat, kind="stable")
        self._units = owner[order]
        self._keys, self._starts = np.unique(flat[order], return_index=True)
        self._counts = np.diff(np.append(self._starts, len(flat)))

    def hits(self, texts: np.ndarray, grams: np.ndarray, search: Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(text, unit, containment) of the units that texts hold.

        `texts` and `grams` are distinct pairs, sorted by text.
        """
        counted: list[tuple[np.ndarray, ...]] = []
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, grams), len(self._keys) - 1)
            same = self._keys[at] == grams
            texts, at = texts[same], at[same]
            total = np.concatenate([[0], np.cumsum(self._counts[at])])
            first = 0
            while first < len(texts):
                last = max(first + 1, int(np.searchsorted(total, total[first] + EXPANSION, "right")) - 1)
                last = int(np.searchsorted(texts, texts[last - 1], "right"))  # a text is counted whole
                counted.append(self._count(texts[first:last], at[first:last], search))
                first = last
        if not counted:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        text, unit, share = (np.concatenate(column) for column in zip(*counted, strict=True))
        return text, unit, share

    def _count(self, texts: np.ndarray, at: np.ndarray, search: Search) -> tuple[np.ndarray, ...]:
        counts = self._counts[at]
        offset = np.repeat(self._starts[at] - (np.cumsum(counts) - counts), counts)
        units = self._units[offset + np.arange(len(offset))]
        pairs, shared = np.unique(np.repeat(texts, counts) * len(self.sizes) + units, return_counts=True)
        text, unit = np.divmod(pairs, len(self.sizes))
        share = shared / self.sizes[unit]
        keep = (share >= search.threshold) & (self.sizes[unit] >= search.min_grams)
        return text[keep], unit[keep], share[keep]


class Text:
    """A document cut into sentences, which tells in which of them a unit stands."""

    def __init__(self, sentences: Sequence[str], own: Keys, search: Search):
        ends = list(itertools.accumulate(map(len, sentences)))
        self._borders = [[end - len(part), end] for end, part in zip(ends, sentences, strict=True)]
        self._keys, self._search = own, search
        self._key = self._keys.codes.tobytes().decode("utf-32-le")
        self._starts: list[int] = self._keys.starts.tolist()
        self._grams: dict[Kind, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._short: dict[str, list[list[int]]] = {}

    @classmethod
    def of(cls, texts: Sequence[str], search: Search) -> list["Text"]:
        """One `Text` for each text. The keys of all sentences are made at once, which is faster."""
        cut_up = [[part for part in _SENTENCE.split(text) if part] for text in texts]
        every = keys([part for sentences in cut_up for part in sentences])
        out, first = [], 0
        for sentences in cut_up:
            starts = every.starts[first : first + len(sentences) + 1]
            at = slice(starts[0], starts[-1])
            out.append(cls(sentences, Keys(every.codes[at], starts - starts[0], every.begins[at]), search))
            first += len(sentences)
        return out

    def _looked_up(self, kind: Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(sorted hashes of the document's grams, position of each, where sentences start)."""
        if kind not in self._grams:
            pieces = cut(self._keys, kind)
            hashes = gram_hashes(pieces.values, self._search.gram)
            order = np.argsort(hashes, kind="stable")
            self._grams[kind] = (hashes[order], order, pieces.starts)
        return self._grams[kind]

    def spans(self, kind: Kind, unit: np.ndarray) -> list[list[int]]:
        """[start, end) in characters of the sentences that hold a unit, which is given by its distinct grams."""
        n = self._search.gram
        hashes, order, starts = self._looked_up(kind)
        # Units are short, documents long: what is looked up is the unit.
        first = np.searchsorted(hashes, unit)
        count = np.searchsorted(hashes, unit, "right") - first
        held = count > 0
        first, count = first[held], count[held]
        at = order[np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())]
        if not len(at):
            return []
        covered = np.zeros(starts[-1], bool)
        covered[(at[:, None] + np.arange(n)).ravel()] = True
        return self._covered(covered, starts, least=2 * n)

    def short_spans(self, unit_key: str) -> list[list[int]]:
        """[start, end) of each sentence that a short unit touches, which is given by its key; [] when none does."""
        if unit_key not in self._short:  # many examples have one answer
            self._short[unit_key] = self._short_spans(unit_key)
        return self._short[unit_key]

    def _short_spans(self, unit_key: str) -> list[list[int]]:
        starts, at = self._starts, self._key.find(unit_key)
        touched: set[int] = set()
        while at >= 0:
            sentence, end = bisect.bisect_right(starts, at) - 1, at + len(unit_key)
            while starts[sentence] < end:
                if starts[sentence] < starts[sentence + 1]:  # an empty key is touched by nothing
                    touched.add(sentence)
                sentence += 1
            at = self._key.find(unit_key, at + 1)
        return [self._borders[i] for i in sorted(touched)]

    def _covered(self, covered: np.ndarray, starts: np.ndarray, least: int) -> list[list[int]]:
        """[start, end) of the sentences that matched grams cover by half, or by `least` characters or words."""
        total = np.concatenate([[0], np.cumsum(covered)])
        counts, sizes = np.diff(total[starts]), np.diff(starts)
        keep = (counts > 0) & ((counts >= least) | (2 * counts >= sizes))
        return [self._borders[i] for i in np.flatnonzero(keep)]


def without(text: str, spans: Iterable[Sequence[int]]) -> str:
    """The text without the sentences at these spans."""
    out, at = [], 0
    for start, end in sorted({(s, e) for s, e in spans}):
        out.append(text[at:start])
        at = max(at, end)
    return "".join([*out, text[at:]]).strip()


def too_little(text: str, left: str) -> bool:
    """Whether so much was cut from a text that the rest is no document any more."""
    return left != text and (len(left) < MIN_LEFT or len(text) - len(left) > MAX_CUT_SHARE * len(text))
