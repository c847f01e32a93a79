"""One of our weights beside its tensors in a Hugging Face folder, the blocks in which both are copied, and trees of
weights by path.

A family's `hf_rows` lists its weights as such rows. A Hugging Face Linear stores (out, in). Ours store (in..., out...),
with heads as an axis of their own and layers stacked.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tigerjax.config import ModelConfig

Array = np.ndarray
ReadRows = Callable[[str, int, int], Array]
"""(name, start, stop) -> those rows of a Hugging Face tensor as float32."""
BLOCK_BYTES = 64_000_000
"""Float32 bytes of a tensor that a copy holds at one time. So memory grows neither with layers nor with tensors."""
CHUNK_BYTES = 4_000_000
"""Splitting model_dim makes no stored chunk smaller than this."""
SPLITS = 8
"""Parts into which chunks cut model_dim. Hosts share weights along it, and then read little that is not theirs."""

MATRIX_PATHS = {
    **{name: f"layers/attn/{name}" for name in ("q", "k", "v", "o")},
    **{name: f"layers/mlp/{name}" for name in ("gate", "up", "down")},
}
"""The path of each matrix of the layers, by the name that `LoraConfig.targets` gives it."""
MATRIX_INPUTS = {name: 2 if name == "o" else 1 for name in MATRIX_PATHS}
"""How many of the first axes of a matrix, the layer axis apart, are those of its input."""


class TensorRow(NamedTuple):
    """One weight of ours and its Hugging Face tensors: one tensor, or one for each layer.

    Axis 0 of their tensor is axis `axis` of ours, and `unit` of their rows make one index of it (a head's rows, say).
    So any range of their rows that begins and ends at a whole unit is a slice of ours.
    """

    ours: str  # path joined by '/'; under 'layers/' the array is stacked over L
    theirs: str  # with {} for the layer's number
    shape: tuple[int, ...]  # of their tensor, for one layer
    ours_shape: tuple[int, ...]  # of one layer; longer than theirs along `axis` where our vocabulary is padded
    axis: int
    unit: int
    to_ours: Callable[[Array], Array]  # their rows in our layout, and back
    to_theirs: Callable[[Array], Array]
    split_axis: int | None = None  # our axis of model_dim, where it is not `axis`

    @property
    def layered(self) -> bool:
        return "{}" in self.theirs

    def names(self, config: ModelConfig) -> list[str]:
        return [self.theirs.format(i) for i in range(config.num_layers if self.layered else 1)]

    def stacked_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """The shape of our whole array, with the layer axis."""
        return (config.num_layers, *self.ours_shape) if self.layered else self.ours_shape

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of ranges of their rows, in order. Each holds at most BLOCK_BYTES of float32, or one unit."""
        step = self._block_units() * self.unit
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])

    def place(self, layer: int, start: int, stop: int) -> tuple[Any, ...]:
        """Where rows start:stop of their tensor of a layer lie in our array."""
        inner = [slice(None)] * len(self.ours_shape)
        inner[self.axis] = slice(start // self.unit, stop // self.unit)
        if self.shape[0] == 1:  # the score head: one row of theirs is all of ours
            inner = [slice(None)]
        return (layer, *inner) if self.layered else tuple(inner)

    def chunks(self, config: ModelConfig) -> tuple[int, ...]:
        """The shape of a stored chunk of our array: one block or a part of one, so that no copy reads a chunk twice."""
        inner = list(self.ours_shape)
        inner[self.axis] = min(self._block_units(), inner[self.axis]) if self.shape[0] > 1 else inner[self.axis]
        if self.split_axis is not None and inner[self.split_axis] % SPLITS == 0:
            if 4 * int(np.prod(inner)) // SPLITS >= CHUNK_BYTES:
                inner[self.split_axis] //= SPLITS
        return (1, *inner) if self.layered else tuple(inner)

    def _block_units(self) -> int:
        unit_bytes = 4 * self.unit * int(np.prod(self.shape[1:]))
        return max(1, min(BLOCK_BYTES // unit_bytes, self.shape[0] // self.unit))


def tensor_bytes(spec: list[TensorRow], config: ModelConfig, itemsize: int) -> int:
    """Bytes of all their tensors in a type of `itemsize` bytes."""
    return sum(len(row.names(config)) * int(np.prod(row.shape)) * itemsize for row in spec)


def paths(tree: Any, prefix: str = "") -> Iterator[str]:
    """The '/'-joined path of every leaf of a nested dict."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}/")
        else:
            yield prefix + name


def get(tree: Any, path: str) -> Any:
    """The leaf at a '/'-joined path."""
    for name in path.split("/"):
        tree = tree[name]
    return tree


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Sets a leaf; the dicts on its way are made."""
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = value


def leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """(path, leaf) of every leaf of a nested dict."""
    for path in paths(tree):
        yield path, get(tree, path)


def nested(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The nested dict of such (path, leaf). Of pairs with one path the last counts."""
    tree: dict[str, Any] = {}
    for path, leaf in pairs:
        put(tree, path, leaf)
    return tree
