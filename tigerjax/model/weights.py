"""The one table between our weights and the tensors of a Hugging Face Llama, and the blocks in which both are copied.

A Hugging Face Linear stores (out, in); ours store (in..., out...), heads unflattened and layers stacked. Both sides
pair rotary dimensions (i, i + H/2), so q and k need no permutation.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tigerjax.config import ModelConfig
from tigerjax.model.llama import hf_config

Array = np.ndarray
BLOCK_BYTES = 64_000_000
"""Of float32: what a copy holds of a tensor at one time, so memory grows with neither layers nor tensors."""
CHUNK_BYTES = 4_000_000
"""A stored chunk is not made smaller than this by splitting model_dim."""
SPLITS = 8
"""Parts of model_dim in the chunks of a block: the hosts that share weights along it read little that is not theirs."""


class Row(NamedTuple):
    """One weight. Rows start:stop of their axis 0 are the same part of our `axis`, in units of `unit` rows."""

    ours: str  # '/'-joined path; under 'layers/' stacked over L
    theirs: str  # with {} for the layer
    shape: tuple[int, ...]  # theirs, of one layer
    ours_shape: tuple[int, ...]  # of one layer; longer than theirs along `axis` where our vocabulary is padded
    axis: int
    unit: int
    to_ours: Callable[[Array], Array]
    to_theirs: Callable[[Array], Array]
    split_axis: int | None = None  # ours: model_dim, where it is not `axis`

    @property
    def layered(self) -> bool:
        return "{}" in self.theirs

    def names(self, config: ModelConfig) -> list[str]:
        return [self.theirs.format(i) for i in range(config.num_layers if self.layered else 1)]

    def stacked_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Of our whole array, layers included."""
        return (config.num_layers, *self.ours_shape) if self.layered else self.ours_shape

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of their rows: at most BLOCK_BYTES of float32, at least one unit."""
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
        """The shape of a stored chunk: one block or a part of it, so that no copy reads a chunk twice."""
        inner = list(self.ours_shape)
        inner[self.axis] = min(self._block_units(), inner[self.axis]) if self.shape[0] > 1 else inner[self.axis]
        if self.split_axis is not None and inner[self.split_axis] % SPLITS == 0:
            if 4 * int(np.prod(inner)) // SPLITS >= CHUNK_BYTES:
                inner[self.split_axis] //= SPLITS
        return (1, *inner) if self.layered else tuple(inner)

    def _block_units(self) -> int:
        unit_bytes = 4 * self.unit * int(np.prod(self.shape[1:]))
        return max(1, min(BLOCK_BYTES // unit_bytes, self.shape[0] // self.unit))


def table(c: ModelConfig, *, rows: int, kind: str = hf_config.LLAMA) -> list[Row]:
    """One row a weight. `rows` is the length of the vocabulary in their tensors: trimmed or padded."""
    D, F, N, K, H, V = c.model_dim, c.mlp_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.padded_vocab_size
    hf = "model.layers.{}."

    def same(a: Array) -> Array:
        return a

    def flip(a: Array) -> Array:
        return a.T

    def norm(ours: str, theirs: str) -> Row:
        return Row(ours, theirs, (D,), (D,), 0, 1, same, same)

    def linear(ours: str, theirs: str, out: int, into: int, split_axis: int | None) -> Row:
        return Row(ours, theirs, (out, into), (into, out), 1, 1, flip, flip, split_axis)

    def heads(ours: str, theirs: str, n: int) -> Row:
        to_ours, to_theirs = (lambda a: a.T.reshape(D, -1, H)), (lambda a: a.reshape(D, -1).T)
        return Row(ours, hf + theirs, (n * H, D), (D, n, H), 1, H, to_ours, to_theirs, 0)

    out = [
        Row("embed", "model.embed_tokens.weight", (rows, D), (V, D), 0, 1, same, same, 1),
        norm("layers/attn_norm/scale", hf + "input_layernorm.weight"),
        heads("layers/attn/q", "self_attn.q_proj.weight", N),
        heads("layers/attn/k", "self_attn.k_proj.weight", K),
        heads("layers/attn/v", "self_attn.v_proj.weight", K),
        Row(
            "layers/attn/o",
            hf + "self_attn.o_proj.weight",
            (D, N * H),
            (N, H, D),
            2,
            1,
            lambda a: a.T.reshape(N, H, -1),
            lambda a: a.reshape(N * H, -1).T,
        ),
        norm("layers/mlp_norm/scale", hf + "post_attention_layernorm.weight"),
        linear("layers/mlp/gate", hf + "mlp.gate_proj.weight", F, D, 0),
        linear("layers/mlp/up", hf + "mlp.up_proj.weight", F, D, 0),
        linear("layers/mlp/down", hf + "mlp.down_proj.weight", D, F, None),
        norm("final_norm/scale", "model.norm.weight"),
    ]
    if kind == hf_config.REWARD:
        return [*out, Row("score", "score.weight", (1, D), (D,), 0, 1, lambda a: a[0], lambda a: a[None])]
    return [*out, Row("head", "lm_head.weight", (rows, D), (D, V), 1, 1, flip, flip, 0)]


def tensor_bytes(spec: list[Row], config: ModelConfig, itemsize: int) -> int:
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
