"""Reads a tokenizer folder: a SentencePiece model for text, and three specials that exist only as ids.

    FOLDER/tokenizer.model    the SentencePiece BPE; the specials are not in it
    FOLDER/specials.json      {"ins": {"text": …, "id": …}, "res": …, "pad": …}; {} for a base tokenizer
    FOLDER/tokenizer.json     the same for Hugging Face, written by `tigerjax.tokenizer.export`

Only SentencePiece encodes text, so the text of a marker inside a user's message gives ordinary tokens.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.files.manifest import canonical, refuse_changed

MODEL_FILE, SPECIALS_FILE = "tokenizer.model", "specials.json"
SPECIAL_TEXTS = {"ins": "\n\n### Instruction:\n", "res": "\n\n### Response:\n", "pad": "<pad>"}
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""The types of pieces in a SentencePiece model file."""
MAX_NAMED = 3
"""The most bad pieces that an error names; it counts them all."""


def new_proto() -> Any:
    """An empty SentencePiece model. `vars`, as its class is generated at import and no type checker knows it."""
    return vars(spm)["ModelProto"]()


def read_proto(path: str | Path) -> Any:
    """The parsed SentencePiece model of a tokenizer folder or of a .model file."""
    path = paths.of(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; give a tokenizer folder or a SentencePiece .model file")
    refuse_changed([file], alone=True)
    proto, content = new_proto(), file.read_bytes()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError, under a different name in each implementation
        raise DataError(f"{file} is not a SentencePiece model: {error}") from error
    if not proto.pieces:
        raise DataError(f"{file} is not a SentencePiece model: it has no pieces")
    return proto


def _read_specials(path: Path) -> dict[str, Any]:
    try:
        specials = json.loads(path.read_text(encoding="utf-8"))
        if specials and set(specials) != set(SPECIAL_TEXTS):
            raise DataError(f"{path} has {sorted(specials)}, needs exactly {sorted(SPECIAL_TEXTS)}")
        return {name: {"text": str(entry["text"]), "id": int(entry["id"])} for name, entry in specials.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not a file of specials ({type(error).__name__}: {error}); write it again"
        ) from error


class Tokenizer:
    """Text to ids and back.

    `size` is the number of pieces and specials; the ids of specials come last. `ins`, `res` and `pad` are None for a
    base tokenizer. `sha256` is that of tokenizer.model and the specials; caches and checkpoints record it.
    """

    bos: int = 1
    eos: int = 2

    def __init__(self, folder: str | Path):
        """Reads a tokenizer folder, or a .model file, which is a base tokenizer."""
        self.folder = paths.of(folder)
        proto = read_proto(self.folder)
        specials_file = self.folder / SPECIALS_FILE
        specials = _read_specials(specials_file) if specials_file.is_file() else {}
        self.pieces: int = len(proto.pieces)
        self.size: int = self.pieces + len(specials)
        ids: dict[str, int] = {name: entry["id"] for name, entry in specials.items()}
        if sorted(ids.values()) != list(range(self.pieces, self.size)):
            raise DataError(f"{specials_file}: ids {ids} must be the {len(ids)} after the {self.pieces} pieces")
        self.ins: int | None = ids.get("ins")
        self.res: int | None = ids.get("res")
        self.pad: int | None = ids.get("pad")
        self.special_texts: dict[str, str] = {name: entry["text"] for name, entry in specials.items()}
        if [proto.trainer_spec.bos_id, proto.trainer_spec.eos_id] != [self.bos, self.eos]:
            raise ConfigError(
                f"{self.folder}: bos={proto.trainer_spec.bos_id} eos={proto.trainer_spec.eos_id}, needs bos=1 eos=2"
            )
        serialized = proto.SerializeToString()
        self.sha256: str = hashlib.sha256(serialized + canonical(specials)).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        proto.normalizer_spec.add_dummy_prefix = False
        self._bare = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self._breaks = frozenset({self.bos, self.eos, *ids.values()})

    def encode(self, text: str) -> list[int]:
        """The ids of the text, without bos and eos, and never a special. DataError for half a surrogate pair."""
        return self._encode(self._processor, text)

    def encode_bare(self, text: str) -> list[int]:
        """The ids without the "▁" that `encode` puts before every text: those of a piece inside a text."""
        return self._encode(self._bare, text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, in order."""
        return [self.encode(text) for text in texts]

    def encode_spans(self, text: str) -> list[tuple[int, int, int]]:
        """(id, begin, end) of each token, in characters. Of a character's byte tokens, only the last has a length."""
        tokens = self._processor.encode(text, out_type="offset_mapping")
        return [(i, begin, end) for i, (begin, end) in zip(tokens["ids"], tokens["offsets"], strict=True)]

    def decode(self, ids: list[int]) -> str:
        """The text of the ids. bos, eos and specials give no text, and what is between them is decoded by itself."""
        texts: list[str] = []
        segment: list[int] = []
        for i in map(int, ids):
            if i in self._breaks:
                texts.append(self._processor.decode(segment))
                segment = []
            elif 0 <= i < self.pieces:
                segment.append(i)
            else:
                raise DataError(f"id {i} is outside the {self.size} entries of tokenizer {self.folder}")
        return "".join([*texts, self._processor.decode(segment)])

    def piece(self, i: int) -> str:
        """The piece as the model file has it ("▁the"), or the text of a special."""
        if i >= self.pieces:
            return self.special_texts[{self.ins: "ins", self.res: "res", self.pad: "pad"}[i]]
        return str(self._processor.id_to_piece(i))

    @staticmethod
    def _encode(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
        try:
            text.encode()  # SentencePiece's own error for half a surrogate pair names C++ types only
        except UnicodeEncodeError as error:
            raise DataError(f"text is not valid Unicode at character {error.start}: {text[:40]!r}; clean it") from error
        return processor.encode(text)
