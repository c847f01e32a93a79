"""tokenizer.model: the SentencePiece model of a folder, and the specials that exist only as ids.

    FOLDER/tokenizer.model    the SentencePiece BPE; the specials are not in it
    FOLDER/specials.json      {"ins": {"text": …, "id": …}, "res": …, "pad": …}; {} for a base tokenizer

A folder of Hugging Face has no specials.json. There the specials are those of its added tokens that have their texts.
"""

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.files.foreign import read_object
from tigerjax.files.manifest import canonical, refuse_changed
from tigerjax.tokenizer import added

MODEL_FILE, SPECIALS_FILE = added.MODEL_FILE, added.SPECIALS_FILE
SPECIAL_TEXTS = {"ins": "\n\n### Instruction:\n", "res": "\n\n### Response:\n", "pad": "<pad>"}
PAD_TEXTS = (SPECIAL_TEXTS["pad"], "[PAD]")  # the second is what many fine-tunes of Llama add
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""The types of pieces in a SentencePiece model file."""
COPY_AGAIN = "copy the file again"
SPACE_MARK = "\u2581"
BOS, EOS = 1, 2
TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\n")
"""The first line of the tokenizer.model that Meta publishes with Llama 3, which is no SentencePiece model."""


def new_proto() -> Any:
    """An empty SentencePiece model. `vars`, as its class is generated at import and no type checker knows it."""
    return vars(spm)["ModelProto"]()


def read_proto(path: str | Path) -> Any:
    """The parsed SentencePiece model of a tokenizer folder or of a .model file.

    Raises ConfigError where there is no such file, DataError for one that is damaged or no SentencePiece model.
    """
    path = paths.of(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; give a tokenizer folder or a SentencePiece .model file")
    refuse_changed([file], alone=True)
    proto, content = new_proto(), file.read_bytes()
    if TIKTOKEN.match(content):
        raise DataError(
            f"{file} is a list of ranks as Meta publishes it with Llama 3, not a SentencePiece model; give the"
            " tokenizer.json of the model's Hugging Face folder in a folder without this file"
        )
    try:
        proto.ParseFromString(content)
        spec = proto.trainer_spec
        assert all(isinstance(text, str) for text in (spec.unk_piece, spec.bos_piece, spec.eos_piece))  # valid UTF-8
        texts = [piece.piece for piece in proto.pieces]  # one that is not UTF-8 is bytes
        scores = [math.isfinite(piece.score) for piece in proto.pieces]
        broken = [n for n, text in enumerate(texts) if not text or not isinstance(text, str) or not scores[n]]
    except Exception as error:  # protobuf's DecodeError, under a different name in each implementation
        raise DataError(f"{file} is not a SentencePiece model: {error}; {COPY_AGAIN}") from error
    if not proto.pieces:
        raise DataError(f"{file} is not a SentencePiece model: it has no pieces; {COPY_AGAIN}")
    if broken:
        raise DataError(f"{file} is damaged: piece {broken[0]} has no text in UTF-8, or no finite score; {COPY_AGAIN}")
    return proto


def processor(proto: Any, file: Path) -> sentencepiece.SentencePieceProcessor:
    """SentencePiece with a parsed model. DataError where it refuses the model: a damaged file may parse all the
    same."""
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    except Exception as error:  # a RuntimeError of C++, or a text that is no UTF-8
        what = " ".join(str(error).split())
        raise DataError(f"{file} is damaged: SentencePiece refuses it: {what}; {COPY_AGAIN}") from error


def _read_specials(path: Path) -> dict[str, Any]:
    specials = read_object(path, "write it again")
    try:
        if specials and set(specials) != set(SPECIAL_TEXTS):
            raise DataError(f"{path} has {sorted(specials)}, needs exactly {sorted(SPECIAL_TEXTS)}")
        return {name: {"text": str(entry["text"]), "id": int(entry["id"])} for name, entry in specials.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not a file of special tokens ({type(error).__name__}: {error}); write it again"
        ) from error


def _as_specials(tokens: dict[int, str]) -> tuple[dict[str, Any], dict[int, str]]:
    """(the specials among a folder's added tokens, as specials.json has them; all others)."""
    by_text = {text: i for i, text in tokens.items()}
    texts = SPECIAL_TEXTS | {"pad": next((text for text in PAD_TEXTS if text in by_text), PAD_TEXTS[0])}
    specials = {name: {"text": text, "id": by_text[text]} for name, text in texts.items() if text in by_text}
    taken = {entry["id"] for entry in specials.values()}
    return specials, {i: text for i, text in tokens.items() if i not in taken}


class ModelFile:
    """Text to ids and back by SentencePiece; see `tigerjax.tokenizer.load.TokenizerKind`."""

    def __init__(self, folder: Path):
        """Reads a tokenizer folder, of ours or of Hugging Face, or a .model file, which is a base tokenizer."""
        proto = read_proto(folder)
        file = folder / MODEL_FILE if folder.is_dir() else folder
        specials_file = folder / SPECIALS_FILE
        self.pieces: int = len(proto.pieces)
        specials: dict[str, Any] = {}
        others: dict[int, str] = {}
        if specials_file.is_file():
            specials = _read_specials(specials_file)
        elif folder.is_dir():
            specials, others = _as_specials(added.added_tokens(folder, self.pieces))
        self.size: int = self.pieces + len(specials) + len(others)
        self.markers: dict[str, int] = {name: entry["id"] for name, entry in specials.items()}
        if sorted([*self.markers.values(), *others]) != list(range(self.pieces, self.size)):
            raise DataError(
                f"{specials_file}: ids {self.markers} must be the {len(self.markers)} after the {self.pieces} pieces"
            )
        self.marker_texts: dict[str, str] = {name: entry["text"] for name, entry in specials.items()}
        self.added: dict[int, str] = others | {entry["id"]: entry["text"] for entry in specials.values()}
        if [proto.trainer_spec.bos_id, proto.trainer_spec.eos_id] != [BOS, EOS]:
            raise ConfigError(
                f"{folder}: bos={proto.trainer_spec.bos_id} eos={proto.trainer_spec.eos_id}, needs bos=1 eos=2"
            )
        self.bos: int | None = BOS
        self.eos, self.pad = EOS, self.markers.get("pad")
        self.opening: list[int] = []
        self.ends = frozenset({EOS})
        self.breaks = frozenset({BOS, EOS, *self.added})
        tokens = specials | ({"added": {str(i): text for i, text in sorted(others.items())}} if others else {})
        self.sha256: str = hashlib.sha256(proto.SerializeToString() + canonical(tokens)).hexdigest()
        self.encoding_sha256 = self.sha256
        self._bytes = [piece.type == BYTE for piece in proto.pieces]
        self._processor = processor(proto, file)
        proto.normalizer_spec.add_dummy_prefix = False
        self._bare = processor(proto, file)
        if self._processor.get_piece_size() != self.pieces:
            raise DataError(f"{file} is damaged: SentencePiece reads other pieces in it than there are; {COPY_AGAIN}")

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_bare(self, text: str) -> list[int]:
        return self._bare.encode(text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self._processor.encode(text) for text in texts]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        tokens = self._processor.encode(text, out_type="offset_mapping")
        return [(i, begin, end) for i, (begin, end) in zip(tokens["ids"], tokens["offsets"], strict=True)]

    def decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def piece(self, i: int) -> str:
        return self.added[i] if i >= self.pieces else str(self._processor.id_to_piece(i))

    def bytes_of(self, i: int) -> bytes:
        piece = self.piece(i)
        return bytes([int(piece[3:5], 16)]) if self.is_byte(i) else piece.replace(SPACE_MARK, " ").encode()

    def is_byte(self, i: int) -> bool:
        return i < self.pieces and self._bytes[i]
