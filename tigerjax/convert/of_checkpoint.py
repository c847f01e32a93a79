"""A checkpoint of ours as a Hugging Face folder: what an export of it holds, and its tensors without one."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from tigerjax.checkpoint.files import META
from tigerjax.checkpoint.stored import StoredModel
from tigerjax.convert.hf import Export, Vocab, Written
from tigerjax.convert.read import Opened
from tigerjax.files import manifest, paths
from tigerjax.model import families
from tigerjax.model.hf_config import trained_length
from tigerjax.model.weights import TensorRow, get

Array = np.ndarray


class OfCheckpoint:
    """The tensors that an export of a checkpoint would have."""

    def __init__(self, model: StoredModel, spec: list[TensorRow]):
        self.files = [model.path / META]
        self._weights: dict[str, Any] = model.weights
        self._rows = {name: (row, n) for row in spec for n, name in enumerate(row.names(model.config))}
        self.shapes = {name: row.shape for name, (row, _) in self._rows.items()}

    def rows(self, name: str, start: int, stop: int) -> Array:
        row, layer = self._rows[name]
        whole = slice(start // row.unit * row.unit, -(-stop // row.unit) * row.unit)
        ours = np.asarray(get(self._weights, row.ours)[row.place(layer, whole.start, whole.stop)], np.float32)
        theirs: Array = row.to_theirs(ours)[start - whole.start : stop - whole.start]
        return theirs


def opened(model: StoredModel) -> Opened:
    """The checkpoint as an opened folder. As in an export, the vocabulary is without its padding."""
    reward = families.is_reward(model.kind)
    spec = families.of(model.config).hf_rows(model.config, rows=model.config.vocab_size, reward=reward)
    tensors = OfCheckpoint(model, spec)
    return Opened(str(model.path), model.kind, model.config, tensors, spec, model.extra, sized=True)


def export(
    model: StoredModel,
    name: str,
    *,
    tokenizer: Path | None,
    dtype: Written = "float32",
    vocab: Vocab = "trimmed",
    weights: Literal["trained", "ema"] = "trained",
) -> Export:
    """How a checkpoint is exported: with the length that it was trained at, and with its origin in the model card.

    `name` is what the card calls it, `weights` says which of its weights `model` holds.
    """
    return Export(
        tokenizer=tokenizer,
        dtype=dtype,
        vocab=vocab,
        seq_len=trained_length(model.run_config),
        extra=model.extra,
        lineage={
            "checkpoint": name,
            "step": model.step,
            "weights": "as trained" if weights == "trained" else "running mean (EMA)",
            "imported from": model.extra.get("source"),
            "checkpoint sha256 (of its meta.json)": manifest.sha256(model.path / META),
            "tokenizer sha256": model.tokenizer_sha256,
            "config of the run": model.run_config,
        },
    )


def facts(model: StoredModel) -> dict[str, Any]:
    """What another checkpoint remembers of the one that it was made of."""
    name = model.path.name if paths.on_bucket(model.path) else model.path.resolve().name
    return {"checkpoint": name, "step": model.step, "meta_sha256": manifest.sha256(model.path / META)}
