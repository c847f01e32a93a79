"""The tokenizer's files of an export: those of the tokenizer's folder, and what loaders need and the folder lacks."""

import json
from pathlib import Path

from tigerjax.errors import DataError
from tigerjax.files import manifest, paths
from tigerjax.files.foreign import read_object
from tigerjax.model import hf_config
from tigerjax.model.hf_config import TokenizerIds
from tigerjax.tokenizer.added import (
    ADDED_FILE,
    CONFIG_FILE,
    FAST_FILE,
    MODEL_FILE,
    SPECIALS_FILE,
    decoder,
    in_fast_file,
)

TEMPLATE_FILE = "chat_template.jinja"
AGAIN = "give the tokenizer's files as they were published"
NAMES = (
    MODEL_FILE,
    SPECIALS_FILE,
    FAST_FILE,
    CONFIG_FILE,
    ADDED_FILE,
    "special_tokens_map.json",
    TEMPLATE_FILE,
    "vocab.json",
    "merges.txt",
)
"""What belongs to a tokenizer. Other files of its folder are not copied: in a folder of Hugging Face, config.json and
the weights of another model lie beside these."""


def read(folder: Path) -> tuple[dict[str, bytes], TokenizerIds]:
    """(content of each file to write, what config.json says about them).

    Where there is no tokenizer.json, it is made from tokenizer.model and its added tokens, with its two config files.
    tokenizer_config.json gets the added tokens, which llama.cpp's converter reads there. Raises DataError for a folder
    without a tokenizer.
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
    content = read_object(fast, AGAIN)
    ids = hf_config.tokenizer_ids(fast, content)
    if CONFIG_FILE in files:
        config = read_object(folder / CONFIG_FILE, AGAIN)
        if not config.get("added_tokens_decoder"):
            config["added_tokens_decoder"] = decoder(dict(in_fast_file(content)))
            files[CONFIG_FILE] = (json.dumps(config, ensure_ascii=False, indent=1) + "\n").encode()
    return files, ids


def left(folder: Path) -> list[str]:
    """The files of a tokenizer's folder that an export does not copy."""
    folder = paths.of(folder)
    return [n for n in paths.names(folder) if n not in (*NAMES, manifest.FILE) and (folder / n).is_file()]
