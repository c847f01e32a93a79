"""How many rows of a Hugging Face folder's embedding are its vocabulary, and which tokenizer they belong to.

An embedding often has more rows than its tokenizer has entries: a released TigerBot has 60,928 for 60,515.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tigerjax.convert.read import Opened, sized
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.files.foreign import read_object
from tigerjax.model.hf_config import tokenizer_ids
from tigerjax.processes import hosts
from tigerjax.tokenizer.added import FAST_FILE, MODEL_FILE

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer

FIRST_LINE = 100  # bytes that hold the first line of Llama 3's tokenizer.model


def fitted(opened: Opened, vocab_size: int | None) -> tuple[Opened, "Tokenizer | None"]:
    """(the folder with its true vocabulary, its tokenizer if it has one: tokenizer.model, else tokenizer.json).

    The vocabulary is `vocab_size`, else what our own export says, else the entries of the folder's tokenizer, else all
    rows. Says on stderr what it leaves out: rows that are padding, added tokens that have no row. Raises ConfigError
    where `vocab_size` is not that of the folder's tokenizer.
    """
    folder, rows = paths.of(opened.where), opened.spec[0].shape[0]
    limit = rows if vocab_size is None else vocab_size
    tokenizer = _tokenizer(folder, limit)
    if vocab_size is not None:
        if tokenizer is not None and tokenizer.size != vocab_size:
            raise ConfigError(
                f"--vocab-size {vocab_size}, but the tokenizer of {folder} has {tokenizer.size} entries"
                f" ({tokenizer.pieces} of them pieces); give one of the two numbers, or none"
            )
        return sized(opened, vocab_size), tokenizer
    if opened.sized:
        return opened, tokenizer
    entries = tokenizer.size if tokenizer is not None else _fast_size(folder)
    if entries is None or entries >= rows:
        if entries is not None and entries > rows:  # of tokenizer.json; of the other `_tokenizer` refuses or says it
            hosts.say(
                f"{folder}: {FAST_FILE} has {entries} entries, but the embedding {rows} rows: those from {rows} on"
                " have none; see that it is this model's tokenizer"
            )
        return opened, tokenizer if entries == rows else None
    hosts.say(
        f"{folder}: {rows} rows for the {entries} entries of its tokenizer; the other {rows - entries} are padding"
    )
    return sized(opened, entries), tokenizer


def _tokenizer(folder: Path, limit: int) -> "Tokenizer | None":
    """The folder's tokenizer with its added tokens; without them where they are more than `limit` has room for."""
    from tigerjax.tokenizer.load import Tokenizer  # the numeric core imports without SentencePiece

    if not (folder / MODEL_FILE).is_file():
        return _fast(folder) if (folder / FAST_FILE).is_file() else None
    if _ranks(folder / MODEL_FILE):
        hosts.say(
            f"{folder / MODEL_FILE}: holds ranks of byte pairs and no SentencePiece model, and is not read; put the"
            f" model's {FAST_FILE} in its place to use it"
        )
        return None
    tokenizer = Tokenizer(folder)
    if tokenizer.size <= limit:
        return tokenizer
    if tokenizer.pieces > limit:
        raise ConfigError(
            f"{folder}: vocab_size={limit}, but {MODEL_FILE} has {tokenizer.pieces} pieces: it is another model's"
            " tokenizer; put the model's own there"
        )
    left = [f"{i} {text!r}" for i, text in tokenizer.added.items() if i >= limit]
    hosts.say(f"{folder}: {len(left)} added tokens have no row and are left out: {', '.join(left[:3])}")
    return Tokenizer(folder / MODEL_FILE)


def _fast(folder: Path) -> "Tokenizer | None":
    """The tokenizer of a folder with tokenizer.json alone; None, and a line, where it is of a kind that is not read."""
    from tigerjax.tokenizer.load import Tokenizer

    try:
        return Tokenizer(folder)
    except DataError as error:
        hosts.say(f"note: {error}; the model is imported without its tokenizer")
        return None


def _ranks(path: Path) -> bool:
    """Whether a tokenizer.model is Llama 3's own: lines of a piece in base64 and its rank."""
    if not path.is_file():
        return False
    piece, _, rank = paths.part(path, 0, min(paths.size(path), FIRST_LINE)).partition(b"\n")[0].partition(b" ")
    return rank.strip().isdigit() and piece.isascii()


def _fast_size(folder: Path) -> int | None:
    """Entries of a tokenizer.json of a kind that is not read."""
    path = folder / FAST_FILE
    if not path.is_file():
        return None
    return tokenizer_ids(path, read_object(path, "give the file as it was published")).size
