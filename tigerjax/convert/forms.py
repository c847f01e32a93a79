"""Folders and files that hold a model in another form than a Hugging Face folder's: each is refused by name, with what
to do about it."""

import fnmatch
from collections.abc import Collection, Mapping
from pathlib import Path

from tigerjax.checkpoint.files import META
from tigerjax.convert import meta_form
from tigerjax.convert.journal import FILE as JOURNAL
from tigerjax.convert.tensors import SHARDS, SINGLE, TORCH_SINGLE
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths

READ = (SINGLE, TORCH_SINGLE, *SHARDS, *SHARDS.values())
"""Weights of a Hugging Face folder, by pattern, and what names their files."""
LORA = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
TORCH = "torch's files are read as pytorch_model.bin; save the model with save_pretrained, and convert that"
WEIGHTS = {
    "consolidated*.safetensors": "Mistral's own form is not read; download the files of the Hugging Face form instead",
    "*.gguf": "llama.cpp's form is not read; convert the model that it was made of",
    "*.ggml": "llama.cpp's form is not read; convert the model that it was made of",
    "zero_to_fp32.py": "a DeepSpeed checkpoint is not read; run its zero_to_fp32.py first, and convert the result",
    "*.distcp": "a distributed PyTorch checkpoint is not read; save the model with save_pretrained, and convert that",
    "mp_rank_*": "a Megatron checkpoint is not read; convert it to a Hugging Face folder first",
    "tf_model.h5": "TensorFlow weights are not read; save the model with save_pretrained(safe_serialization=True)",
    "flax_model.msgpack": "Flax weights are not read; save the model as safetensors, and convert that",
    meta_form.PATTERN: "Meta's form is read beside its params.json without a config.json; move both to a new folder",
    "*.pth": TORCH,
    "*model*.pt": TORCH,
}
"""Files that hold weights, by pattern, and what to do instead."""
FOLDERS = {
    "checkpoints": "a run of tigerjax is read as it is; give it to the command that is to use it",
    "params.json": "the consolidated.*.pth files of Meta's form are not beside it; copy them too",
    META: "a checkpoint of tigerjax is read as it is; give it to the command that is to use it",
    "snapshots": "the cache of the Hub is not read itself; give the folder below snapshots/ that holds config.json",
}


def refuse_others(folder: Path) -> None:
    """ConfigError when `folder` holds a LoRA adapter, or a model in another form and none of Hugging Face's.

    DataError for an export that was interrupted, whose files are not all written.
    """
    if folder.is_file():
        _refuse(folder.parent, [folder.name], WEIGHTS)
        raise ConfigError(f"{folder} is a file; give the folder that holds config.json and the weights")
    there = paths.names(folder)
    for name in LORA:
        if name in there:
            raise ConfigError(
                f"{folder / name}: a LoRA adapter is no model; `tigerjax convert from-hf` merges it into the model of"
                " --base"
            )
    if JOURNAL in there:
        raise DataError(f"{folder}: an export that was interrupted; give the same `tigerjax convert to-hf` again")
    if "config.json" not in there and not meta_form.there(folder):
        _refuse(folder, there, WEIGHTS | FOLDERS)
    elif "config.json" in there and not any(fnmatch.filter(there, pattern) for pattern in READ):
        _refuse(folder, there, WEIGHTS)


def _refuse(folder: Path, there: Collection[str], forms: Mapping[str, str]) -> None:
    for pattern, advice in forms.items():
        if found := sorted(fnmatch.filter(there, pattern)):
            raise ConfigError(f"{folder / found[0]}: {advice}")
