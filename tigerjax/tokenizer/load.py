"""One face for every tokenizer: a folder's text to ids and back.

    FOLDER/tokenizer.model    a SentencePiece BPE (`tigerjax.tokenizer.model_file`)
    FOLDER/tokenizer.json     without a tokenizer.model: a BPE of Hugging Face (`tigerjax.tokenizer.json_file`)

Where both are there, tokenizer.model is read. Its tokenizer.json is used for one thing only: dialogues, where the
folder has a chat template and none of our markers (Llama-2-chat, Mistral-Instruct).

The text of a special token inside a user's message gives ordinary tokens, in both kinds.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.tokenizer.added import FAST_FILE, MODEL_FILE, is_json
from tigerjax.tokenizer.hf_files import has_template

if TYPE_CHECKING:
    from tigerjax.tokenizer.template import ChatTemplate


class TokenizerKind(Protocol):
    """What a kind of tokenizer gives to `Tokenizer`, which says there what each part means."""

    pieces: int
    size: int
    bos: int | None
    eos: int
    pad: int | None
    opening: list[int]
    ends: frozenset[int]
    added: dict[int, str]
    breaks: frozenset[int]
    """Ids that give no text, and between which text is decoded by itself."""
    markers: dict[str, int]
    marker_texts: dict[str, str]
    sha256: str
    encoding_sha256: str

    def encode(self, text: str) -> list[int]: ...
    def encode_bare(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...
    def spans(self, text: str) -> list[tuple[int, int, int]]: ...
    def decode(self, ids: list[int]) -> str: ...
    def piece(self, i: int) -> str: ...
    def bytes_of(self, i: int) -> bytes: ...
    def is_byte(self, i: int) -> bool: ...


class Tokenizer:
    """Text to ids and back.

    `size` is the number of entries: one more than the largest id. `pieces` of them are of the vocabulary that encodes
    text, and `added` has the texts of the added tokens by id. In a SentencePiece folder the added tokens come last.

    `ins`, `res` and `pad` are the specials of TigerBot's chat encoding; all are None for a base tokenizer. A tokenizer
    of Hugging Face has a `template` instead, where its folder has one, and its own pad. `eos` ends a document, and
    `opening` begins it: bos where the tokenizer puts it before every text, else nothing. `end` ends an answer, and so
    do all of `ends`.

    `sha256` is of all that turns text into ids; checkpoints record it. `encoding_sha256` is of that and of all else
    that decides on rows: eos, pad, opening and chat template; caches record it.
    """

    def __init__(self, folder: str | Path):
        """Reads a tokenizer folder, of ours or of Hugging Face, or a .model file, which is a base tokenizer.

        Raises ConfigError where there is none, DataError for one that is damaged.
        """
        self.folder = paths.of(folder)
        self.template: ChatTemplate | None = None
        self.no_template = ""
        """Why the folder's chat template is not used."""
        self._kind: TokenizerKind
        self.is_json = is_json(self.folder)
        if self.is_json:
            from tigerjax.tokenizer.json_file import JsonFile

            self._kind = fast = JsonFile(self.folder)
            self.template = fast.template
        else:
            from tigerjax.tokenizer.model_file import ModelFile

            self._kind = ModelFile(self.folder)
            if "ins" not in self._kind.markers and has_template(self.folder):
                self._read_template()
        kind = self._kind
        self.pieces, self.size, self.added = kind.pieces, kind.size, kind.added
        self.end: int = self.template.end if self.template is not None else kind.eos
        self.ends = kind.ends | {self.end}
        self.bos, self.eos, self.pad, self.opening = kind.bos, kind.eos, kind.pad, kind.opening
        self.ins: int | None = kind.markers.get("ins")
        self.res: int | None = kind.markers.get("res")
        self.special_texts = kind.marker_texts
        self.sha256, self.encoding_sha256 = kind.sha256, kind.encoding_sha256

    def _read_template(self) -> None:
        """The template beside a tokenizer.model without our markers; its ids come from the folder's tokenizer.json.
        Where these files are not read, text is encoded all the same, and only dialogues are refused."""
        from tigerjax.tokenizer.json_file import JsonFile

        kind = self._kind
        try:
            fast = JsonFile(self.folder)
        except DataError as error:
            self.no_template = f"its chat template is of no use: {error}"
            return
        if fast.size != kind.size:
            self.no_template = f"{FAST_FILE} has {fast.size} entries and {MODEL_FILE} {kind.size}"
            return
        self.template = fast.template
        kind.ends |= fast.ends
        kind.encoding_sha256 = fast.described.encoding_sha256(kind.sha256)

    def encode(self, text: str) -> list[int]:
        """The ids of the text, without bos and eos, and never a special. DataError for half a surrogate pair."""
        return self._kind.encode(_valid(text))

    def encode_bare(self, text: str) -> list[int]:
        """The ids without the "▁" that `encode` may put before a text: those of a piece inside a text."""
        return self._kind.encode_bare(_valid(text))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, in order."""
        return self._kind.encode_batch([_valid(text) for text in texts])

    def encode_spans(self, text: str) -> list[tuple[int, int, int]]:
        """(id, begin, end) of each token, in characters. Of a character's byte tokens, only the last has a length."""
        return self._kind.spans(_valid(text))

    def decode(self, ids: list[int]) -> str:
        """The text of the ids. bos, eos and specials give no text, and what is between them is decoded by itself.

        Raises DataError for an id that the tokenizer does not have.
        """
        texts: list[str] = []
        segment: list[int] = []
        for i in map(int, ids):
            if i in self._kind.breaks:
                texts.append(self._kind.decode(segment))
                segment = []
            elif 0 <= i < self.size:
                segment.append(i)
            else:
                raise DataError(
                    f"id {i} is outside the {self.size} entries of tokenizer {self.folder};"
                    " give the tokenizer that made it"
                )
        return "".join([*texts, self._kind.decode(segment)])

    def piece(self, i: int) -> str:
        """The piece as the file has it ("▁the", "Ġthe"), or the text of an added token; empty for an unused id."""
        return self._kind.piece(i)

    def bytes_of(self, i: int) -> bytes:
        """The bytes that the token stands for inside a text; half of a character where it is a part of one."""
        return self._kind.bytes_of(i)

    def is_byte(self, i: int) -> bool:
        """Whether the token stands for bytes of a character that has no piece of its own."""
        return self._kind.is_byte(i)


def _valid(text: str) -> str:
    """The text. The libraries' own errors for half a surrogate pair name types of C++ and Rust only."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"text is not valid Unicode at character {error.start}: {text[:40]!r}; clean it") from error
    return text
