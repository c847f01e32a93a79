"""Reads a tokenizer folder: a SentencePiece model for text, and three specials that exist only as ids.

    FOLDER/tokenizer.model    the SentencePiece BPE; the specials are not in it
    FOLDER/specials.json      {"ins": {"text": …, "id": …}, "res": …, "pad": …}; {} for a base tokenizer
    FOLDER/tokenizer.json     the same for Hugging Face, written by `tigerjax.tokenizer.export`

A folder of Hugging Face has no specials.json. There the specials are those of its added tokens that have their texts.

Only SentencePiece encodes text, so the text of a marker inside a user's message gives ordinary tokens.
"""

import hashlib
import math
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
MAX_NAMED = 3
"""The most bad pieces that an error names; it counts them all."""


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
    try:
        proto.ParseFromString(content)
        spec = proto.trainer_spec
        assert all(isinstance(text, str) for text in (spec.unk_piece, spec.bos_piece, spec.eos_piece))  # valid UTF-8
        broken = [i for i, piece in enumerate(proto.pieces) if not piece.piece or not math.isfinite(piece.score)]
    except Exception as error:  # protobuf's DecodeError, under a different name in each implementation
        raise DataError(f"{file} is not a SentencePiece model: {error}; {COPY_AGAIN}") from error
    if not proto.pieces:
        raise DataError(f"{file} is not a SentencePiece model: it has no pieces; {COPY_AGAIN}")
    if broken:
        raise DataError(f"{file} is damaged: piece {broken[0]} has no text, or no finite score; {COPY_AGAIN}")
    return proto


def processor(proto: Any, file: Path) -> sentencepiece.SentencePieceProcessor:
    """SentencePiece for a parsed model. DataError when it refuses it: a damaged file may parse and still be none."""
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


class Tokenizer:
    """Text to ids and back.

    `size` is the number of pieces and added tokens; the ids of the added tokens come last. `added` has their texts by
    id. `ins`, `res` and `pad` are those of them that are the specials; all are None for a base tokenizer. `sha256` is
    that of tokenizer.model and the added tokens; caches and checkpoints record it.
    """

    bos: int = 1
    eos: int = 2

    def __init__(self, folder: str | Path):
        """Reads a tokenizer folder, of ours or of Hugging Face, or a .model file, which is a base tokenizer."""
        self.folder = paths.of(folder)
        proto = read_proto(self.folder)
        file = self.folder / MODEL_FILE if self.folder.is_dir() else self.folder
        specials_file = self.folder / SPECIALS_FILE
        self.pieces: int = len(proto.pieces)
        specials: dict[str, Any] = {}
        others: dict[int, str] = {}
        if specials_file.is_file():
            specials = _read_specials(specials_file)
        elif self.folder.is_dir():
            specials, others = _as_specials(added.added_tokens(self.folder, self.pieces))
        self.size: int = self.pieces + len(specials) + len(others)
        ids: dict[str, int] = {name: entry["id"] for name, entry in specials.items()}
        if sorted([*ids.values(), *others]) != list(range(self.pieces, self.size)):
            raise DataError(f"{specials_file}: ids {ids} must be the {len(ids)} after the {self.pieces} pieces")
        self.ins: int | None = ids.get("ins")
        self.res: int | None = ids.get("res")
        self.pad: int | None = ids.get("pad")
        self.special_texts: dict[str, str] = {name: entry["text"] for name, entry in specials.items()}
        self.added: dict[int, str] = others | {entry["id"]: entry["text"] for entry in specials.values()}
        if [proto.trainer_spec.bos_id, proto.trainer_spec.eos_id] != [self.bos, self.eos]:
            raise ConfigError(
                f"{self.folder}: bos={proto.trainer_spec.bos_id} eos={proto.trainer_spec.eos_id}, needs bos=1 eos=2"
            )
        tokens = specials | ({"added": {str(i): text for i, text in sorted(others.items())}} if others else {})
        self.sha256: str = hashlib.sha256(proto.SerializeToString() + canonical(tokens)).hexdigest()
        self._processor = processor(proto, file)
        proto.normalizer_spec.add_dummy_prefix = False
        self._bare = processor(proto, file)
        if self._processor.get_piece_size() != self.pieces:
            raise DataError(f"{file} is damaged: SentencePiece reads other pieces in it than there are; {COPY_AGAIN}")
        self._breaks = frozenset({self.bos, self.eos, *self.added})

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
        """The text of the ids. bos, eos and specials give no text, and what is between them is decoded by itself.

        Raises DataError for an id that the tokenizer does not have.
        """
        texts: list[str] = []
        segment: list[int] = []
        for i in map(int, ids):
            if i in self._breaks:
                texts.append(self._processor.decode(segment))
                segment = []
            elif 0 <= i < self.pieces:
                segment.append(i)
            else:
                raise DataError(
                    f"id {i} is outside the {self.size} entries of tokenizer {self.folder};"
                    " give the tokenizer that made it"
                )
        return "".join([*texts, self._processor.decode(segment)])

    def piece(self, i: int) -> str:
        """The piece as the model file has it ("▁the"), or the text of an added token."""
        if i >= self.pieces:
            return self.added[i]
        return str(self._processor.id_to_piece(i))

    @staticmethod
    def _encode(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
        try:
            text.encode()  # SentencePiece's own error for half a surrogate pair names C++ types only
        except UnicodeEncodeError as error:
            raise DataError(f"text is not valid Unicode at character {error.start}: {text[:40]!r}; clean it") from error
        return processor.encode(text)
