"""The exact key of a text: copies have equal keys, and texts that say different things have not.

Two texts have equal keys when they differ only in case, in full or half width, in blanks, in invisible characters and
in the punctuation of prose. All other signs count: operators, symbols, emoji, and punctuation inside of a word or a
number, as in 1.5 or a[0]. The key of code is its text.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from tigerjax.text.grams import CJK_RANGES, CONTEXT, TABLE_SIZE

SPACE, PROSE, SIGN, LETTER, CJK, NONE = range(6)
"""Kinds of characters: blanks, punctuation of prose, other signs, letters and digits, CJK, and invisible ones."""
_PROSE = frozenset(".,;:!?'\"()[]…“”‘’„‚«»‹›—–―·・。、【】《》「」『』〈〉〔〕")
_WIDE = re.compile("[\u3000\uff01-\uffee]")


def _narrow(text: str) -> str:
    """The text with characters of full and half width in their usual form."""
    return _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


def _kind(character: str) -> int:
    category, code = unicodedata.category(character), ord(character)
    if character.isspace() or category == "Cc":
        return SPACE
    if category == "Cf":
        return NONE
    if any(first <= code <= last for first, last in CJK_RANGES):
        return CJK
    if category[0] in "LNM":
        return LETTER
    return PROSE if character in _PROSE else SIGN


class _Table:
    """What a code point becomes (CONTEXT: its text must be folded as a whole), and its kind; filled in when met."""

    def __init__(self) -> None:
        self.folded = np.arange(TABLE_SIZE + 1, dtype=np.uint32)
        self.kinds = np.full(TABLE_SIZE + 1, CJK, np.uint8)
        self.known = np.zeros(TABLE_SIZE + 1, bool)
        self.known[0x4E00:0xA000] = self.known[0x20000:] = True

    def of(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(folded code points, their kinds)."""
        at = np.minimum(codes, TABLE_SIZE)
        known = self.known[at]
        if not known.all():
            for code in np.unique(at[~known]).tolist():
                self.folded[code], self.kinds[code] = self._entry(chr(code))
                self.known[code] = True
        return np.where(at < TABLE_SIZE, self.folded[at], codes), self.kinds[at]

    @staticmethod
    def _entry(character: str) -> tuple[int, int]:
        if unicodedata.category(character)[0] == "M" or 0x1100 <= ord(character) < 0x1200:  # they compose
            return CONTEXT, LETTER
        folded = _narrow(character).casefold()
        return (ord(folded), _kind(folded)) if len(folded) == 1 else (CONTEXT, LETTER)


_TABLE = _Table()


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _characters(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(code points, kinds, size of each text) of texts that each end with a \\0."""
    raw = _codes("\0".join(texts) + "\0")
    sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    codes, kinds = _TABLE.of(raw)
    special = np.flatnonzero(codes == CONTEXT)
    if not len(special):
        return codes, kinds, sizes
    ends, parts, at = np.cumsum(sizes), [], 0
    for i in np.unique(np.searchsorted(ends, special, "right")).tolist():
        start = int(ends[i] - sizes[i])
        own = _codes(_narrow(unicodedata.normalize("NFC", texts[i])).casefold() + "\0")
        _, own_kinds = _TABLE.of(own)
        parts += [(codes[at:start], kinds[at:start]), (own, own_kinds)]
        at, sizes[i] = int(ends[i]), len(own)
    parts.append((codes[at:], kinds[at:]))
    codes, kinds = (np.concatenate(column) for column in zip(*parts, strict=True))
    return codes, kinds, sizes


def _kept(kinds: np.ndarray) -> np.ndarray:
    """bool: the characters that belong to a key. Punctuation of prose does not, if a blank or CJK is on one side."""
    kept = (kinds != SPACE) & (kinds != PROSE)
    prose = np.flatnonzero(kinds == PROSE)
    if len(prose):
        count, other = np.arange(len(kinds)), kinds != PROSE
        left = kinds[np.maximum.accumulate(np.where(other, count, 0))[prose]]
        right = kinds[np.minimum.accumulate(np.where(other, count, len(kinds) - 1)[::-1])[::-1][prose]]
        left = np.where(left == PROSE, SPACE, left)  # no other character before the first one
        at_border = (left == SPACE) | (left == CJK) | (right == SPACE) | (right == CJK)
        kept[prose] = ~at_border | (left == SIGN) | (right == SIGN)
    return kept


def exact_keys(texts: Sequence[str], code: Sequence[bool]) -> list[bytes]:
    """The 16 bytes of each text's exact key; `code` says which texts are code."""
    from xxhash import xxh3_128_digest

    codes, kinds, sizes = _characters(texts)
    seen = kinds != NONE
    ends = np.concatenate([[0], np.cumsum(seen)])[np.cumsum(sizes)]
    codes, kinds = codes[seen], kinds[seen]
    kept = _kept(kinds)
    ends = np.concatenate([[0], np.cumsum(kept)])[ends]
    at = np.flatnonzero(kept)
    letters = kinds[at] != CJK
    parted = np.zeros(len(at), bool)  # a blank before this character counts
    parted[1:] = (np.diff(at) > 1) & letters[1:] & letters[:-1]
    parted[ends[:-1][ends[:-1] < len(at)]] = False  # what is before the first character is another text
    whole = codes[at] | (parted.astype(np.uint32) << np.uint32(31))
    out, start = [], 0
    for text, is_code, end in zip(texts, code, ends.tolist(), strict=True):
        if is_code or start == end:  # a text of nothing but punctuation is its own key
            out.append(xxh3_128_digest(b"\xff" + text.strip("\r\n").encode("utf-8", "surrogatepass")))
        else:
            out.append(xxh3_128_digest(whole[start:end].tobytes()))
        start = end
    return out
