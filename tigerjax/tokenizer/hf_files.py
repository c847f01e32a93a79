"""What the files of a Hugging Face tokenizer say, read as transformers reads them.

    tokenizer.json            the entries, the added tokens, and whether bos is put before every text
    tokenizer_config.json     bos_token, eos_token, pad_token; in old folders the chat template
    special_tokens_map.json   the same three tokens, where tokenizer_config.json has none
    chat_template.jinja       the chat template
    generation_config.json    eos_token_id: all ids that end an answer

This file needs no library of tokenizers.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files.foreign import read_object, shown
from tigerjax.files.manifest import canonical, refuse_changed
from tigerjax.tokenizer.added import AGAIN, CONFIG_FILE, FAST_FILE

MAP_FILE, TEMPLATE_FILE, GENERATION_FILE = "special_tokens_map.json", "chat_template.jinja", "generation_config.json"
MAX_TEMPLATE = 1_000_000  # bytes; the longest that is published has about 20,000
MAX_ID = 10_000_000  # the largest vocabulary that is published has about 260,000
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
NOT_IDS = ("truncation", "padding", "post_processor")
"""Parts of tokenizer.json that do not change the ids of a text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """A tokenizer folder of Hugging Face."""

    folder: Path
    content: dict[str, Any]
    """tokenizer.json, read."""
    size: int
    """One more than the largest id."""
    vocab: dict[str, int]
    """The entries that encode text, by their texts as the file has them."""
    added: dict[int, str]
    """The texts of the added tokens by id."""
    special: frozenset[int]
    """Those of them that no text gives."""
    names: dict[str, str]
    """{"bos_token": text, …} of the tokens that have one of these roles."""
    bos: int | None
    eos: int
    pad: int | None
    opening: list[int]
    """The ids that are put before every text."""
    stops: tuple[int, ...]
    """eos, and what generation_config.json names."""
    template: str | None

    def sha256(self) -> str:
        """Of all that turns text into ids."""
        ids = {name: value for name, value in self.content.items() if name not in NOT_IDS}
        return hashlib.sha256(canonical(ids)).hexdigest()

    def encoding_sha256(self, sha256: str) -> str:
        """Of that and of all else that decides on rows."""
        rest = [sha256, self.names, self.eos, self.pad, self.opening, self.template]
        return hashlib.sha256(canonical(rest)).hexdigest()


def described(folder: Path) -> Described:
    """What the folder's files say.

    Raises DataError for a file that is damaged, for a kind of model that is not read, for two entries of one text, and
    where no eos is named.
    """
    path = folder / FAST_FILE
    refuse_changed([path], alone=True)
    content = read_object(path, AGAIN)
    vocab, added, special = _entries(path, content)
    config = read_object(folder / CONFIG_FILE, AGAIN) if (folder / CONFIG_FILE).is_file() else {}
    named = read_object(folder / MAP_FILE, AGAIN) if (folder / MAP_FILE).is_file() else {}
    by_text = {text: i for i, text in added.items()}
    _refuse_others(folder, config, vocab | by_text)
    names, ids = {}, {}
    for name in NAMED:
        source = config if config.get(name) is not None else named
        if (text := _text(folder / (CONFIG_FILE if source is config else MAP_FILE), name, source.get(name))) is None:
            continue
        if (i := by_text.get(text, vocab.get(text))) is None:
            raise DataError(f"{folder / CONFIG_FILE}: {name} is {shown(text)}, which {path} does not have; {AGAIN}")
        names[name], ids[name] = text, i
    size = 1 + max([*vocab.values(), *added])
    ends = _ends(folder, size)
    if "eos_token" not in ids and not ends:
        raise DataError(
            f"{folder}: neither {CONFIG_FILE} nor {GENERATION_FILE} names an eos_token, which must end a document;"
            f" write it into {CONFIG_FILE}"
        )
    eos = ids.get("eos_token", ends[0] if ends else 0)
    return Described(
        folder=folder,
        content=content,
        size=size,
        vocab=vocab,
        added=added,
        special=frozenset(special),
        names=names,
        bos=ids.get("bos_token"),
        eos=eos,
        pad=ids.get("pad_token"),
        opening=_opening(path, content, size),
        stops=tuple(sorted({eos, *ends})),
        template=_template(folder, config),
    )


def _entries(path: Path, content: dict[str, Any]) -> tuple[dict[str, int], dict[int, str], set[int]]:
    """(vocabulary, added tokens, ids of the special ones among them) of a tokenizer.json."""
    model = content.get("model")
    kind = model.get("type", "BPE" if "merges" in model else None) if isinstance(model, dict) else None
    if kind != "BPE":
        raise DataError(
            f"{path}: its model is of kind {shown(kind)}, and only BPE is read; give a tokenizer of that kind"
        )
    assert isinstance(model, dict)
    vocab, listed = model.get("vocab"), content.get("added_tokens") or []
    added: dict[int, str] = {}
    special = set()
    try:
        if not isinstance(vocab, dict) or not vocab:
            raise TypeError("model.vocab is no object of texts and ids")
        for token in listed:
            text, i = token["content"], token["id"]
            if not isinstance(text, str) or not text:
                raise TypeError(f"an added token has the text {shown(text)}")
            if added.get(_id(i), text) != text or vocab.get(text, i) != i:
                raise ValueError(f"id {i} of {text!r} is that of another entry too")
            added[i] = text
            special |= {i} if token.get("special") else set()
        if len({_id(i) for i in vocab.values()}) != len(vocab) or len(set(added.values())) != len(added):
            raise ValueError("two entries have the same id or the same text")
        if taken := {i: text for text, i in vocab.items() if added.get(i, text) != text}:
            raise ValueError(f"id {min(taken)} is {added[min(taken)]!r} and {taken[min(taken)]!r}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: not a tokenizer.json ({type(error).__name__}: {error}); {AGAIN}") from error
    return vocab, dict(sorted(added.items())), special


def _id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_ID:
        raise TypeError(f"an id is {shown(value)}")
    return value


def _text(path: Path, name: str, value: Any) -> str | None:
    """The text of a named token, which stands alone or in an object with its flags."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and (not isinstance(text, str) or not text):
        raise DataError(f"{path}: {name} is {shown(value)}, needs a text; {AGAIN}")
    return text


def _refuse_others(folder: Path, config: dict[str, Any], entries: dict[str, int]) -> None:
    """DataError for added tokens that tokenizer_config.json alone names: transformers would give them new ids."""
    path, listed = folder / CONFIG_FILE, config.get("added_tokens_decoder") or {}
    try:
        tokens = {int(i): token["content"] for i, token in listed.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: not a list of added tokens ({type(error).__name__}: {error}); {AGAIN}") from error
    wrong = {i: text for i, text in tokens.items() if not isinstance(text, str) or entries.get(text) != i}
    if wrong:
        i = min(wrong)
        raise DataError(
            f"{path}: added token {shown(wrong[i])} has id {i}, which {FAST_FILE} does not give it; save the tokenizer"
            " again with save_pretrained"
        )


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """The part of a pipeline and all parts in it."""
    if isinstance(value, dict):
        yield value
        for name in ("processors", "normalizers", "pretokenizers", "decoders"):
            for inner in value.get(name) or []:
                yield from _parts(inner)


def has_part(content: dict[str, Any], where: str, kind: str) -> bool:
    """Whether the pipeline `where` of a tokenizer.json ("pre_tokenizer", "decoder" …) has a part of this type."""
    return any(part.get("type") == kind for part in _parts(content.get(where)))


def _opening(path: Path, content: dict[str, Any], size: int) -> list[int]:
    """The ids before every text. As in transformers 5, tokenizer.json alone says so, and not add_bos_token."""
    ids: list[int] = []
    try:
        for part in _parts(content.get("post_processor")):
            if part.get("type") == "TemplateProcessing":
                for one in part["single"]:
                    if "SpecialToken" not in one:
                        break
                    ids += part["special_tokens"][one["SpecialToken"]["id"]]["ids"]
        if wrong := [i for i in ids if _id(i) >= size]:
            raise ValueError(f"id {wrong[0]} is none of its entries")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: post_processor: {type(error).__name__}: {error}; {AGAIN}") from error
    return ids


def _ends(folder: Path, size: int) -> list[int]:
    """eos_token_id of the folder's generation_config.json; empty where there is none."""
    path = folder / GENERATION_FILE
    if not path.is_file():
        return []
    value = read_object(path, AGAIN).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if wrong := [i for i in ids if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < size]:
        raise DataError(
            f"{path}: eos_token_id has {shown(wrong[0])}, needs ids of the tokenizer, from 0 to {size - 1}; {AGAIN}"
        )
    return ids


def has_template(folder: Path) -> bool:
    """Whether a folder has a chat template, and the tokenizer.json that it needs."""
    if not (folder / FAST_FILE).is_file():
        return False
    config = folder / CONFIG_FILE
    named = config.is_file() and read_object(config, AGAIN).get("chat_template") is not None
    return named or (folder / TEMPLATE_FILE).is_file()


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The text of the chat template; None where the folder has none."""
    path = folder / TEMPLATE_FILE
    if path.is_file():
        content = path.read_bytes()
        if len(content) > MAX_TEMPLATE:
            raise DataError(f"{path}: {len(content):,} bytes, and at most {MAX_TEMPLATE:,} are read; {AGAIN}")
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: invalid UTF-8 at byte {error.start}; {AGAIN}") from error
    given = config.get("chat_template")
    if isinstance(given, list):  # several with names
        named = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
        if "default" not in named:
            raise DataError(f"{folder / CONFIG_FILE}: chat_template has no template named 'default'; name one so")
        given = named["default"]
    if given is not None and not isinstance(given, str):
        raise DataError(f"{folder / CONFIG_FILE}: chat_template is {shown(given)}, needs a text; {AGAIN}")
    return given
