"""The adapter of a run as PEFT's folder: adapter_config.json and adapter_model.safetensors.

lora_A is our A transposed, (rank, inputs), and lora_B our B, (outputs, rank), for each layer. A weight that was trained
as a whole, or from some entry of the vocabulary on, stands there whole, among `modules_to_save`. How such a folder is
read is in `tigerjax.convert.adapters`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tigerjax.checkpoint.arrays import open_arrays
from tigerjax.checkpoint.files import META, read_meta
from tigerjax.checkpoint.partial import BASE, base_of, lora_of
from tigerjax.checkpoint.stored import StoredModel, open_model
from tigerjax.convert import adapters as reading
from tigerjax.convert import tokenizer_files
from tigerjax.convert.hf import Export
from tigerjax.convert.shards import in_type
from tigerjax.convert.tensors import Safetensors
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest
from tigerjax.model import adapters, families
from tigerjax.model.weights import MATRIX_PATHS, TensorRow, get, paths

STAGE = "adapter"


def to_peft(model: StoredModel, out: Path, export: Export, *, verify: bool) -> dict[str, int]:
    """Writes the adapter of a checkpoint that holds one, and returns {tensors, bytes}; with `verify` every tensor is
    read again. The folder appears whole or not at all.

    Raises ConfigError for a checkpoint without adapters, and for a trained weight that PEFT's form has no place for.
    """
    meta = read_meta(model.path)
    if BASE not in meta or meta[BASE]["lora"] is None:
        raise ConfigError(f"{model.path} was not trained with adapters (lora.rank); leave --adapter out")
    spec = {row.ours: row for row in _rows(model, export)}
    own = open_arrays(model.path)
    settings = _settings(model, meta, spec, own)
    of = {"dtype": export.dtype, "vocab": export.vocab, "checkpoint": manifest.sha256(model.path / META)}
    with manifest.stage(out, name=STAGE, config=of, inputs=[]) as stage:
        if not stage.done:
            made = dict(_tensors(model, meta, spec, own, export))
            save_file(made, stage.tmp / reading.WEIGHTS[0], metadata={"format": "pt"})
            manifest.write_json(stage.tmp / reading.CONFIG, settings)
            if export.tokenizer is not None:
                for name, data in tokenizer_files.read(export.tokenizer, export.extra)[0].items():
                    (stage.tmp / name).write_bytes(data)
            stage.counts = {"tensors": len(made), "bytes": sum(array.nbytes for array in made.values())}
            counts: dict[str, int] = stage.counts
        else:
            counts = (stage.manifest or {})["counts"]
    if verify:
        _compare(out / reading.WEIGHTS[0], _tensors(model, meta, spec, own, export))
    return counts


def _rows(model: StoredModel, export: Export) -> list[TensorRow]:
    config, reward = model.config, families.is_reward(model.kind)
    rows = config.vocab_size if export.vocab == "trimmed" else config.padded_vocab_size
    return families.of(config).hf_rows(config, rows=rows, reward=reward)


def _settings(
    model: StoredModel, meta: dict[str, Any], spec: dict[str, TensorRow], own: dict[str, Any]
) -> dict[str, Any]:
    """The content of adapter_config.json."""
    lora = lora_of(meta)
    whole = [spec[path] for path in paths(own) if path in spec]
    if other := [row.theirs for row in whole if not row.theirs.endswith(".weight")]:
        raise ConfigError(
            f"{model.path}: {other[0]} was trained, and PEFT's form has no place for it; export the merged model,"
            " without --adapter"
        )
    base = base_of(model.path, meta)
    assert base is not None
    source = open_model(base).extra.get("source", {})
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if families.is_reward(model.kind) else "CAUSAL_LM",
        "base_model_name_or_path": source.get("folder", str(base)),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rank_stabilised,
        "lora_dropout": 0.0,
        "target_modules": sorted(_module(spec[MATRIX_PATHS[name]]) for name in lora.targets),
        "modules_to_save": sorted({_module(row) for row in whole}) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def _module(row: TensorRow) -> str:
    return row.theirs.removesuffix(".weight").rpartition(".")[2]


def _tensors(
    model: StoredModel, meta: dict[str, Any], spec: dict[str, TensorRow], own: dict[str, Any], export: Export
) -> Iterator[tuple[str, np.ndarray]]:
    lora, config = lora_of(meta), model.config
    for target in lora.targets:
        path = MATRIX_PATHS[target]
        for layer, name in enumerate(spec[path].names(config)):
            module = reading.PREFIX + name.removesuffix(".weight")
            a, b = (get(own, path + end)[layer] for end in (adapters.A, adapters.B))
            yield f"{module}.lora_A.weight", in_type(a.reshape(-1, lora.rank).T, export.dtype, path)
            yield f"{module}.lora_B.weight", in_type(b.reshape(lora.rank, -1).T, export.dtype, path)
    for path in paths(own):
        if (row := spec.get(path)) is not None:
            for layer, name in enumerate(row.names(config)):
                blocks = [row.to_theirs(get(model.weights, path)[row.place(layer, *ends)]) for ends in row.blocks()]
                yield reading.PREFIX + name, in_type(np.concatenate(blocks), export.dtype, path)


def _compare(file: Path, wanted: Iterator[tuple[str, np.ndarray]]) -> None:
    tensors = Safetensors([file])
    for name, array in wanted:
        if not np.array_equal(tensors.rows(name, 0, len(array)), array.astype(np.float32)):
            raise DataError(f"{file}: {name} is not as it was written; export the adapter again")
