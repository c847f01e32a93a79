"""Matrix products of training in int8 or float8: both operands are rounded, and the result is scaled back.

As in SwitchBack (Wortsman et al. 2023, arXiv 2304.13013, algorithm 1): the forward pass and the gradient of the input
are products of rounded numbers; the gradient of the weight sums over tokens, loses most by rounding, and stays in the
compute dtype. Activations and their gradients have a scale for each token. A weight has one for each output [our
choice; the paper has one for the whole matrix], which its gradient of the input takes into the activations before they
are rounded. So one rounded weight serves both passes, and it is made once for each micro-batch, before the layers run.

Master weights, their gradients and the optimiser do not know of it. The embedding and the head are not rounded.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax.config import Quantise
from tigerjax.model.quantised import MATRICES, Quantised, rounded
from tigerjax.model.weights import leaves, nested

COLLECTION = "rounded"
"""Where a layer finds the rounded values of its matrices, beside "params"."""
DTYPES: dict[Quantise, str] = {"int8": "int8", "fp8": "float8_e4m3fn"}


class RoundedMatrix(NamedTuple):
    """A matrix of a layer in training, (inputs..., outputs...)."""

    weight: jax.Array
    """In the compute dtype. No product reads it: it is here for its gradient."""
    values: jax.Array
    scales: jax.Array
    """float32, 1 long in the inputs."""


def of_layers(w_L: Any, quantise: Quantise) -> Any:
    """The rounded values and scales of the stacked float32 matrices of the layers, by their place in a layer. No
    gradient goes through them."""
    if quantise == "none":
        return {}
    paths = [path.removeprefix("layers/") for path in MATRICES]
    found = {path: jax.lax.stop_gradient(w) for path, w in leaves(w_L) if path in paths}
    inputs = {path: tuple(range(1, 1 + MATRICES[f"layers/{path}"])) for path in found}
    return nested((path, rounded(w, inputs[path], DTYPES[quantise])) for path, w in found.items())


def with_rounded(w: jax.Array, found: Quantised | None) -> Any:
    """A matrix as the products read it: itself, or with its rounded values."""
    return w if found is None else RoundedMatrix(w, *found)


def dot(x: jax.Array, w: RoundedMatrix, n: int) -> jax.Array:
    """The last `n` axes of x times the first `n` axes of w, in the dtype of x. It has no derivative; `times` has."""
    values, scales = rounded(x, tuple(range(x.ndim - n, x.ndim)), w.values.dtype.name)
    values, scales = jax.lax.optimization_barrier((values, scales))
    y = _product(values, w.values, n, tuple(range(n)))
    outputs = w.values.shape[n:]
    by_token = scales.reshape(*x.shape[:-n], *[1] * len(outputs))
    return (y * by_token * w.scales.reshape(outputs)).astype(x.dtype)


def of_input(d_y: jax.Array, w: RoundedMatrix, n: int) -> jax.Array:
    """The gradient of the input of `dot`, in the dtype of d_y."""
    outputs, rank = w.values.shape[n:], w.values.ndim
    m = len(outputs)
    scaled = d_y.astype(jnp.float32) * w.scales.reshape(outputs)
    values, scales = rounded(scaled, tuple(range(d_y.ndim - m, d_y.ndim)), w.values.dtype.name)
    values, scales = jax.lax.optimization_barrier((values, scales))
    d_x = _product(values, w.values, m, tuple(range(n, rank)))
    return (d_x * scales.reshape(*d_y.shape[:-m], *[1] * n)).astype(d_y.dtype)


def _product(x: jax.Array, w: jax.Array, n: int, axes: tuple[int, ...]) -> jax.Array:
    """float32: the last `n` axes of x times these axes of w."""
    whole = jnp.issubdtype(x.dtype, jnp.integer)
    contracted = (tuple(range(x.ndim - n, x.ndim)), axes)
    y = jax.lax.dot_general(x, w, (contracted, ((), ())), preferred_element_type=jnp.int32 if whole else jnp.float32)
    return y.astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def times(x: jax.Array, w: RoundedMatrix, n: int) -> jax.Array:
    """`dot` with the derivative of the product without rounding (straight through): that of the input in low precision,
    that of the weight in the compute dtype."""
    return dot(x, w, n)


def _times_fwd(x: jax.Array, w: RoundedMatrix, n: int) -> Any:
    return dot(x, w, n), (x, w)


def _times_bwd(n: int, saved: Any, d_y: jax.Array) -> Any:
    x, w = saved
    tokens = tuple(range(x.ndim - n))
    return of_input(d_y, w, n), gradient(w, jnp.tensordot(x, d_y, (tokens, tokens)))


times.defvjp(_times_fwd, _times_bwd)


def gradient(w: Any, d_w: jax.Array) -> Any:
    """The gradient of a matrix as `with_rounded` gives it, from that of its weight."""
    if not isinstance(w, RoundedMatrix):
        return d_w
    whole = jnp.issubdtype(w.values.dtype, jnp.integer)
    none: Any = np.zeros(w.values.shape, jax.dtypes.float0) if whole else jnp.zeros_like(w.values)
    return RoundedMatrix(d_w, none, jnp.zeros_like(w.scales))
