"""tokenizer.json: a BPE of Hugging Face, run by the library `tokenizers`.

Added tokens that the file marks as special are ids only: their text inside a text gives ordinary tokens, where
transformers would give the id. Other added tokens (runs of spaces, <think>) are text, and are found in it as there.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from tigerjax.errors import DataError
from tigerjax.tokenizer.added import AGAIN, FAST_FILE
from tigerjax.tokenizer.hf_files import described, has_part
from tigerjax.tokenizer.template import ChatTemplate, PlacedToken

SPACE_MARK = "\u2581"


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: itself where it can be seen, else one of
    those from U+0100 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + n): byte for n, byte in enumerate(unseen)}


ALPHABET = _byte_alphabet()


class JsonFile:
    """Text to ids and back by `tokenizers`; see `tigerjax.tokenizer.load.TokenizerKind`."""

    def __init__(self, folder: Path):
        """Reads a folder with tokenizer.json."""
        self.described = given = described(folder)
        self.pieces, self.size, self.added = len(given.vocab), given.size, given.added
        self.bos, self.eos, self.pad, self.opening = given.bos, given.eos, given.pad, given.opening
        self.ends = frozenset(given.stops)
        self.markers: dict[str, int] = {}
        self.marker_texts: dict[str, str] = {}
        self.breaks = given.special | {i for i in (given.bos, given.eos, given.pad) if i is not None}
        self.sha256 = given.sha256()
        self.encoding_sha256 = given.encoding_sha256(self.sha256)
        self._byte_level = any(has_part(given.content, part, "ByteLevel") for part in ("pre_tokenizer", "decoder"))
        self._by_id = {i: text for text, i in given.vocab.items()} | given.added
        self._plain = self._made(given.content)
        self._plain.encode_special_tokens = True  # the text of a special token is text
        self._refuse_reachable()
        self.template: ChatTemplate | None = None
        if given.template is not None:
            self.template = ChatTemplate(given, self._marked, self._parts)

    def _made(self, content: dict[str, Any]) -> tokenizers.Tokenizer:
        path = self.described.folder / FAST_FILE
        without = {"truncation": None, "padding": None, "post_processor": None}
        try:
            return tokenizers.Tokenizer.from_str(json.dumps(content | without, ensure_ascii=False))
        except BaseException as error:  # a panic of Rust is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            what = " ".join(str(error).split())
            raise DataError(f"{path} is damaged: tokenizers refuses it: {what}; {AGAIN}") from error

    def _refuse_reachable(self) -> None:
        """DataError where merges lead to a special token, so that text would give it."""
        given = self.described
        unknown = given.vocab.get(given.content["model"].get("unk_token") or "")
        for i in sorted(given.special - {unknown}):
            if i in self.encode(given.added[i]):
                raise DataError(
                    f"{given.folder / FAST_FILE}: the special token {given.added[i]!r} comes out of ordinary text, by"
                    " its merges or because it ignores them; take the token out of model.vocab"
                )

    @cached_property
    def _marking(self) -> tokenizers.Tokenizer:
        """The same, in which the text of a special token gives its id."""
        return self._made(self.described.content)

    @cached_property
    def _inside(self) -> tokenizers.Tokenizer:
        """The same as `_plain`, without what is put before the first text of a dialogue or a document."""
        inside = self._made(_without_prefix(self.described.content))
        inside.encode_special_tokens = True
        return inside

    def encode(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_bare(self, text: str) -> list[int]:
        return self._inside.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [one.ids for one in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def _marked(self, text: str) -> list[PlacedToken]:
        """The tokens of a text in which the texts of special tokens stand for them."""
        return _places(self._marking, text)

    def _parts(self, text: str, first: bool) -> list[PlacedToken]:
        """The tokens of a text without special tokens, at the beginning of a dialogue or inside it."""
        return _places(self._plain if first else self._inside, text)

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        encoded = self._plain.encode(text, add_special_tokens=False)
        ends = [begin for begin, _ in encoded.offsets[1:]] + [len(text)]
        out, at = [], 0
        for i, (_, end), following in zip(encoded.ids, encoded.offsets, ends, strict=True):
            end = max(at, min(end, following))  # several tokens of one character all have its place
            out.append((i, at, end))
            at = end
        return out

    def decode(self, ids: list[int]) -> str:
        return self._plain.decode(ids, skip_special_tokens=False)

    def piece(self, i: int) -> str:
        return self._by_id.get(i, "")

    def bytes_of(self, i: int) -> bytes:
        piece = self.piece(i)
        if i in self.added:
            return piece.encode()
        if self._byte_level:
            if unknown := [c for c in piece if c not in ALPHABET]:
                raise DataError(
                    f"{self.described.folder / FAST_FILE}: piece {piece!r} has {unknown[0]!r}, which stands for no"
                    f" byte; {AGAIN}"
                )
            return bytes(ALPHABET[c] for c in piece)
        if _is_byte_piece(piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def is_byte(self, i: int) -> bool:
        if not self._byte_level:
            return i not in self.added and _is_byte_piece(self.piece(i))
        try:
            self.bytes_of(i).decode()
        except UnicodeDecodeError:
            return True
        return False


def _places(by: tokenizers.Tokenizer, text: str) -> list[PlacedToken]:
    encoded = by.encode(text, add_special_tokens=False)
    return [(i, *place) for i, place in zip(encoded.ids, encoded.offsets, strict=True)]


def _is_byte_piece(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _without_prefix(part: Any) -> Any:
    """A pipeline that puts no space before a text: of the kinds Metaspace, ByteLevel and Prepend."""
    if isinstance(part, list):
        return [_without_prefix(one) for one in part if not (isinstance(one, dict) and one.get("type") == "Prepend")]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    changed = {"prepend_scheme": "never", "add_prefix_space": False}
    kept = {name: value for name, value in part.items() if name not in ("model", "added_tokens")}
    out = {name: changed.get(name, _without_prefix(value)) for name, value in kept.items()}
    return {name: out.get(name, part[name]) for name in part}
