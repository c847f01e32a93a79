"""What `tigerjax new` reads of a user's files before it writes anything: first records, and how much they hold."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax.config import ModelConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, paths
from tigerjax.terminal import tell

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


def vocabulary(chinese: Sequence[Path], asked: int | None, base: int, folder: Path) -> tuple[int, int]:
    """(entries of the extended tokenizer, pieces to train for them): `asked`, or TigerBot's number, or fewer where the
    Chinese text has no more pieces.

    ConfigError where `asked` is not above the `base` entries that `folder` has, and where the text has not
    enough pieces for it.
    """
    from tigerjax.tokenizer.train import trainable

    size = asked or max(WANTED, base + 1)
    if size <= base:
        raise ConfigError(f"--vocab-size {size} is not above the {base} entries of {folder}")
    pieces = SHARED + math.ceil((size - base) * SPARE)
    if sum(paths.size(path) for path in chinese) >= SMALL_BYTES:
        return size, pieces
    least, most = trainable(list(chinese), math.ceil(pieces / LASTING))
    lasting = int(most * LASTING)
    pieces = max(pieces, least)
    if pieces <= lasting:
        return size, pieces
    fits = base + int((lasting - SHARED) / SPARE)
    if fits <= base or lasting < least:
        raise ConfigError(
            f"the Chinese text has only some {lasting:,} pieces, too few to extend the {base:,} entries of {folder};"
            " give --zh more text"
        )
    if asked is not None:
        raise ConfigError(
            f"--vocab-size {asked} needs some {pieces:,} Chinese pieces, and the text of --zh has some {lasting:,};"
            f" give more text, or --vocab-size {fits}"
        )
    return fits, lasting


def say_long(asked: int | None, model: ModelConfig, trained: int, folder: Path) -> None:
    """Says it where --seq-len is past the `trained` positions of the base in `folder`; 0 is not known."""
    if asked is None or not 0 < trained < asked:
        return
    first = model.rope.original_max_position_embeddings or trained
    tell(
        f"note: --seq-len {asked:,} is past the {trained:,} positions that {folder} was trained on; scale its rotary"
        f' angles: in pretrain.py, write rope=RopeConfig(kind="yarn", factor={math.ceil(asked / first)},'
        f" original_max_position_embeddings={first}) into ModelConfig, and import RopeConfig from tigerjax.config"
        f" (docs/LONG_CONTEXT.md); or give --seq-len {trained}"
    )
