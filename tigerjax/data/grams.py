"""How texts are compared, never what is kept: keys, words, and hashed n-grams of characters or words."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

CJK_SHARE = 0.3  # from this share of CJK characters on, a text is cut into characters; else into words

_NOT_KEY = re.compile(r"[\W_]+")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def folded(text: str) -> str:
    """NFKC and casefold: for comparing only, never for content."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def key(text: str) -> str:
    """Letters and digits of the folded text: its words without the spaces."""
    return _NOT_KEY.sub("", folded(text))


def words(text: str) -> list[str]:
    """Runs of letters and digits of the folded text."""
    return [word for word in _NOT_KEY.split(folded(text)) if word]


def is_cjk(text_key: str) -> bool:
    """Whether a key is compared by characters (CJK) rather than by words."""
    return not text_key.isascii() and len(_CJK.findall(text_key)) >= CJK_SHARE * len(text_key)


def gram_hashes(units: np.ndarray, n: int) -> np.ndarray:
    """uint64 hash of each of the len - n + 1 windows of n units (uint64), in order."""
    count = len(units) - n + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for j in range(n):  # a polynomial in an odd constant, modulo 2^64
        total = total * np.uint64(0x9E3779B97F4A7C15) + units[j : j + count]
    total ^= total >> np.uint64(30)  # splitmix64's finaliser spreads it over all bits
    total *= np.uint64(0xBF58476D1CE4E5B9)
    total ^= total >> np.uint64(27)
    total *= np.uint64(0x94D049BB133111EB)
    return total ^ (total >> np.uint64(31))


def character_units(text_key: str) -> np.ndarray:
    """Code points as uint64."""
    return np.frombuffer(text_key.encode("utf-32-le"), "<u4").astype(np.uint64)


def word_units(text_words: Sequence[str]) -> np.ndarray:
    """Hashes of words as uint64."""
    import xxhash

    hashed = {w: xxhash.xxh3_64_intdigest(w.encode()) for w in set(text_words)}
    return np.fromiter(map(hashed.__getitem__, text_words), np.uint64, len(text_words))
