"""How much of a text a document holds: the containment of its hashed n-grams.

MinHash compares whole texts, so it cannot find an answer of 90 characters in a document of 1,400. The containment can:
it is the share of the answer's grams that the document holds, |G(answer) & G(doc)| / |G(answer)|. Grams are of
characters in both languages: one wrong letter spoils eight words of a word gram, but few characters. Units too short
for it are compared letter by letter (`short_units`). Only the document is ever changed.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from tigerjax.records import Record
from tigerjax.text.grams import Keys, cut, gram_hashes, keys, windows
from tigerjax.text.opened import final
from tigerjax.text.short_units import LONGEST, SEED, SHORT_BELOW, SHORTEST, UnitKind

Action = Literal["cut", "drop", "report"]
KINDS: tuple[UnitKind, UnitKind] = ("characters", "letters")
"""Units of CJK characters, and units of words."""
THRESHOLD = 0.5
MIN_QUESTION_CHARACTERS = 50
"""Every answer is a unit. A question is one from this length on."""
GRAM: dict[UnitKind, int] = {"characters": 8, "letters": 12}
"""The characters of a gram [our choice]."""
LEAST: dict[UnitKind, int] = {"characters": 16, "letters": 64}
"""A sentence is cut that holds so many characters of a unit."""
MIN_GRAMS = 16
"""A unit that repeats fewer distinct grams is compared letter by letter."""
ALL_GRAMS = 400
"""Of a unit with more grams every fourth is kept, by its hash: the index is so much smaller."""
MAX_CUT_SHARE, MIN_LEFT = 0.5, 50
"""A document is dropped when it loses more than this share of its characters, or when fewer than this number stay."""
EXPANSION = 1 << 21
"""Pairs (gram of a document, unit with this gram) that are counted at one time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """When a document holds a unit."""

    threshold: float = THRESHOLD


class UnitGrams(NamedTuple):
    """Units of one kind. Unit i belongs to example owners[i]; grams[starts[i]:starts[i + 1]] are its distinct grams, in
    the order of its text."""

    grams: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    codes: np.ndarray
    """uint32, the keys of all units; unit i has codes[begins[i]:begins[i + 1]]."""
    begins: np.ndarray


class Short(NamedTuple):
    """A short unit: its example, key and kind, the key of its question, and whether it ends as a sentence does."""

    owner: int
    key: str
    kind: UnitKind
    question: str
    final: bool


class Units(NamedTuple):
    """The units of one part: long ones by kind, short ones, and the number of those that are too short."""

    long: dict[UnitKind, UnitGrams]
    short: list[Short]
    ignored: int
    hashes: np.ndarray
    """uint64, one for each unit: those of KINDS, then the short ones. Equal units have equal hashes."""


class UnitText(NamedTuple):
    """A text that is looked for, and the question that it answers, if any."""

    text: str
    question: str = ""


def unit_texts(record: Record) -> list[UnitText]:
    """The texts of a record that are looked for.

    Of an SFT example every answer, and every question from MIN_QUESTION_CHARACTERS on; of a question of an evaluation
    set the question with its options, and its stem; of a document its text.
    """
    if "text" in record:
        return [UnitText(text) for text in dict.fromkeys([record["text"], record.get("eval_stem") or record["text"]])]
    out = []
    for before, message in zip([None, *record["messages"]], record["messages"], strict=False):
        if message["role"] == "assistant":
            out.append(UnitText(message["content"], before["content"] if before else ""))
        elif len(message["content"]) >= MIN_QUESTION_CHARACTERS:
            out.append(UnitText(message["content"]))
    return out


def firsts(texts: np.ndarray, grams: np.ndarray) -> np.ndarray:
    """Where each (text, gram) pair stands first, sorted by text and gram."""
    order = np.lexsort((grams, texts))
    texts, grams = texts[order], grams[order]
    first = np.ones(len(grams), bool)
    first[1:] = (grams[1:] != grams[:-1]) | (texts[1:] != texts[:-1])
    return order[first]


def distinct(texts: np.ndarray, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each (text, gram) pair once, sorted by text and gram."""
    first = firsts(texts, grams)
    return texts[first], grams[first]


def make_units(examples: Sequence[Sequence[UnitText]], groups: Sequence[str]) -> Units:
    """The units of a part; `examples` are the `unit_texts` of each record.

    Equal units of one group are one. The group of SFT is "", that of a question its evaluation set.
    """
    from xxhash import xxh3_64_intdigest

    owners = np.repeat(np.arange(len(examples)), [len(texts) for texts in examples])
    flat = [unit for texts in examples for unit in texts]
    batch, asked = keys([unit.text for unit in flat]), keys([unit.question for unit in flat])
    cjk, sizes = batch.cjk(), np.diff(batch.starts)

    def text_of(given: Keys, i: int) -> str:
        return given.codes[given.starts[i] : given.starts[i + 1]].tobytes().decode("utf-32-le", "surrogatepass")

    long: dict[UnitKind, UnitGrams] = {}
    is_long = np.zeros(len(owners), bool)
    order: list[int] = []
    for kind in KINDS:
        chosen = (cjk if kind == "characters" else ~cjk) & (sizes >= SHORT_BELOW[kind])
        hashes, texts = windows(cut(batch.only(chosen), "characters"), GRAM[kind])
        once = np.sort(firsts(texts, hashes))
        hashes, texts = hashes[once], texts[once]
        count = np.bincount(texts, minlength=len(owners))
        enough = count >= MIN_GRAMS
        is_long |= enough
        kept = enough[texts] & ((count <= ALL_GRAMS)[texts] | (hashes & np.uint64(3) == 0))
        hashes, texts = hashes[kept], texts[kept]
        mine = np.flatnonzero(enough)
        starts = np.searchsorted(texts, np.append(mine, len(owners)))
        own = batch.only(enough)
        long[kind] = UnitGrams(hashes, starts, owners[mine], own.codes, own.starts[np.append(mine, len(owners))])
        order += mine.tolist()
    shortest = np.where(cjk, SHORTEST["characters"], SHORTEST["letters"])
    is_short = ~is_long & (sizes >= shortest) & (sizes <= LONGEST)
    short = []
    for i in np.flatnonzero(is_short).tolist():
        kind = "characters" if cjk[i] else "letters"
        question = text_of(asked, i)
        question = question if len(question) * (2 if cjk[i] else 1) >= SHORTEST["characters"] else ""
        short.append(Short(int(owners[i]), text_of(batch, i), kind, question, final(flat[i].text)))
        order.append(i)
    named = (f"{groups[owners[i]]}\0{text_of(batch, i)}".encode("utf-8", "surrogatepass") for i in order)
    hashes = np.fromiter(map(xxh3_64_intdigest, named), np.uint64, len(order))
    return Units(long, short, int((~is_long & ~is_short).sum()), hashes)


class BloomFilter:
    """A Bloom filter with one hash function over the grams of all units.

    Most grams of a document are in no unit. One bit is read to know it.
    """

    BITS_A_GRAM = 16

    def __init__(self, bits: np.ndarray):
        self.bits = bits
        self._shift = np.uint64(64 - (len(bits) * 8 - 1).bit_length())

    @classmethod
    def sized(cls, count: int) -> "BloomFilter":
        """An empty filter for `count` grams. Of others, at most about one in BITS_A_GRAM passes it."""
        return cls(np.zeros(1 << max(10, (count * cls.BITS_A_GRAM // 8 - 1).bit_length()), np.uint8))

    def add(self, grams: np.ndarray) -> None:
        at = np.unique(grams >> self._shift)
        np.bitwise_or.at(self.bits, at >> np.uint64(3), np.uint8(1) << (at & np.uint64(7)).astype(np.uint8))

    def may_hold(self, grams: np.ndarray) -> np.ndarray:
        """For each gram False when it was certainly not added, and True when it may have been."""
        at = grams >> self._shift
        return (self.bits[at >> np.uint64(3)] >> (at & np.uint64(7)).astype(np.uint8)) & 1 == 1


class Matches(NamedTuple):
    """What of a batch passes the filter of the units' grams."""

    grams: dict[UnitKind, tuple[np.ndarray, np.ndarray]]
    """Distinct (text, gram) pairs, sorted."""
    seeds: np.ndarray
    """uint64 [3, n]: text, gram and its place in the text's key, of the grams that seeds have."""


def matches(batch: Keys, known: BloomFilter) -> Matches:
    """The grams of a batch of documents that units may have."""
    pieces, passed = cut(batch, "characters"), {}
    for n in {*GRAM.values(), *SEED.values()}:
        hashes = gram_hashes(pieces.values, n)
        at = np.flatnonzero(known.may_hold(hashes))
        texts = np.searchsorted(batch.starts, at, "right") - 1
        inside = at + n <= batch.starts[texts + 1]
        at, texts = at[inside], texts[inside]
        passed[n] = (texts, hashes[at], at - batch.starts[texts])
    grams = {kind: distinct(*passed[GRAM[kind]][:2]) for kind in KINDS}
    columns = [np.concatenate([passed[n][i].astype(np.uint64) for n in SEED.values()]) for i in range(3)]
    return Matches(grams, np.stack(columns))


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
        keep = (share >= search.threshold) & (self.sizes[unit] >= MIN_GRAMS)
        return text[keep], unit[keep], share[keep]


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
