"""The tokens that a Hugging Face folder adds behind the pieces of its tokenizer.model.

They stand in up to three files, by the age of the library that wrote them:

    added_tokens.json        {text: id}
    tokenizer_config.json    {"added_tokens_decoder": {id: {"content": text, …}}}
    tokenizer.json           {"added_tokens": [{"id": id, "content": text, …}]}
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files.foreign import read_object, shown

MODEL_FILE, SPECIALS_FILE = "tokenizer.model", "specials.json"
ADDED_FILE, CONFIG_FILE, FAST_FILE = "added_tokens.json", "tokenizer_config.json", "tokenizer.json"
NUMBER = re.compile(r"-?[0-9]{1,18}")
AGAIN = "give the tokenizer's files as they were published"


def is_json(folder: Path) -> bool:
    """Whether a folder's tokenizer is its tokenizer.json, without a tokenizer.model."""
    return folder.is_dir() and not (folder / MODEL_FILE).is_file() and (folder / FAST_FILE).is_file()


def added_tokens(folder: Path, pieces: int) -> dict[int, str]:
    """{id: text} of the tokens behind the `pieces` of tokenizer.model; empty where there are none.

    Names that a file gives to the pieces themselves are passed over, as SentencePiece alone encodes text. DataError for
    ids that leave a gap, and for an id or a text that stands for two things.
    """
    found: dict[int, str] = {}
    for name, listed in ((ADDED_FILE, _by_text), (CONFIG_FILE, _by_id), (FAST_FILE, in_fast_file)):
        path = folder / name
        if not path.is_file():
            continue
        for i, text in _checked(path, listed):
            if i >= pieces and found.setdefault(i, text) != text:
                raise DataError(f"{path}: id {i} is {shown(text)}, and {shown(found[i])} in another file; {AGAIN}")
    if len(set(found.values())) != len(found):
        raise DataError(f"{folder}: two added tokens have the same text; {AGAIN}")
    if sorted(found) != list(range(pieces, pieces + len(found))):
        raise DataError(
            f"{folder}: the {len(found)} added tokens have ids from {min(found)} to {max(found)}, but must follow the"
            f" {pieces} pieces of tokenizer.model without a gap; {AGAIN}"
        )
    return dict(sorted(found.items()))


def in_fast_file(content: dict[str, Any]) -> list[tuple[Any, Any]]:
    """(id, text) of the added tokens of a tokenizer.json."""
    return [(token["id"], token["content"]) for token in content.get("added_tokens") or []]


def decoder(tokens: dict[int, str]) -> dict[str, Any]:
    """`added_tokens_decoder` of a tokenizer_config.json.

    llama.cpp's converter reads tokenizer.model and then this field. Without it a chat's markers become unused entries,
    and are spelt out in ordinary pieces. `special` makes them control tokens there.
    """
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(i): {"content": text} | flags for i, text in sorted(tokens.items())}


def _by_text(content: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(i, text) for text, i in content.items()]


def _by_id(content: dict[str, Any]) -> list[tuple[Any, Any]]:
    listed = content.get("added_tokens_decoder") or {}
    return [(int(i) if NUMBER.fullmatch(i) else i, token["content"]) for i, token in listed.items()]


def _checked(path: Path, listed: Any) -> list[tuple[int, str]]:
    try:
        tokens = listed(read_object(path, AGAIN))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a list of added tokens ({type(error).__name__}: {error}); {AGAIN}") from error
    for i, text in tokens:
        if isinstance(i, bool) or not isinstance(i, int) or i < 0 or not isinstance(text, str) or not text:
            raise DataError(
                f"{path}: added token {shown(text)} has id {shown(i)}, needs a text and a number from 0; {AGAIN}"
            )
    refuse_repeated(path, tokens)
    return tokens


def refuse_repeated(path: Path, tokens: Sequence[tuple[int, str]]) -> None:
    """DataError where one file gives an id or a text to two of its (id, text)."""
    for what, values in (("id", [i for i, _ in tokens]), ("text", [text for _, text in tokens])):
        if twice := [value for value, times in Counter(values).items() if times > 1]:
            raise DataError(f"{path}: two added tokens have the {what} {shown(twice[0])}; {AGAIN}")
