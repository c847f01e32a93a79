"""Gradients of a layer's matrices, summed over the devices that share the batch by passing parts round two rings.

A device has the gradient of each matrix by its own rows, and keeps in the end its share along D of the sum. Left to
itself XLA:TPU adds up whole gradients on chips without SparseCores: it moves twice the bytes, and nothing is computed
meanwhile. Here a device computes one part of its product, adds what a neighbour sent, and passes the sum on while it
computes the next part: a collective matrix product (Wang et al. 2023, "Overlap communication with dependent computation
via decomposition in large deep learning models", doi.org/10.1145/3567955.3567959).

The n devices are A x B, as they are on the two axes of a torus, and device i is (i // B, i % B). First A devices form a
ring, in which each part is 1 / A of the matrix along D, and is computed in the step in which it is passed on. Then B
devices form one, which passes parts of the result. Both rings run both ways: a sum comes from half of the devices on
each side. Sums are of float32 numbers, and travel in the compute dtype.

Weights are gathered as without it. All of it runs inside `mesh.on_each`, where each device has its own rows.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tigerjax import mesh
from tigerjax.config import Remat
from tigerjax.model import stack
from tigerjax.model.quantised import MATRICES
from tigerjax.model.weights import get, leaves, nested

COLLECTION = "shares"
"""Where a layer finds its device's shares of its matrices, beside "params"."""


class SharedMatrix(NamedTuple):
    """A matrix of a layer in training, of which every device keeps a share along D."""

    whole: jax.Array
    """What the products read. No gradient goes through it."""
    share: jax.Array
    """No product reads it: it is here for its gradient."""


def with_share(w: jax.Array, share: jax.Array | None) -> Any:
    """A matrix as the products read it: itself, or with its device's share."""
    return w if share is None else SharedMatrix(w, share)


def whole(w: Any) -> Any:
    """The array that a product multiplies with."""
    return w.whole if isinstance(w, SharedMatrix) else w


@jax.custom_vjp
def times(x_BTD: jax.Array, w: SharedMatrix) -> jax.Array:
    """x_BTD times the matrix (D, outputs...)."""
    return jnp.tensordot(x_BTD, w.whole, 1)


def _times_fwd(x_BTD: jax.Array, w: SharedMatrix) -> Any:
    return times(x_BTD, w), (x_BTD, w)


def _times_bwd(saved: Any, d_y: jax.Array) -> Any:
    x_BTD, w = saved
    outputs = w.whole.ndim - 1
    d_x_BTD = jnp.tensordot(d_y, w.whole, (tuple(range(2, 2 + outputs)), tuple(range(1, 1 + outputs))))
    return d_x_BTD, gradient(x_BTD, d_y, d_last=False)


times.defvjp(_times_fwd, _times_bwd)


def gradient(wide_BTD: jax.Array, other: jax.Array, *, d_last: bool) -> SharedMatrix:
    """The gradient of a matrix: wide_BTD times `other` (B, T, axes of the matrix without D), summed over all tokens of
    all devices. Of the matrix, D is the first axis or the last."""
    d_share = summed_product(wide_BTD, other)
    none: Any = None  # jax takes it for zeros, and makes no array of them
    return SharedMatrix(none, jnp.moveaxis(d_share, 0, -1) if d_last else d_share)


def rings(devices: int) -> tuple[int, int]:
    """(A, B), the two rings: A x B = devices, with A the largest divisor up to its root. So `mesh.make_mesh` numbers
    the devices of a whole torus with two axes."""
    outer = next(a for a in range(math.isqrt(devices), 0, -1) if devices % a == 0)
    return outer, devices // outer


def summed_product(wide_BTD: jax.Array, other: jax.Array) -> jax.Array:
    """This device's share (D / n, ...) of wide_BTD times `other` (B, T, ...), summed over the tokens of n devices."""
    n, dtype = mesh.embed_ways(), wide_BTD.dtype
    (outer, inner), me = rings(n), mesh.embed_index()
    wide_BTD, other = jax.lax.optimization_barrier((wide_BTD, other))
    rows = wide_BTD.shape[2] // outer

    def product(part: jax.Array, *after: jax.Array) -> jax.Array:
        # Computed when the neighbours' sums are there, so that adding them is no kernel of its own.
        part, _ = jax.lax.optimization_barrier((part, after))
        chosen = jax.lax.dynamic_slice_in_dim(wide_BTD, part * rows, rows, axis=2)
        return jnp.tensordot(chosen, other, ((0, 1), (0, 1)), preferred_element_type=jnp.float32)

    part = _passed_round(product, me // inner, outer, inner, dtype)
    rows //= inner

    def of_part(index: jax.Array, *_: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(part, index * rows, rows, axis=0).astype(jnp.float32)

    return _passed_round(of_part, me % inner, inner, 1, dtype)


def _passed_round(mine: Callable[..., jax.Array], place: jax.Array, ring: int, stride: int, dtype: Any) -> jax.Array:
    """The sum over a ring of what each device's `mine` has of the part of this device, which is at `place` of the ring.
    Its neighbours are `stride` devices away."""
    total = mine(place)
    for hops, way in ((ring // 2, 1), ((ring - 1) // 2, -1)):  # how far the sums travel either way
        if hops:
            # The part of the device that is `hops` ahead begins here, and each device on its way adds its own.
            passed = mine((place + way * hops) % ring).astype(dtype)
            for left in range(hops - 1, 0, -1):
                passed = mesh.to_neighbour(passed, ring, stride, way)
                passed = (passed.astype(jnp.float32) + mine((place + way * left) % ring, passed)).astype(dtype)
            total += mesh.to_neighbour(passed, ring, stride, way).astype(jnp.float32)
    return total.astype(dtype)


def over_shares(run: stack.StackRunner, axes_L: Any) -> stack.StackRunner:
    """`run`, with blocks that are given `(weights, shares)`: a layer's weights whole, and its device's shares of the
    matrices. `axes_L` are the logical axes of the stacked weights."""

    def call(block: stack.Block, w_L: Any, x: Any, *, remat: Remat) -> Any:
        def of_shares(w: Any, x: Any) -> Any:
            shares = {path: one for path, one in leaves(w) if path in PATHS}
            weights = nested((path, gathered(path, one)) for path, one in leaves(w))
            return block((weights, nested(shares.items())), x)

        def gathered(path: str, w: jax.Array) -> jax.Array:
            axes = get(axes_L, path)[1:]
            if "embed" not in axes:
                return w
            one = mesh.embed_gathered(w, axes.index("embed"))
            return jax.lax.stop_gradient(one) if path in PATHS else one

        def on_device(w_L: Any, x: Any) -> Any:
            with nn.logical_axis_rules(mesh.logical_rules()):  # none of them names an axis here
                return run(of_shares, w_L, x, remat=remat)

        specs = nested((path, mesh.spec(*axes)) for path, axes in leaves(axes_L))
        rows = jax.tree.map(lambda _: mesh.spec("batch"), x)
        return mesh.on_each(on_device, (specs, rows), rows)(w_L, x)

    return call


PATHS = {path.removeprefix("layers/") for path in MATRICES}
"""Of the matrices in the weights of a layer."""
