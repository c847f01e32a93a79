"""Matrix products of training in int8 or float8: both operands are rounded, and the result is scaled back.

As in SwitchBack (Wortsman et al. 2023, arXiv 2304.13013, algorithm 1): the forward pass and the gradient of the input
are products of rounded numbers; the gradient of the weight sums over tokens, loses most by rounding, and stays in the
compute dtype. Activations and their gradients have a scale for each token. A weight has one for each output [our
choice; the paper has one for the whole matrix], which its gradient of the input takes into the activations before they
are rounded. So one rounded weight serves both passes, and it is made once for each micro-batch, before the layers run.

`fp8_full` [our choice] rounds for the gradient of the weight too. Each product takes the operand that is rounded by
token in the same layer anyway, and puts the scales of its tokens into the other operand, which is rounded to float8
with one scale for all tokens of the batch. Then sums over tokens need no scales, and the wide operand of the MLP is
rounded once. Where a token's product is less than 2^-17 of the largest one, it is lost.

Master weights, their gradients and the optimiser do not know of it. The embedding and the head are not rounded.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax.config import Quantise
from tigerjax.model.quantised import FLOAT8, MATRICES, Quantised, rounded
from tigerjax.model.weights import leaves, nested

COLLECTION = "rounded"
"""Where a layer finds the rounded values of its matrices, beside "params"."""
DTYPES: dict[Quantise, str] = {"int8": "int8", "fp8": FLOAT8, "fp8_full": FLOAT8}
MOST = float(jnp.finfo(FLOAT8).max)


class RoundedMatrix(NamedTuple):
    """A matrix of a layer in training, (inputs..., outputs...)."""

    weight: jax.Array
    """In the compute dtype. No product reads it: it is here for its gradient."""
    values: jax.Array
    """With more than one axis of inputs the outputs come first: that XLA:TPU multiplies at the full speed."""
    scales: jax.Array
    """float32, 1 long in the inputs."""


class Throughout(Quantised):
    """The rounded values of a matrix whose gradient is a product of rounded numbers too."""


class RoundedThroughout(RoundedMatrix):
    """A matrix of a layer with `Throughout`."""


def of_layers(w_L: Any, quantise: Quantise) -> Any:
    """The rounded values and scales of the stacked float32 matrices of the layers, by their place in a layer. No
    gradient goes through them."""
    if quantise == "none":
        return {}
    paths = [path.removeprefix("layers/") for path in MATRICES]
    found = {path: jax.lax.stop_gradient(w) for path, w in leaves(w_L) if path in paths}
    inputs = {path: tuple(range(1, 1 + MATRICES[f"layers/{path}"])) for path in found}
    of_stack = {path: rounded(w, inputs[path], DTYPES[quantise]) for path, w in found.items()}
    kind = Throughout if quantise == "fp8_full" else Quantised
    both = ((path, _outputs_first(r.values, len(inputs[path])), r.scales) for path, r in of_stack.items())
    return nested((path, kind(values, scales)) for path, values, scales in both)


def _outputs_first(values_L: jax.Array, n: int) -> jax.Array:
    """A stack of matrices with `n` axes of inputs as `RoundedMatrix` has them."""
    return values_L if n == 1 else jnp.moveaxis(values_L, range(1, 1 + n), range(-n, 0))


def with_rounded(w: jax.Array, found: Quantised | None) -> Any:
    """A matrix as the products read it: itself, or with its rounded values."""
    if found is None:
        return w
    return RoundedThroughout(w, *found) if isinstance(found, Throughout) else RoundedMatrix(w, *found)


def dot(x: jax.Array, w: RoundedMatrix, n: int) -> jax.Array:
    """The last `n` axes of x times the first `n` axes of w, in the dtype of x. It has no derivative; `times` has."""
    values, scales = rounded(x, tuple(range(x.ndim - n, x.ndim)), w.values.dtype.name)
    values, scales = jax.lax.optimization_barrier((values, scales))
    y = product(values, w.values, (tuple(range(x.ndim - n, x.ndim)), _axes(w, n)[0]), jnp.float32)
    outputs = w.weight.shape[n:]
    by_token = scales.reshape(*x.shape[:-n], *[1] * len(outputs))
    return (y * by_token * w.scales.reshape(outputs)).astype(x.dtype)


def of_input(d_y: jax.Array, w: RoundedMatrix, n: int) -> tuple[jax.Array, Quantised]:
    """The gradient of the input of `dot`, in the dtype of d_y; and d_y times the scales of w, rounded. There the scale
    of a token whose gradients are all 0 is 0."""
    outputs = w.weight.shape[n:]
    m = len(outputs)
    scaled = d_y.astype(jnp.float32) * w.scales.reshape(outputs)
    over = tuple(range(d_y.ndim - m, d_y.ndim))
    values, scales = rounded(scaled, over, w.values.dtype.name)
    values, scales = jax.lax.optimization_barrier((values, scales))
    d_x = product(values, w.values, (over, _axes(w, n)[1]), jnp.float32)
    d_x = (d_x * scales.reshape(*d_y.shape[:-m], *[1] * n)).astype(d_y.dtype)
    return d_x, Quantised(values, jnp.where(largest(scaled, over) == 0, 0, scales))


def _axes(w: RoundedMatrix, n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(inputs, outputs): the axes of its values."""
    rank = w.values.ndim
    if n > 1:
        return tuple(range(rank - n, rank)), tuple(range(rank - n))
    return tuple(range(n)), tuple(range(n, rank))


def largest(x: jax.Array, over: tuple[int, ...]) -> jax.Array:
    """float32: the largest magnitude over these axes, which are 1 long in it."""
    return jnp.max(jnp.abs(x.astype(jnp.float32)), axis=over, keepdims=True)


def by_scale(x: jax.Array, scales: jax.Array) -> jax.Array:
    """x / scales in float8, and 0 where a scale is 0."""
    inverse = jnp.where(scales == 0, 0, 1 / jnp.where(scales == 0, 1, scales))
    return _in_float8(x, inverse)


def _in_float8(x: jax.Array, factor: jax.Array) -> jax.Array:
    """x times the factor, with magnitudes of at most MOST."""
    return jnp.clip(x.astype(jnp.float32) * factor, -MOST, MOST).astype(FLOAT8)


def of_weight(x: jax.Array, values: jax.Array, by_token: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """(d_w / scale in the dtype of x, the scale): the sum over tokens of x by_token times values, in float8.

    x is (tokens..., n axes), values (tokens..., any axes) in float8, by_token (tokens...). One scale for all tokens."""
    over, tokens = tuple(range(x.ndim - n, x.ndim)), tuple(range(x.ndim - n))
    by_token = by_token.reshape(*x.shape[:-n], *[1] * n)
    scale = jnp.max(largest(x, over) * by_token) / MOST
    inverse = jnp.where(scale == 0, 0, by_token / jnp.where(scale == 0, 1, scale))
    own = jax.lax.optimization_barrier(_in_float8(x, inverse))
    return product(own, values, (tokens, tokens), x.dtype), scale


def product(x: jax.Array, w: jax.Array, over: tuple[tuple[int, ...], tuple[int, ...]], dtype: Any) -> jax.Array:
    """Rounded numbers, multiplied and summed over these axes of each, in `dtype`. Sums of whole numbers are exact."""
    summed = jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else dtype
    return jax.lax.dot_general(x, w, (over, ((), ())), preferred_element_type=summed).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def times(x: jax.Array, w: RoundedMatrix, n: int) -> jax.Array:
    """`dot` with the derivative of the product without rounding (straight through): that of the input in low precision,
    that of the weight in the compute dtype, or rounded as well."""
    return dot(x, w, n)


def _times_fwd(x: jax.Array, w: RoundedMatrix, n: int) -> Any:
    return dot(x, w, n), (x, w)


def _times_bwd(n: int, saved: Any, d_y: jax.Array) -> Any:
    x, w = saved
    tokens = tuple(range(x.ndim - n))
    d_x, rounded_d_y = of_input(d_y, w, n)
    if isinstance(w, RoundedThroughout):
        d_w, scale = of_weight(x, *rounded_d_y, n)
        d_w = (d_w * (scale / w.scales)).astype(x.dtype)
    else:
        d_w = jnp.tensordot(x, d_y, (tokens, tokens))
    return d_x, gradient(w, d_w)


times.defvjp(_times_fwd, _times_bwd)


def gradient(w: Any, d_w: jax.Array) -> Any:
    """The gradient of a matrix as `with_rounded` gives it, from that of its weight."""
    if not isinstance(w, RoundedMatrix):
        return d_w
    whole = jnp.issubdtype(w.values.dtype, jnp.integer)
    none: Any = np.zeros(w.values.shape, jax.dtypes.float0) if whole else jnp.zeros_like(w.values)
    return type(w)(d_w, none, jnp.zeros_like(w.scales))
