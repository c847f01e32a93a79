"""Frozen matrices of the layers as small whole numbers with scales: int8, or int4 in groups.

A weight is value x scale. The scale is the largest magnitude that shares it, divided by 127.5 or 7.5, and a value is
the weight divided by the scale, rounded to nearest (ties to even) and at most 127 or 7: so the outermost values stand
for as wide a range as any other. With int8 all inputs of an output share a scale; with int4, GROUP inputs share one.

A product reads x W + scale x A B with W = value x scale: Dettmers et al. 2023 (QLoRA, arXiv 2305.14314), equations 1, 2
and 3. Of their paper there is neither NF4 nor the second rounding, that of the scales.

The values are those of Qwix (`qwix.quantize`), which a test compares where it is installed. It is no dependency: its
arrays would be leaves in checkpoints, shardings and the pipeline as these are, so all that it would spare is `held` and
`read`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from tigerjax.config import FrozenDtype
from tigerjax.model.weights import MATRIX_INPUTS, MATRIX_PATHS, leaves, nested

LARGEST = {"int8": 127, "int4": 7}
FLOAT8 = "float8_e4m3fn"
GROUP = 128
"""Inputs that share a scale in int4, or all of them where it does not divide them [our choice]. Their float32 scale
adds a quarter of a bit to each weight."""
MATRICES = {path: MATRIX_INPUTS[name] for name, path in MATRIX_PATHS.items()}


class Quantised(NamedTuple):
    """A stack of matrices (L, inputs..., outputs...)."""

    values: Any
    """int8 or int4."""
    scales: Any
    """float32. An axis is as long as that of `values`, or a divisor of it: so many neighbours share a scale."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)


def is_quantised(leaf: Any) -> bool:
    return isinstance(leaf, Quantised)


def held(path: str, w: jax.Array, dtype: FrozenDtype) -> Any:
    """A frozen weight as it is held: a Quantised for a matrix of the layers in int8 and int4, else an array.

    value = round(w / scale) with scale = max |w| / 127.5, or / 7.5: Dettmers et al. 2023 (arXiv 2305.14314), equation
    1, which divides by 127."""
    if dtype == "float32":
        return w
    if dtype == "bfloat16" or path not in MATRICES:
        return w.astype(jnp.bfloat16)
    inputs = MATRICES[path]
    groups = _groups(w.shape, inputs, dtype)
    # (L, other inputs, groups, neighbours of one, outputs...)
    parts = w.reshape(w.shape[0], -1, groups[inputs], w.shape[inputs] // groups[inputs], *w.shape[1 + inputs :])
    values, scales = rounded(parts, (3,) if dtype == "int4" else (1, 3), dtype)
    return Quantised(values.reshape(w.shape), scales.reshape(groups))


def rounded(x: jax.Array, over: tuple[int, ...], dtype: str) -> Quantised:
    """`x` in int8, int4 or float8, with one scale over all of the axes `over`, which are 1 long in the scales: Dettmers
    et al. 2023 (arXiv 2305.14314), equation 1. The largest number of float8 is its own largest."""
    x = x.astype(jnp.float32)
    if dtype == FLOAT8:
        most = float(jnp.finfo(dtype).max)
        scales = jnp.max(jnp.abs(x), axis=over, keepdims=True) / most
        scales = jnp.where(scales == 0, 1.0, scales)
        return Quantised(jnp.clip(x / scales, -most, most).astype(dtype), scales)
    largest = LARGEST[dtype]
    scales = jnp.max(jnp.abs(x), axis=over, keepdims=True) / (largest + 0.5)
    scales = jnp.where(scales == 0, 1.0, scales)
    return Quantised(jnp.clip(jnp.round(x / scales), -largest - 1, largest).astype(dtype), scales)


def _groups(shape: tuple[int, ...], inputs: int, dtype: str) -> tuple[int, ...]:
    """The shape of the scales of a matrix."""
    last = shape[inputs]
    if dtype == "int8":
        return (shape[0], *[1] * inputs, *shape[1 + inputs :])
    groups = last // GROUP if last % GROUP == 0 else 1
    return (*shape[:inputs], groups, *shape[1 + inputs :])


def held_sharding(path: str, cut: NamedSharding, shape: tuple[int, ...], dtype: FrozenDtype) -> Any:
    """The sharding of `held`: scales are cut as their values are, along the axes that the devices divide."""
    if path not in MATRICES or dtype not in LARGEST:
        return cut
    sizes = cut.mesh.shape
    axes = []
    for size, axis in zip(_groups(shape, MATRICES[path], dtype), [*cut.spec, *[None] * len(shape)], strict=False):
        names = (axis,) if isinstance(axis, str) else tuple(axis or ())
        ways = 1
        for name in names:
            ways *= sizes[name]
        axes.append(axis if size % ways == 0 else None)
    return Quantised(cut, NamedSharding(cut.mesh, PartitionSpec(*axes)))


def with_held(weights: Any, dtype: FrozenDtype) -> Any:
    """A tree of weights with the matrices of its layers in int8 or int4. What else it holds stays as it is."""
    return nested((path, held(path, jnp.asarray(w), dtype) if path in MATRICES else w) for path, w in leaves(weights))


def read_all(weights: Any, dtype: Any) -> Any:
    """The weights of one layer, the quantised ones in `dtype`."""
    return jax.tree.map(lambda w: read(w, dtype) if is_quantised(w) else w, weights, is_leaf=is_quantised)


def read(leaf: Any, dtype: Any) -> jax.Array:
    """A weight in `dtype`, of a whole stack or of one layer of it: value * scale, Dettmers et al. 2023 (arXiv
    2305.14314), equation 2."""
    if not is_quantised(leaf):
        array: jax.Array = leaf.astype(dtype)
        return array
    values, scales = leaf
    parts, ones = [], []
    for size, shared in zip(values.shape, scales.shape, strict=True):
        parts += [shared, size // shared]
        ones += [shared, 1]
    # Multiplied in float32 and rounded once.
    return (values.astype(jnp.float32).reshape(parts) * scales.reshape(ones)).reshape(values.shape).astype(dtype)
