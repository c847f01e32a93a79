"""How many rows of a Hugging Face folder's embedding are its vocabulary, and which tokenizer they belong to.

An embedding often has more rows than its tokenizer has entries: a released TigerBot has 60,928 for 60,515.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tigerjax.convert.read import Opened, sized
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.processes import hosts
from tigerjax.tokenizer.added import FAST_FILE, MODEL_FILE

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer


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
    if tokenizer is None or tokenizer.size >= rows:
        return opened, tokenizer
    entries = tokenizer.size
    hosts.say(
        f"{folder}: {rows} rows for the {entries} entries of its tokenizer; the other {rows - entries} are padding"
    )
    return sized(opened, entries), tokenizer


def _tokenizer(folder: Path, limit: int) -> "Tokenizer | None":
    """The folder's tokenizer with its added tokens; without them where they are more than `limit` has room for."""
    if not any((folder / name).is_file() for name in (MODEL_FILE, FAST_FILE)):
        return None
    from tigerjax.tokenizer.load import Tokenizer  # the numeric core imports without SentencePiece

    tokenizer = Tokenizer(folder)
    if tokenizer.size <= limit:
        return tokenizer
    if tokenizer.is_json:
        hosts.say(
            f"{folder}: {FAST_FILE} has {tokenizer.size} entries, but there are {limit} rows: those from {limit} on"
            " have none; see that it is this model's tokenizer"
        )
        return None
    if tokenizer.pieces > limit:
        raise ConfigError(
            f"{folder}: vocab_size={limit}, but {MODEL_FILE} has {tokenizer.pieces} pieces: it is another model's"
            " tokenizer; put the model's own there"
        )
    left = [f"{i} {text!r}" for i, text in tokenizer.added.items() if i >= limit]
    hosts.say(f"{folder}: {len(left)} added tokens have no row and are left out: {', '.join(left[:3])}")
    return Tokenizer(folder / MODEL_FILE)
