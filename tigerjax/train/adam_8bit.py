"""Adam whose running means are kept in 8 bits, block by block: Dettmers et al. 2022 (arXiv 2110.02861),
sections 2.1 and 2.2.

Each step the means are read as float32, updated, used, and rounded again. A block is some neighbours along one axis of
a weight, which share a scale: the largest absolute value among them. So the codes have the shape of the weight and are
split over devices as it is, and what is stored does not depend on the mesh.

A code is one of 256 values from -1 to 1, or from 0 to 1 where nothing is negative (the paper's dynamic quantisation).
They lie in seven bands, of which each reaches ten times as high as the one before and has twice as many values: small
values are as precise as their size asks for. Beside them there are 0 and 1.

`tigerjax.train.optim` says which weights keep float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tigerjax.train.by_layer import by_layer

BANDS = 7
LARGEST_BLOCK, LEAST_BLOCK = 256, 32
"""Values that share a scale of 4 bytes [our choice]. The paper has blocks of 2,048, which would not lie within one
device's part of a weight."""


class Cut(NamedTuple):
    """How an array is cut into blocks."""

    axis: int
    """Along which its values share scales."""
    size: int
    """Of a block."""
    stacked: bool = False
    """Whether the array is a stack of layers, which are updated one after the other."""

    @staticmethod
    def of(array: jax.Array, axis: int, shares: int, *, stacked: bool) -> "Cut":
        """Blocks along `axis`, which up to `shares` devices may split: their size is a power of two."""
        even = array.shape[axis] & -array.shape[axis]  # the largest power of two that divides it
        return Cut(axis, min(LARGEST_BLOCK, even, max(LEAST_BLOCK, even // shares)), stacked)

    @property
    def of_layer(self) -> "Cut":
        """That of one layer of the stack."""
        return Cut(self.axis - 1, self.size)

    def blocks(self, array: jax.Array) -> jax.Array:
        """The array with an axis for the blocks, and behind it one for the values of a block."""
        return array.reshape(*array.shape[: self.axis], -1, self.size, *array.shape[self.axis + 1 :])


class Codes(NamedTuple):
    """An array in 8 bits."""

    code: jax.Array
    """int8 where values may be negative, else uint8; in the shape of the array."""
    scale: jax.Array
    """float32, in the shape of the array but for the blocked axis, which has an entry for each block."""


class Adam8BitState(NamedTuple):
    """As optax's ScaleByAdamState; each mean is an array, or `Codes`."""

    steps: jax.Array
    mu: Any
    nu: Any


def scale_by_adam_8bit(
    *, b1: float, b2: float, eps: float, cut_of: Callable[[Any, jax.Array], Cut | None]
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with means in 8 bits: m / (sqrt(v) + eps), Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1.

    The means are rounded block by block after each update: Dettmers et al. 2022 (arXiv 2110.02861), sections 2.1 and
    2.2.

    `cut_of` says how a weight is cut into blocks, from its path and the weight; None keeps float32.
    """

    def init(weights: Any) -> Adam8BitState:
        def zeros(signed: bool) -> Any:
            def one(path: Any, w: jax.Array) -> Any:
                cut, mean = cut_of(path, w), jnp.zeros(w.shape, jnp.float32)
                return mean if cut is None else encode(mean, cut, signed)

            return jax.tree_util.tree_map_with_path(one, weights)

        return Adam8BitState(jnp.zeros((), jnp.int32), zeros(True), zeros(False))

    def update(gradient: Any, state: Adam8BitState, weights: Any = None) -> tuple[Any, Adam8BitState]:
        count = optax.safe_increment(state.steps)

        def one(cut: Cut | None, g: jax.Array, mu: Any, nu: Any) -> _Updated:
            first, second = (mu, nu) if cut is None else (decode(mu, cut), decode(nu, cut))
            first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g * g
            direction = first / (1 - b1**count) / (jnp.sqrt(second / (1 - b2**count)) + eps)
            if cut is None:
                return _Updated(direction, first, second)
            return _Updated(direction, encode(first, cut, True), encode(second, cut, False))

        def whole(path: Any, g: jax.Array, mu: Any, nu: Any) -> _Updated:
            cut = cut_of(path, g)
            if cut is not None and cut.stacked:
                made: _Updated = by_layer(functools.partial(one, cut.of_layer), g, mu, nu)
                return made
            return one(cut, g, mu, nu)

        made = jax.tree_util.tree_map_with_path(whole, gradient, state.mu, state.nu)
        direction, mu, nu = (
            jax.tree.map(lambda m, i=i: m[i], made, is_leaf=lambda m: isinstance(m, _Updated)) for i in range(3)
        )
        return direction, Adam8BitState(count, mu, nu)

    return optax.GradientTransformation(init, update)


class _Updated(NamedTuple):
    direction: jax.Array
    mu: Any
    nu: Any


def encode(array: jax.Array, cut: Cut, signed: bool) -> Codes:
    """The nearest codes of a float32 array, each value divided by the largest absolute one of its block: Dettmers et
    al. 2022 (arXiv 2110.02861), section 2.1. A positive value of an array without negative ones never becomes 0, since
    Adam divides by it."""
    in_blocks, inside = cut.blocks(array), cut.axis + 1
    scale = jnp.max(jnp.abs(in_blocks), axis=inside, keepdims=True)
    share = in_blocks / jnp.where(scale == 0, 1.0, scale)
    first = 1 if signed else 2
    rank = _rank(jnp.abs(share), first)
    if signed:
        # -128 stands for 1: there is no code for -1, and the largest one below it is its nearest.
        rank = jnp.where(share < 0, -jnp.minimum(rank, 127), jnp.where(rank == 128, -128, rank))
        code = rank.astype(jnp.int8)
    else:
        code = jnp.where(share > 0, jnp.maximum(rank, first) - 1, 0).astype(jnp.uint8)
    return Codes(code.reshape(array.shape), jnp.squeeze(scale, inside))


def decode(codes: Codes, cut: Cut) -> jax.Array:
    """The float32 array that codes stand for, value of the code * scale of its block: Dettmers et al. 2022 (arXiv
    2110.02861), section 2.1."""
    code, signed = codes.code.astype(jnp.int32), codes.code.dtype == jnp.int8
    if signed:
        size = _value(jnp.abs(code), 1)
        share = jnp.where((code < 0) & (code > -128), -size, size)
    else:
        share = _value(jnp.where(code == 0, 0, code + 1), 2)
    return (cut.blocks(share) * jnp.expand_dims(codes.scale, cut.axis + 1)).reshape(code.shape)


def _band(i: int, first: int) -> tuple[int, float]:
    """(Values of a band, its upper end). The lowest band has `first` values."""
    return first << i, 10.0 ** (i - BANDS + 1)


def _value(rank: jax.Array, first: int) -> jax.Array:
    """The value of each rank: 0 below `first`, then band after band, and 1.

    A band from end / 10 to `end` is cut into equal parts; the values are their middles."""
    value = jnp.zeros(rank.shape, jnp.float32)
    for i in range(BANDS):
        values, end = _band(i, first)
        value = jnp.where(rank >= values, end * (0.1 + 0.9 * (rank - values + 0.5) / values), value)
    return jnp.where(rank >= first << BANDS, 1.0, value)


def _rank(share: jax.Array, first: int) -> jax.Array:
    """The rank of the value that is nearest to each share, which is from 0 to 1."""
    rank, below = jnp.zeros(share.shape, jnp.int32), 0.0
    for i in range(BANDS):
        values, end = _band(i, first)
        part = jnp.floor((share / end - 0.1) / 0.9 * values).astype(jnp.int32)
        lowest = end * (0.1 + 0.45 / values)
        rank = jnp.where(share >= (below + lowest) / 2, values + jnp.clip(part, 0, values - 1), rank)
        below = end * (1 - 0.45 / values)
    return jnp.where(share >= (below + 1) / 2, first << BANDS, rank)
