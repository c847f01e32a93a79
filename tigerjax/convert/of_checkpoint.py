"""A checkpoint of ours seen as the Hugging Face folder that an export would write, without writing it."""

from typing import Any

import numpy as np

from tigerjax.checkpoint.files import META
from tigerjax.checkpoint.stored import StoredModel
from tigerjax.convert.read import Opened
from tigerjax.files import manifest, paths
from tigerjax.model import families
from tigerjax.model.weights import Row, get

Array = np.ndarray


class OfCheckpoint:
    """The tensors that an export of a checkpoint would have."""

    def __init__(self, model: StoredModel, spec: list[Row]):
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


def facts(model: StoredModel) -> dict[str, Any]:
    """What another checkpoint remembers of the one that it was made of."""
    name = model.path.name if paths.on_bucket(model.path) else model.path.resolve().name
    return {"checkpoint": name, "step": model.step, "meta_sha256": manifest.sha256(model.path / META)}
