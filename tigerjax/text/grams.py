"""Keys, words and hashed n-grams of texts, by which texts are compared. They never become a text's content.

The key of a text is its letters and digits after NFKC and casefold. A batch of texts is one array of code points, and a
table maps each code point to its key character. So hashing costs a few passes of numpy over the text.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["characters", "words"]

CJK_SHARE = 0.3  # a text with this share of CJK characters or more is cut into characters, others into words
CJK_RANGES = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
SAME = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x2A6E0))
"""Ranges of code points in which every character is its own key."""
TABLE_SIZE = 0x2A6E0
CONTEXT = 0xFFFFFFFF
"""In the table: the key depends on the neighbours (combining marks), or is more than one character."""
ODD = np.uint64(0x9E3779B97F4A7C15)

_NOT_KEY = re.compile(r"[\W_]+")


def folded(text: str) -> str:
    """The text after NFKC and casefold. It is for comparing only."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def key(text: str) -> str:
    """Letters and digits of the folded text: its words without the spaces."""
    return _NOT_KEY.sub("", folded(text))


def words(text: str) -> list[str]:
    """Runs of letters and digits of the folded text."""
    return [word for word in _NOT_KEY.split(folded(text)) if word]


class _Table:
    """The key character of each code point, computed when the code point first occurs: 0 for none, or CONTEXT."""

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
        character = folded(character)
        if not any(c.isalnum() for c in character):
            return 0
        return ord(character) if len(character) == 1 else CONTEXT


_TABLE = _Table()


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class Keys(NamedTuple):
    """The keys of n texts in one array; text i has codes[starts[i]:starts[i + 1]]."""

    codes: np.ndarray
    """uint32, the characters of all keys."""
    starts: np.ndarray
    """int64 [n + 1], where the key of each text begins."""
    begins: np.ndarray
    """bool, whether a word begins with this character."""

    def cjk(self) -> np.ndarray:
        """bool [n]: whether a text is compared by characters; others are compared by words."""
        is_cjk = np.zeros(len(self.codes), bool)
        for first, last in CJK_RANGES:
            is_cjk |= (self.codes >= first) & (self.codes <= last)
        total = np.concatenate([[0], np.cumsum(is_cjk)])
        count, size = np.diff(total[self.starts]), np.diff(self.starts)
        return (count > 0) & (count >= CJK_SHARE * size)

    def only(self, chosen: np.ndarray) -> "Keys":
        """The same texts, with an empty key for those that `chosen` (bool [n]) leaves out."""
        keep = np.repeat(chosen, np.diff(self.starts))
        starts = np.concatenate([[0], np.cumsum(np.where(chosen, np.diff(self.starts), 0))])
        return Keys(self.codes[keep], starts, self.begins[keep])


def keys(texts: Sequence[str]) -> Keys:
    """The keys of a batch of texts, equal to what `key` and `words` give for each."""
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
    in_key = mapped != 0
    begins = in_key.copy()
    begins[1:] &= ~in_key[:-1]
    count = np.concatenate([[0], np.cumsum(in_key)])
    starts = count[np.concatenate([[0], np.cumsum(sizes)])]
    return Keys(mapped[in_key], starts, begins[in_key])


class Pieces(NamedTuple):
    """The hashed characters or words of a batch, uint64. Those of text i are values[starts[i]:starts[i + 1]]."""

    values: np.ndarray
    starts: np.ndarray


def spread(values: np.ndarray) -> np.ndarray:
    """Spreads uint64 values over all bits (the finaliser of splitmix64), in place; returns them."""
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


def cut(batch: Keys, kind: Kind) -> Pieces:
    """The characters or the words of a batch, hashed.

    The hash of a word is a polynomial of its characters. It is the difference of two values of one running sum over
    the whole batch, so that no loop over words is needed.
    """
    if kind == "characters":
        return Pieces(batch.codes.astype(np.uint64), batch.starts)
    at = np.flatnonzero(batch.begins)
    number = np.concatenate([[0], np.cumsum(batch.begins)])
    if not len(at):
        return Pieces(np.zeros(0, np.uint64), number[batch.starts])
    size = 1 << (len(batch.codes) - 1).bit_length()  # few sizes, so that powers are made seldom
    powers, inverses = _powers(size)
    values = spread(batch.codes.astype(np.uint64) + np.uint64(1)) * powers[: len(batch.codes)]
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)])
    ends = np.append(at[1:], len(batch.codes))
    return Pieces(spread((total[ends] - total[at]) * inverses[at]), number[batch.starts])


def run_hashes(codes: np.ndarray, n: int) -> np.ndarray:
    """The uint64 hash of each of the len - n + 1 runs of n characters (uint32), in order; as fast for a long run.

    It is the difference of two values of one running sum, as in `cut`.
    """
    if len(codes) < n:
        return np.zeros(0, np.uint64)
    powers, inverses = _powers(1 << (len(codes) - 1).bit_length())
    values = spread(codes.astype(np.uint64) + np.uint64(1)) * powers[: len(codes)]
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)])
    return spread((total[n:] - total[:-n]) * inverses[: len(codes) - n + 1])


def gram_hashes(pieces: np.ndarray, n: int) -> np.ndarray:
    """The uint64 hash of each of the len - n + 1 windows of n pieces (uint64), in order."""
    count = len(pieces) - n + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    total = pieces[:count].copy()
    for j in range(1, n):  # a polynomial in an odd constant, modulo 2^64
        total *= ODD
        total += pieces[j : j + count]
    return spread(total)


def windows(pieces: Pieces, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, texts): every gram of n pieces within a text of the batch, and the index of that text."""
    sizes = np.maximum(np.diff(pieces.starts) - n + 1, 0)
    texts = np.repeat(np.arange(len(sizes)), sizes)
    hashes = gram_hashes(pieces.values, n)
    offset = pieces.starts[:-1] - np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else np.zeros(0, np.int64)
    return hashes[np.arange(len(texts)) + offset[texts]], texts


def shingles(texts: Sequence[str], characters: int, words: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, owners): every gram of so many CJK characters, or words, of a batch, and the index of its text.

    They stand in the order of the texts."""
    batch = keys(texts)
    cjk = batch.cjk()
    by_character = windows(cut(batch.only(cjk), "characters"), characters)
    by_word = windows(cut(batch.only(~cjk), "words"), words)
    hashes, owners = (np.concatenate(pair) for pair in zip(by_character, by_word, strict=True))
    order = np.argsort(owners, kind="stable")
    return hashes[order], owners[order]
