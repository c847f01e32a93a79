"""The byte-level BPE of a tokenizer.json, and which merges may be added to it.

An old merge is applied before every new one, and never to a new token. So text is cut as before first, and then new
merges join tokens of it. A new merge is allowed where its result is made of

    whole CJK characters                      中国
    or the beginning of one such character    E4 B8, with which only CJK characters begin

so it can only be applied inside CJK characters, and the ids of all other text stay. Two characters count as CJK here
that `is_cjk` leaves out, as they share their first bytes with CJK punctuation: U+3000, the ideographic space, and
U+FF00, which is not assigned. English and code have neither.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.tokenizer.added import ADDED_FILE, AGAIN, CONFIG_FILE, FAST_FILE
from tigerjax.tokenizer.extend import is_cjk
from tigerjax.tokenizer.hf_files import (
    GENERATION_FILE,
    MAP_FILE,
    TEMPLATE_FILE,
    Described,
    described,
    has_part,
)
from tigerjax.tokenizer.json_file import ALPHABET

LETTERS = {byte: letter for letter, byte in ALPHABET.items()}
BESIDE = (ADDED_FILE, CONFIG_FILE, MAP_FILE, TEMPLATE_FILE, GENERATION_FILE)
"""Files of a folder that hold for its extension as they are. vocab.json and merges.txt do not."""
SHARED = (0x3000, 0xFF00)
LEAST_LEAD = 0xE2  # the first byte of the first CJK character
Pair = tuple[str, str]
"""The two tokens that a merge joins, as the file has them."""


class Base(NamedTuple):
    """A tokenizer.json that can be extended."""

    described: Described
    merges: list[Pair]

    @property
    def vocab(self) -> dict[str, int]:
        return self.described.vocab

    @property
    def file(self) -> Path:
        """What an extension is made of. The weights of a model may lie beside it."""
        return self.described.folder / FAST_FILE

    def beside(self) -> dict[str, str]:
        """{name: sha256} of the files that go into an extension as they are."""
        there = {name: self.described.folder / name for name in BESIDE}
        return {name: manifest.sha256(file) for name, file in there.items() if file.is_file()}


def read(folder: str | Path) -> Base:
    """The tokenizer of a folder. Raises ConfigError where it is no byte-level BPE, DataError where it is damaged."""
    where = paths.of(folder)
    given = described(where)
    path = where / FAST_FILE
    if not has_part(given.content, "pre_tokenizer", "ByteLevel"):
        raise ConfigError(
            f"{path} is no byte-level BPE: its pre_tokenizer has no part ByteLevel; extend the tokenizer.model that it"
            " was made from"
        )
    model = given.content["model"]
    if others := [name for name in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]:
        raise ConfigError(f"{path}: model.{others[0]} is {model[others[0]]!r}, and byte-level BPE has none; {AGAIN}")
    try:
        merges = [_pair(merge) for merge in model["merges"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: model.merges: {type(error).__name__}: {error}; {AGAIN}") from error
    return Base(given, merges)


def _pair(merge: Any) -> Pair:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return str(first), str(second)


def own(character: str) -> bool:
    """Whether new merges may be applied to a character."""
    return is_cjk(character) or ord(character) in SHARED


def has_own(text: str) -> bool:
    """Whether the text has such a character. Only the ids of such text may change."""
    return any(map(own, text))


def bytes_of(token: str) -> bytes:
    """The bytes that a token of the vocabulary stands for. Raises KeyError for one with other letters."""
    return bytes(ALPHABET[letter] for letter in token)


def token_of(content: bytes) -> str:
    """The token as the vocabulary has it."""
    return "".join(LETTERS[byte] for byte in content)


@cache
def whole(token: str) -> bool:
    """Whether the token is made of whole characters to which new merges may be applied."""
    try:
        text = bytes_of(token).decode()
    except (KeyError, UnicodeDecodeError):
        return False
    return bool(text) and all(map(own, text))


def completions(content: bytes) -> list[str]:
    """All characters whose UTF-8 begins with these bytes, which are fewer than those of a character."""
    lead = content[0]
    size = 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if 0xF0 <= lead < 0xF5 else 0
    left = size - len(content)
    if left < 1 or any(not 0x80 <= byte < 0xC0 for byte in content[1:]):
        return []
    found = []
    for n in range(64**left):
        rest = bytes(0x80 + (n >> 6 * place & 63) for place in reversed(range(left)))
        try:
            found.append((content + rest).decode())
        except UnicodeDecodeError:  # half a surrogate pair, or a longer spelling of a smaller character
            continue
    return found


@cache
def beginning(token: str) -> tuple[str, ...]:
    """The characters that begin with the token's bytes, where all are such that new merges may be applied to them;
    else nothing."""
    content = bytes_of(token)
    if len(content) < 2 or content[0] < LEAST_LEAD:  # one byte begins thousands of characters of several scripts
        return ()
    found = completions(content)
    return tuple(found) if all(map(own, found)) else ()


def allowed(pair: Pair) -> bool:
    """Whether the merge may be added: the rule at the head of this file."""
    joined = "".join(pair)
    if all(map(whole, pair)):
        return True
    if not whole(joined):
        return bool(beginning(joined))
    return len(bytes_of(joined).decode()) == 1  # parts of several characters are joined only when each is whole


def made(content: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json, in which the texts of special tokens are text."""
    without = {"truncation": None, "padding": None, "post_processor": None}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content | without, ensure_ascii=False))
    tokenizer.encode_special_tokens = True
    return tokenizer


def with_merges(base: Base, pairs: Sequence[Pair]) -> dict[str, Any]:
    """tokenizer.json of the base with these merges behind its own; their results get the ids behind all of the base.

    The added tokens stand in the vocabulary too then, each with its id: `tokenizers` would give them ids behind the
    vocabulary, which are those of the new tokens.
    """
    given = base.described
    model = given.content["model"]
    taken = given.vocab | {text: i for i, text in given.added.items()}
    new = {first + second: given.size + n for n, (first, second) in enumerate(pairs)}
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    merges = [f"{first} {second}" if as_text else [first, second] for first, second in pairs]
    vocab = dict(sorted(taken.items(), key=lambda entry: entry[1])) | new
    return given.content | {"model": model | {"vocab": vocab, "merges": [*model["merges"], *merges]}}


def new_merges(base: Base, new: Base) -> list[Pair]:
    """The merges of `new` behind those of the base.

    Raises ConfigError where `new` is no extension of the base.
    """
    before, after = base.described, new.described
    entries = after.vocab | {text: i for i, text in after.added.items()}
    old = before.vocab | {text: i for i, text in before.added.items()}
    changed = [text for text, i in old.items() if entries.get(text) != i]
    if changed or new.merges[: len(base.merges)] != base.merges:
        what = f"entry {changed[0]!r} has another id" if changed else "its first merges are others"
        raise ConfigError(
            f"{after.folder} is not made of {before.folder}: {what}; make it by `tigerjax tokenizer train --base"
            f" {before.folder}`"
        )
    return new.merges[len(base.merges) :]


def old_parts(base: Base, new: Base) -> list[list[int]]:
    """For each new token, in the order of the ids, the tokens of the base that it is merged from."""
    spelt = {text: [i] for text, i in base.vocab.items()}
    found = {}
    for first, second in new_merges(base, new):
        spelt[first + second] = spelt[first] + spelt[second]
        found[new.vocab[first + second]] = spelt[first + second]
    return [found[i] for i in sorted(found)]


def dead(tokenizer: tokenizers.Tokenizer, ids: Iterable[tuple[str, int]]) -> list[str]:
    """Those of the tokens (as the vocabulary has them, with their ids) that no text gives.

    A token of whole characters must come from its own text alone, the beginning of a character from one that begins so.
    """
    return [token for token, i in ids if not any(i in found for found in _encoded(tokenizer, token, i))]


def _encoded(tokenizer: tokenizers.Tokenizer, token: str, i: int) -> Iterable[list[int]]:
    if whole(token):
        found = tokenizer.encode(bytes_of(token).decode(), add_special_tokens=False).ids
        return [found] if found == [i] else []
    return (tokenizer.encode(text, add_special_tokens=False).ids for text in beginning(token))
