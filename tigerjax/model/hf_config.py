"""What the config.json of every Hugging Face folder has in common, and its generation_config.json."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.config import ModelConfig
from tigerjax.errors import DataError

BOS, EOS = 1, 2  # of every tokenizer here: all of them extend Llama-2's
OURS = "tigerjax"
"""Our own key in config.json. It holds the sizes of the vocabulary before trimming and a checkpoint's `extra`, so that
an import gives back what was exported."""


class HfConfig(NamedTuple):
    """What config.json says."""

    kind: str  # what our checkpoint's meta.json calls such a model
    config: ModelConfig
    rows: int
    """Rows of embedding and head in the folder's tensors."""
    tied: bool
    """Whether the folder has no head because it is the embedding. Ours is a copy of its own then."""
    extra: dict[str, Any]
    """`extra` of the checkpoint that the folder was exported from: a reward model's calibration."""


class TokenizerIds(NamedTuple):
    """What config.json says about the tokenizer. `pad` is None where there is no pad token: 0 would be a real id."""

    size: int | None
    pad: int | None
    stops: list[int]


def tokenizer_ids(folder: Path | None) -> TokenizerIds:
    """Size, pad and stop ids, from the tokenizer.json of `folder`. A base tokenizer stops at eos only."""
    if folder is None:
        return TokenizerIds(None, None, [EOS])
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{path}: not there; give the folder that `tigerjax tokenizer extend` wrote")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        added = {token["content"]: token["id"] for token in read["added_tokens"]}
        size = 1 + max([*read["model"]["vocab"].values(), *added.values()])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a tokenizer.json ({type(error).__name__}: {error}); write it again") from error
    markers = [i for text, i in added.items() if text not in ("<unk>", "<s>", "</s>")]
    return TokenizerIds(size, added.get("<pad>"), sorted({EOS, *markers}))


def generation_config(ids: TokenizerIds) -> dict[str, Any]:
    """The content of generation_config.json: greedy, and it stops where our sampler stops (eos, the markers, pad)."""
    return {"bos_token_id": BOS, "eos_token_id": ids.stops, "pad_token_id": ids.pad, "do_sample": False}


def read_json(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{path}: not there; give a Hugging Face model folder")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
