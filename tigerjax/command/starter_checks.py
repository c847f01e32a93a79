"""What `tigerjax new` reads of a user's files before it writes anything: first records, and how much they hold."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tigerjax.config import ModelConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, paths
from tigerjax.terminal import tell

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer

FIRST = 100  # records of each file: enough to see its form, and quick for a file of any size
SPARE, SHARED = 4 / 3, 1000
"""Pieces to train for each one that is needed, since those that are not Chinese are left out; and those that the base
has already: bytes, and the most common characters."""
WANTED = 60_515  # entries of the extended tokenizer: TigerBot's number
SMALL_BYTES = 4_000_000
"""Chinese text of fewer bytes is tried: what is larger has pieces for TigerBot's vocabulary."""
LASTING = 0.9  # share of the pieces that we expect to be left when the text is clean


def first_records(files: Mapping[str, Sequence[Path]]) -> None:
    """Reads the first records of files by what they are: documents as "zh" and "en", "sft", "preferences".

    Raises DataError with file:number for a record of another form, for a file without any, and for one that cannot be
    read.
    """
    from tigerjax import records

    forms: dict[str, Callable[[Any, str], Any]] = {
        "zh": records.as_document,
        "en": records.as_document,
        "sft": records.as_sft,
        "preferences": records.as_preference,
    }
    for part, of_part in files.items():
        for path in of_part:
            number = 0
            for number, record in itertools.islice(records.read(path), FIRST):
                try:
                    forms[part](record, f"{path}:{number}")
                except records.Unusable:
                    pass  # two equal answers, for example: `tigerjax reward train` counts them
                except DataError as error:
                    raise DataError(f"{error} (given to --{part})") from error
            jsonl.refuse_empty(path, number)


class VocabularyGrowth(NamedTuple):
    """How a vocabulary grows."""

    size: int
    """Entries of the extended tokenizer."""
    train: int
    """Entries that `tigerjax tokenizer train` makes for it."""


def vocabulary(chinese: Sequence[Path], asked: int | None, base: "Tokenizer") -> VocabularyGrowth | None:
    """How the vocabulary of `base` grows from the Chinese text; None where it stays.

    It grows to `asked` entries. Without that a tokenizer.model of fewer than TigerBot's grows to these, or to fewer
    where the text has not enough pieces, and a tokenizer.json stays.

    ConfigError where `asked` is below the entries of `base`, where there is no Chinese text, and where it has not
    enough pieces for `asked`.
    """
    grows = bool(chinese) and not base.is_json and base.size < WANTED
    size = asked or (WANTED if grows else base.size)
    if size < base.size:
        raise ConfigError(f"--vocab-size {size} is below the {base.size} entries of {base.folder}; give more, or none")
    if size == base.size:
        return None
    if not chinese:
        raise ConfigError(f"--vocab-size {size} extends {base.folder} by Chinese pieces; give Chinese text to --zh")
    small = sum(paths.size(path) for path in chinese) < SMALL_BYTES
    if base.is_json:
        return _merges(chinese, size, base) if small else VocabularyGrowth(size, size)
    pieces = SHARED + math.ceil((size - base.size) * SPARE)
    return _pieces(chinese, size, base, pieces, asked=asked is not None) if small else VocabularyGrowth(size, pieces)


def _pieces(chinese: Sequence[Path], size: int, base: "Tokenizer", pieces: int, *, asked: bool) -> VocabularyGrowth:
    """How a tokenizer.model grows from a small text, of which it would train `pieces`."""
    from tigerjax.tokenizer.train import trainable

    least, most = trainable(list(chinese), math.ceil(pieces / LASTING))
    lasting = int(most * LASTING)
    pieces = max(pieces, least)
    if pieces <= lasting:
        return VocabularyGrowth(size, pieces)
    fits = base.size + int((lasting - SHARED) / SPARE)
    if fits <= base.size or lasting < least:
        raise _too_few(lasting, base)
    if asked:
        raise ConfigError(
            f"--vocab-size {size} needs some {pieces:,} Chinese pieces, and the text of --zh has some {lasting:,};"
            f" give more text, or --vocab-size {fits}"
        )
    tell(
        f"note: vocabulary of {fits:,} entries, and not TigerBot's {WANTED:,}: the Chinese text has some"
        f" {lasting:,} pieces"
    )
    return VocabularyGrowth(fits, lasting)


def _merges(chinese: Sequence[Path], size: int, base: "Tokenizer") -> VocabularyGrowth:
    """How a tokenizer.json grows from a small text; it trains no more merges than are needed."""
    from tigerjax.tokenizer.bpe_extend import trainable

    needed = size - base.size
    there = trainable(base.folder, list(chinese), base.size + math.ceil(needed / LASTING)) - base.size
    lasting = int(there * LASTING)
    if needed <= lasting:
        return VocabularyGrowth(size, size)
    if lasting < 1:
        raise _too_few(lasting, base)
    raise ConfigError(
        f"--vocab-size {size} needs {needed:,} Chinese pieces, and the text of --zh has some {lasting:,}; give more"
        f" text, or --vocab-size {base.size + lasting}"
    )


def _too_few(pieces: int, base: "Tokenizer") -> ConfigError:
    return ConfigError(
        f"the Chinese text has only some {pieces:,} pieces, too few to extend the {base.size:,} entries of"
        f" {base.folder}; give --zh more text"
    )


def refuse_without_chat(tokenizer: "Tokenizer", grown: VocabularyGrowth | None) -> None:
    """ConfigError where the project's tokenizer could not encode a dialogue. A tokenizer.model gets markers when it
    grows."""
    if tokenizer.template is None and tokenizer.ins is None and (grown is None or tokenizer.is_json):
        more = "put the chat_template.jinja of an instruction model there"
        if not tokenizer.is_json:
            more = "give Chinese text to --zh, and the extended vocabulary has markers"
        why = f" ({tokenizer.no_template})" if tokenizer.no_template else ""
        raise ConfigError(f"{tokenizer.folder} has no chat template, which fine-tuning needs{why}; {more}")


def say_long(asked: int | None, model: ModelConfig, trained: int, folder: Path, run: str) -> None:
    """Says it where --seq-len is past the `trained` positions of the base in `folder`; 0 is not known. The file `run`
    has the sizes."""
    if asked is None or not 0 < trained < asked:
        return
    first = model.rope.original_max_position_embeddings or trained
    tell(
        f"note: --seq-len {asked:,} is past the {trained:,} positions that {folder} was trained on; scale its rotary"
        f' angles: in {run}, write rope=RopeConfig(kind="yarn", factor={math.ceil(asked / first)},'
        f" original_max_position_embeddings={first}) into {type(model).__name__}, and import RopeConfig from"
        f" tigerjax.config (docs/LONG_CONTEXT.md); or give --seq-len {trained}"
    )
