"""The tokenizer's files of an export: those of the tokenizer's folder, and what loaders need and the folder lacks."""

import json
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import manifest, paths
from tigerjax.files.foreign import read_object
from tigerjax.model import hf_config
from tigerjax.model.hf_config import TokenizerIds
from tigerjax.processes import hosts
from tigerjax.tokenizer.added import (
    ADDED_FILE,
    AGAIN,
    CONFIG_FILE,
    FAST_FILE,
    MODEL_FILE,
    SPECIALS_FILE,
    decoder,
    in_fast_file,
)
from tigerjax.tokenizer.agreement import other_template
from tigerjax.tokenizer.chat import stop_ids
from tigerjax.tokenizer.hf_files import MAP_FILE, TEMPLATE_FILE

NAMES = (
    MODEL_FILE,
    SPECIALS_FILE,
    FAST_FILE,
    CONFIG_FILE,
    ADDED_FILE,
    MAP_FILE,
    TEMPLATE_FILE,
    "vocab.json",
    "merges.txt",
)
"""What belongs to a tokenizer. Other files of its folder are not copied: in a folder of Hugging Face, config.json and
the weights of another model lie beside these."""


def read(folder: Path, extra: dict[str, Any]) -> tuple[dict[str, bytes], TokenizerIds]:
    """(content of each file to write, what config.json says about them).

    Where there is no tokenizer.json, it is made from tokenizer.model and its added tokens, with its two config files.
    Beside a tokenizer.model, tokenizer_config.json gets the added tokens, which llama.cpp's converter reads there. A
    folder with tokenizer.json alone is copied byte for byte; where its ids agree with those of the checkpoint's source
    (in `extra`), these are written as they came. Raises DataError for a folder without a tokenizer.
    """
    folder = paths.of(folder)
    files = {name: (folder / name).read_bytes() for name in NAMES if (folder / name).is_file()}
    fast = folder / FAST_FILE
    if FAST_FILE not in files and MODEL_FILE not in files:
        raise DataError(
            f"{fast}: not there, nor is {MODEL_FILE}; give the folder that `tigerjax tokenizer extend` wrote"
        )
    if FAST_FILE not in files:
        from tigerjax.tokenizer.export import files_of  # the numeric core imports without SentencePiece

        files |= {name: text.encode() for name, text in files_of(folder).items()}
        return files, hf_config.tokenizer_ids(fast, json.loads(files[FAST_FILE]))
    if line := other_template(folder):
        hosts.say(line)
    if MODEL_FILE not in files:
        return files, _ids(folder, extra)
    content = read_object(fast, AGAIN)
    ids = hf_config.tokenizer_ids(fast, content)
    if CONFIG_FILE in files:
        config = read_object(folder / CONFIG_FILE, AGAIN)
        if not config.get("added_tokens_decoder"):
            config["added_tokens_decoder"] = decoder(dict(in_fast_file(content)))
            files[CONFIG_FILE] = (json.dumps(config, ensure_ascii=False, indent=1) + "\n").encode()
    return files, ids


def _ids(folder: Path, extra: dict[str, Any]) -> TokenizerIds:
    """The ids of a folder with tokenizer.json alone; those of the checkpoint's source, where they agree with them."""
    from tigerjax.tokenizer.load import Tokenizer  # the numeric core imports without SentencePiece

    tokenizer = Tokenizer(folder)
    stops = sorted(stop_ids(tokenizer))
    ours = TokenizerIds(tokenizer.size, tokenizer.bos, tokenizer.eos, tokenizer.pad, stops)
    if hf_config.SOURCE not in extra:
        return ours
    source = hf_config.source_ids(extra)
    generation = extra[hf_config.SOURCE].get(hf_config.GENERATION) or {}
    theirs = generation.get("eos_token_id", source.eos)
    return ours._replace(
        bos=source.bos if ours.bos is None else ours.bos,
        eos=source.eos if tokenizer.eos in _as_set(source.eos) else ours.eos,
        pad=source.pad if ours.pad is None else ours.pad,
        stops=theirs if set(stops) <= _as_set(theirs) else stops,
    )


def _as_set(ids: Any) -> set[Any]:
    return set(ids) if isinstance(ids, list) else {ids}


def left(folder: Path) -> list[str]:
    """The files of a tokenizer's folder that an export does not copy."""
    folder = paths.of(folder)
    return [n for n in paths.names(folder) if n not in (*NAMES, manifest.FILE) and (folder / n).is_file()]
