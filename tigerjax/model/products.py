"""Matrix products of a block with a backward pass of their own, so that XLA:TPU runs them as plain products.

Left alone, XLA fuses elementwise work into the products around it, once for every product that reads the result. Then
silu was computed five times per layer, and a product with much fused work ran at two thirds of its speed. The maths
here is JAX's own derivative; `optimization_barrier` only says where one kernel ends. docs/TPU.md has the figures.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tigerjax.model import low_precision, ring
from tigerjax.model.low_precision import RoundedMatrix, RoundedThroughout
from tigerjax.model.ring import SharedMatrix

Matrix = jax.Array | RoundedMatrix | SharedMatrix
"""A matrix of a layer, whose input axes come first."""


def to_heads(x_BTD: jax.Array, w_DNH: Matrix) -> jax.Array:
    """x_BTNH: activations times the matrix of queries, keys or values."""
    if isinstance(w_DNH, RoundedMatrix):
        return low_precision.times(x_BTD, w_DNH, 1)
    if isinstance(w_DNH, SharedMatrix):
        return ring.times(x_BTD, w_DNH)
    return jnp.einsum("BTD,DNH->BTNH", x_BTD, w_DNH)


def to_hidden(x_BTD: jax.Array, w_DF: Matrix) -> jax.Array:
    """x_BTF: activations times the matrix of the MLP's gate, or of its other branch."""
    if isinstance(w_DF, SharedMatrix):
        return ring.times(x_BTD, w_DF)
    return low_precision.times(x_BTD, w_DF, 1) if isinstance(w_DF, RoundedMatrix) else x_BTD @ w_DF


@jax.custom_vjp
def apart(x: jax.Array) -> jax.Array:
    """The identity. In the backward pass its gradient is finished before anything that reads it begins."""
    return x


apart.defvjp(lambda x: (x, None), lambda _, d_x: (jax.lax.optimization_barrier(d_x),))


@jax.custom_vjp
def out_projection(out_BTNH: jax.Array, wo_NHD: Matrix) -> jax.Array:
    """x_BTD: the heads' outputs, projected back to the width of the model."""
    if isinstance(wo_NHD, RoundedMatrix):
        return low_precision.dot(out_BTNH, wo_NHD, 2)
    return jnp.einsum("BTNH,NHD->BTD", out_BTNH, ring.whole(wo_NHD))


def _out_projection_fwd(out_BTNH: jax.Array, wo_NHD: Matrix) -> Any:
    return out_projection(out_BTNH, wo_NHD), (out_BTNH, wo_NHD)


def _out_projection_bwd(saved: Any, d_x_BTD: jax.Array) -> Any:
    """The weight's gradient is computed with D first, because its reduce-scatter splits D. With N first, XLA copied the
    gradient twice on the way, or reduced all of it on every chip."""
    out_BTNH, wo_NHD = saved
    if isinstance(wo_NHD, RoundedMatrix):
        d_out_BTNH, rounded_d_x = low_precision.of_input(d_x_BTD, wo_NHD, 2)
    else:
        d_out_BTNH = jnp.einsum("BTD,NHD->BTNH", d_x_BTD, ring.whole(wo_NHD))
    d_out_BTNH = jax.lax.optimization_barrier(d_out_BTNH)
    if isinstance(wo_NHD, SharedMatrix):
        return d_out_BTNH, ring.gradient(d_x_BTD, out_BTNH, d_last=True)
    if isinstance(wo_NHD, RoundedThroughout):
        d_wo_NHD, scale = low_precision.of_weight(out_BTNH, *rounded_d_x, 2)
        d_wo_NHD = (d_wo_NHD * (scale / wo_NHD.scales)).astype(out_BTNH.dtype)
        return d_out_BTNH, low_precision.gradient(wo_NHD, d_wo_NHD)
    d_wo_DNH = jnp.einsum("BTD,BTNH->DNH", d_x_BTD, out_BTNH)
    return d_out_BTNH, low_precision.gradient(wo_NHD, d_wo_DNH.transpose(1, 2, 0))


out_projection.defvjp(_out_projection_fwd, _out_projection_bwd)


@jax.custom_vjp
def swiglu_down(gate_BTF: jax.Array, up_BTF: jax.Array, down_FD: Matrix) -> jax.Array:
    """out_BTD = (silu(gate) * up) @ down."""
    hidden_BTF = jax.nn.silu(gate_BTF) * up_BTF
    if isinstance(down_FD, RoundedMatrix):
        return low_precision.dot(hidden_BTF, down_FD, 1)
    return hidden_BTF @ ring.whole(down_FD)


def _swiglu_down_fwd(gate_BTF: jax.Array, up_BTF: jax.Array, down_FD: Matrix) -> Any:
    most_BT1 = None
    if isinstance(down_FD, RoundedThroughout):
        most_BT1 = low_precision.largest(jax.nn.silu(gate_BTF) * up_BTF, (2,))
    return swiglu_down(gate_BTF, up_BTF, down_FD), (gate_BTF, up_BTF, down_FD, most_BT1)


def _swiglu_down_bwd(saved: Any, d_out_BTD: jax.Array) -> Any:
    """JAX's own derivative, with the elementwise part computed once. Otherwise XLA computes silu again inside each of
    the five products that read its result."""
    gate_BTF, up_BTF, down_FD, most_BT1 = saved
    if isinstance(down_FD, RoundedMatrix):
        d_hidden_BTF, _ = low_precision.of_input(d_out_BTD, down_FD, 1)
    else:
        d_hidden_BTF = jnp.einsum("BTD,FD->BTF", d_out_BTD, ring.whole(down_FD))
    # Not of gate and up: where they were saved, what reads them here also takes them out of the stack of all layers.
    d_hidden_BTF = jax.lax.optimization_barrier(d_hidden_BTF)
    hidden_BTF, pullback = jax.vjp(lambda g, u: jax.nn.silu(g) * u, gate_BTF, up_BTF)
    if isinstance(down_FD, RoundedThroughout):
        # No barrier after the derivatives: what reads them rounds them to one byte, and XLA does both at once.
        d_gate_BTF, d_up_BTF = pullback(d_hidden_BTF)
        scales_BT1 = most_BT1 / low_precision.MOST
        values_BTF = jax.lax.optimization_barrier(low_precision.by_scale(hidden_BTF, scales_BT1))
        d_down_DF, scale = low_precision.of_weight(d_out_BTD, values_BTF, scales_BT1, 1)
        d_down_FD = (d_down_DF * scale).astype(d_out_BTD.dtype).T
        return d_gate_BTF, d_up_BTF, low_precision.gradient(down_FD, d_down_FD)
    hidden_BTF, (d_gate_BTF, d_up_BTF) = jax.lax.optimization_barrier((hidden_BTF, pullback(d_hidden_BTF)))
    if isinstance(down_FD, SharedMatrix):
        return d_gate_BTF, d_up_BTF, ring.gradient(d_out_BTD, hidden_BTF, d_last=True)
    d_down_FD = jnp.einsum("BTF,BTD->FD", hidden_BTF, d_out_BTD)
    return d_gate_BTF, d_up_BTF, low_precision.gradient(down_FD, d_down_FD)


swiglu_down.defvjp(_swiglu_down_fwd, _swiglu_down_bwd)
