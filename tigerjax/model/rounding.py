"""int8 matrices that are rounded for the inputs that they get: those of a text.

Rounding each weight to nearest makes all inputs alike wrong. Here the weights of one input are rounded after the other,
and the weights of the inputs that come later make up for the error as far as the inputs go together in the text (GPTQ;
Frantar et al. 2022, arXiv 2210.17323, algorithm 1). What comes out is held as before, int8 and one scale for each
output, so a model computes with it as fast.
"""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.model import attention
from tigerjax.model import rope as rotary
from tigerjax.model.decoder import Block
from tigerjax.model.layers import RMSNorm, Weights
from tigerjax.model.quantised import MATRICES, Quantised, held_sharding, read_all, rounded
from tigerjax.model.weights import get, leaves, nested

INPUT_OF = {"q": "q", "k": "q", "v": "q", "o": "o", "gate": "gate", "up": "gate", "down": "down"}
"""Matrices of the same input, by the name of the first of them."""
DAMPING = 0.01
"""Added to the mean square of every input, as a share of the mean over them: GPTQ's own [section 3.3]."""
BLOCK = 64
"""Inputs that are rounded before the error reaches the ones behind them. Any number gives the same weights."""
BATCH = 8
"""Rows that are read at a time."""


def rounded_for(
    weights: Weights, config: ModelConfig, compute: ComputeConfig, rows_BT: np.ndarray, mesh: Mesh | None
) -> Weights:
    """A tree of weights with the matrices of its layers in int8, rounded for the text of `rows_BT`, which are full.

    Layers are read one after the other, each with its weights as they were; so a layer's matrices in float32 are all
    that is held beside the model."""
    compute = attention.fitting(compute, rows_BT.shape[1])
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        batches = [jnp.asarray(rows_BT[at : at + BATCH]) for at in range(0, len(rows_BT), BATCH)]
        embed = jax.jit(lambda embed_VD, ids_BT: embed_VD[ids_BT].astype(compute.dtype))
        flows = [embed(weights["embed"], ids_BT) for ids_BT in batches]
        made: dict[str, list[Quantised]] = {path: [] for path in MATRICES}
        for at in range(config.num_layers):
            w = jax.tree.map(lambda w_L, at=at: w_L[at], weights["layers"])
            moments: Any = None
            for n, x_BTD in enumerate(flows):
                flows[n], more = _read(w, x_BTD, config=config, compute=compute)
                moments = more if moments is None else jax.tree.map(jnp.add, moments, more)
            for path, own in _rounded_layer(w, moments).items():
                made[path].append(own)

    def whole(path: str) -> Quantised:
        stacked = Quantised(*(np.stack(parts) for parts in zip(*made.pop(path), strict=True)))
        if mesh is None:
            return Quantised(*map(jnp.asarray, stacked))
        cuts = held_sharding(path, get(weights, path).sharding, stacked.shape, "int8")
        return Quantised(*map(jax.device_put, stacked, cuts))

    return nested((path, whole(path) if path in MATRICES else w) for path, w in leaves(weights))


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _read(
    w: Any, x_BTD: jax.Array, *, config: ModelConfig, compute: ComputeConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(what the layer `w` makes of x_BTD; of each input of its matrices, the sums of its products with all others)."""
    ids_BT = jnp.ones(x_BTD.shape[:2], jnp.int32)
    positions_BT = jnp.broadcast_to(jnp.arange(x_BTD.shape[1]), ids_BT.shape)
    positions_BT = rotary.of_tokens(positions_BT, ids_BT, config.rope)

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, jax.Array]:
        out_BTNH = attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=compute, window=config.extras.window)
        return out_BTNH, out_BTNH

    w = read_all(w, compute.dtype)
    w = jax.tree.map(lambda one: one.astype(compute.dtype), w)
    (x_BTD, heads_BTNH), seen = Block(config).apply(
        {"params": w},
        x_BTD,
        positions_BT,
        attend,
        capture_intermediates=lambda module, _: isinstance(module, RMSNorm),
        mutable="intermediates",
    )
    normed = seen["intermediates"]
    (attn_BTD,), (mlp_BTD,) = normed["attn_norm"]["__call__"], normed["mlp_norm"]["__call__"]
    down_BTF = jax.nn.silu(mlp_BTD @ w["mlp"]["gate"]) * (mlp_BTD @ w["mlp"]["up"])

    def moment(x: jax.Array) -> jax.Array:
        of_tokens = x.reshape(x.shape[0] * x.shape[1], -1)
        return jnp.matmul(of_tokens.T, of_tokens, preferred_element_type=jnp.float32)

    return x_BTD, {"q": moment(attn_BTD), "o": moment(heads_BTNH), "gate": moment(mlp_BTD), "down": moment(down_BTF)}


def _rounded_layer(w: Any, moments: dict[str, jax.Array]) -> dict[str, Quantised]:
    """The matrices of one layer in int8, by their paths in the model."""
    found = {}
    for name, moment in moments.items():
        order, factor = _factor(np.asarray(moment, np.float64))
        for path, inputs in MATRICES.items():
            of = path.removeprefix("layers/")
            if INPUT_OF[path.rpartition("/")[2]] != name:
                continue
            own = np.asarray(get(w, of), np.float32)
            flat = own.reshape(len(order), -1)
            scales = np.asarray(rounded(jnp.asarray(flat), (0,), "int8").scales)[0]
            values = nearest(flat, scales, order, factor).reshape(own.shape)
            found[path] = Quantised(values, scales.reshape(*[1] * inputs, *own.shape[inputs:]))
    return found


def _factor(moment_II: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the order in which inputs are rounded, the largest first; the upper factor of the inverse moments in it)."""
    squares_I = moment_II.diagonal()
    order = np.argsort(-squares_I, kind="stable")
    damped = moment_II[np.ix_(order, order)]
    damped[np.diag_indices_from(damped)] += DAMPING * squares_I.mean() or 1.0  # a text that reaches no input
    return order, np.linalg.cholesky(np.linalg.inv(damped)).T


def nearest(w_IO: np.ndarray, scale_O: np.ndarray, order: np.ndarray, factor_II: np.ndarray) -> np.ndarray:
    """The int8 values that, times their scales, make of the inputs of a text nearly what w_IO makes of them. `order`
    and `factor_II` are those of the moments of the inputs."""
    left_IO, factor_II = w_IO[order], factor_II.astype(np.float32)
    values_IO = np.empty(w_IO.shape, np.int8)
    for begin in range(0, len(order), BLOCK):
        end = min(begin + BLOCK, len(order))
        errors = np.empty_like(left_IO[begin:end])
        for i in range(begin, end):
            value_O = np.clip(np.rint(left_IO[i] / scale_O), -128, 127)
            values_IO[order[i]] = value_O
            errors[i - begin] = (left_IO[i] - value_O * scale_O) / factor_II[i, i]
            left_IO[i + 1 : end] -= np.outer(factor_II[i, i + 1 : end], errors[i - begin])
        left_IO[end:] -= factor_II[begin:end, end:].T @ errors
    return values_IO
