"""How texts are compared, never what is kept: keys, words, and hashed n-grams of characters or words.

The key of a text is its letters and digits after NFKC and casefold. Batches of texts are handled as one array of code
points: a table maps each to its key character, so that hashing costs a few passes of numpy over the text.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["characters", "words"]

CJK_SHARE = 0.3  # from this share of CJK characters on, a text is cut into characters; else into words
CJK_RANGES = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
SAME = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x2A6E0))
"""Ranges in which every character is its own key."""
TABLE_SIZE = 0x2A6E0
CONTEXT = 0xFFFFFFFF
"""Marks a character whose key depends on its neighbours (combining marks), or is more than one character."""
ODD = np.uint64(0x9E3779B97F4A7C15)

_NOT_KEY = re.compile(r"[\W_]+")


def folded(text: str) -> str:
    """NFKC and casefold: for comparing only, never for content."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def key(text: str) -> str:
    """Letters and digits of the folded text: its words without the spaces."""
    return _NOT_KEY.sub("", folded(text))


def words(text: str) -> list[str]:
    """Runs of letters and digits of the folded text."""
    return [word for word in _NOT_KEY.split(folded(text)) if word]


class _Table:
    """Key characters by code point: 0 where there is none, CONTEXT where it is not alone; filled as they are met."""

    def __init__(self) -> None:
        self.keys = np.arange(TABLE_SIZE + 1, dtype=np.uint32)
        self.known = np.zeros(TABLE_SIZE + 1, bool)
        for first, end in SAME:
            self.known[first:end] = True
        self.keys[-1], self.known[-1] = CONTEXT, True  # stands for all code points beyond

    def of(self, codes: np.ndarray) -> np.ndarray:
        """The key characters of code points."""
        codes = np.minimum(codes, TABLE_SIZE)
        known = self.known[codes]
        if not known.all():
            for code in np.unique(codes[~known]).tolist():
                self.keys[code], self.known[code] = self._key(code), True
        return self.keys[codes]

    @staticmethod
    def _key(code: int) -> int:
        character = chr(code)
        if unicodedata.category(character)[0] == "M" or 0x1100 <= code < 0x1200:  # marks and Hangul jamo compose
            return CONTEXT
        kept = folded(character)
        if not any(c.isalnum() for c in kept):
            return 0
        return ord(kept) if len(kept) == 1 else CONTEXT


_TABLE = _Table()


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class Keys(NamedTuple):
    """The keys of n texts in one array; text i has codes[starts[i]:starts[i + 1]]."""

    codes: np.ndarray
    """uint32, the key's characters."""
    starts: np.ndarray
    """int64 [n + 1]."""
    begins: np.ndarray
    """bool: a word begins with this character."""

    def cjk(self) -> np.ndarray:
        """bool [n]: whether a text is compared by characters rather than by words."""
        is_cjk = np.zeros(len(self.codes), bool)
        for first, last in CJK_RANGES:
            is_cjk |= (self.codes >= first) & (self.codes <= last)
        total = np.concatenate([[0], np.cumsum(is_cjk)])
        count, size = np.diff(total[self.starts]), np.diff(self.starts)
        return (count > 0) & (count >= CJK_SHARE * size)

    def only(self, chosen: np.ndarray) -> "Keys":
        """The same texts, those that are not chosen (bool [n]) being empty."""
        keep = np.repeat(chosen, np.diff(self.starts))
        starts = np.concatenate([[0], np.cumsum(np.where(chosen, np.diff(self.starts), 0))])
        return Keys(self.codes[keep], starts, self.begins[keep])


def keys(texts: Sequence[str]) -> Keys:
    """The keys of a batch of texts: the same characters and words as `key` and `words` give of each."""
    raw = _codes("\0".join(texts) + "\0" if texts else "")
    sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1  # and its \0, which has no key
    mapped = _TABLE.of(raw)
    if len(special := np.flatnonzero(mapped == CONTEXT)):
        ends = np.cumsum(sizes)
        parts, at = [], 0
        for i in np.unique(np.searchsorted(ends, special, "right")).tolist():
            start = int(ends[i] - sizes[i])
            own = _codes(_NOT_KEY.sub(" ", folded(texts[i])) + " ")
            parts += [mapped[at:start], np.where(own == 32, 0, own).astype(np.uint32)]
            at, sizes[i] = int(ends[i]), len(own)
        mapped = np.concatenate([*parts, mapped[at:]])
    kept = mapped != 0
    begins = kept.copy()
    begins[1:] &= ~kept[:-1]
    count = np.concatenate([[0], np.cumsum(kept)])
    starts = count[np.concatenate([[0], np.cumsum(sizes)])]
    return Keys(mapped[kept], starts, begins[kept])


class Units(NamedTuple):
    """What the texts of a batch are cut into, hashed: uint64 values; text i has values[starts[i]:starts[i + 1]]."""

    values: np.ndarray
    starts: np.ndarray


def spread(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: spreads uint64 over all bits, in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


@functools.lru_cache(maxsize=4)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """ODD^0 .. ODD^(count - 1) and their inverses, modulo 2^64."""
    inverse = np.uint64(pow(int(ODD), -1, 2**64))
    out = []
    for base in (ODD, inverse):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        out.append(np.multiply.accumulate(powers))
    return out[0], out[1]


def cut(batch: Keys, kind: Kind) -> Units:
    """The batch's characters, or its words, as hashed units.

    A word is hashed as a polynomial of its characters, from differences of one running sum over the whole batch.
    """
    if kind == "characters":
        return Units(batch.codes.astype(np.uint64), batch.starts)
    at = np.flatnonzero(batch.begins)
    number = np.concatenate([[0], np.cumsum(batch.begins)])
    if not len(at):
        return Units(np.zeros(0, np.uint64), number[batch.starts])
    size = 1 << (len(batch.codes) - 1).bit_length()  # few sizes, so that powers are made seldom
    powers, inverses = _powers(size)
    values = spread(batch.codes.astype(np.uint64) + np.uint64(1)) * powers[: len(batch.codes)]
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)])
    ends = np.append(at[1:], len(batch.codes))
    return Units(spread((total[ends] - total[at]) * inverses[at]), number[batch.starts])


def gram_hashes(units: np.ndarray, n: int) -> np.ndarray:
    """uint64 hash of each of the len - n + 1 windows of n units (uint64), in order."""
    count = len(units) - n + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    total = units[:count].copy()
    for j in range(1, n):  # a polynomial in an odd constant, modulo 2^64
        total *= ODD
        total += units[j : j + count]
    return spread(total)


def windows(units: Units, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, texts): the gram at each position of a batch that does not run into the next text, and its text."""
    sizes = np.maximum(np.diff(units.starts) - n + 1, 0)
    texts = np.repeat(np.arange(len(sizes)), sizes)
    hashes = gram_hashes(units.values, n)
    offset = units.starts[:-1] - np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else np.zeros(0, np.int64)
    return hashes[np.arange(len(texts)) + offset[texts]], texts
