"""int8 matrices that are rounded for the inputs that they get: those of a text.

Rounding each weight to nearest makes all inputs alike wrong. Here the weights of one input are rounded after the other,
and the weights of the inputs that come later make up for the error as far as the inputs go together in the text (GPTQ;
Frantar et al. 2022, arXiv 2210.17323, algorithm 1).

A matrix behind others gets inputs that their rounding has changed. So the text goes through the layers twice, with the
weights as they were and with those that are rounded so far. A matrix is first fitted to make of the second what the
model made of the first, and what is fitted is rounded (close to GPTAQ; Li et al. 2025, arXiv 2504.02692, which does
both at once). Matrices that write to the stream of the layers make up for what is wrong there already, too.

What comes out is held as before, int8 and one scale for each output, so a model computes with it as fast.
"""

import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.model import attention
from tigerjax.model import rope as rotary
from tigerjax.model.decoder import Attention, Block
from tigerjax.model.layers import RMSNorm, Weights
from tigerjax.model.quantised import MATRICES, Quantised, held_sharding, read_all, rounded
from tigerjax.model.weights import get, leaves, nested

OF_ONE_INPUT = (("attn/q", "attn/k", "attn/v"), ("attn/o",), ("mlp/gate", "mlp/up"), ("mlp/down",))
"""The matrices of a layer in the order in which it uses them, those of the same input together."""
WRITERS = (1, 3)
"""Those of OF_ONE_INPUT whose products are added to the stream."""
DAMPING = 0.01
"""Added to the mean square of every input, as a share of the mean over them: GPTQ's own [section 3.3]."""
BLOCK = 64
"""Inputs that are rounded before the error reaches the ones behind them. Any number gives the same weights."""
BATCH = 8
"""Rows that are read at a time."""


class Flow(NamedTuple):
    """What a text is in one layer."""

    attn_BTD: jax.Array
    """The normed input of q, k and v."""
    between_BTD: jax.Array
    """The stream after the attention."""
    mlp_BTD: jax.Array
    """The normed input of gate and up."""
    out_BTD: jax.Array
    """The stream after the layer."""


def rounded_for(
    weights: Weights, config: ModelConfig, compute: ComputeConfig, rows_BT: np.ndarray, mesh: Mesh | None
) -> Weights:
    """A tree of weights with the matrices of its layers in int8, rounded for the text of `rows_BT`, which are full.

    Beside the model, one layer's matrices in float32 are held, and what the text is between two layers, twice."""
    compute = dataclasses.replace(attention.fitting(compute, rows_BT.shape[1]), dtype="float32")
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        batches = [jnp.asarray(rows_BT[at : at + BATCH]) for at in range(0, len(rows_BT), BATCH)]
        embed = jax.jit(lambda embed_VD, ids_BT: embed_VD[ids_BT].astype(compute.dtype))
        exact = [embed(weights["embed"], ids_BT) for ids_BT in batches]
        streams = list(exact)
        made: dict[str, list[Quantised]] = {path: [] for path in MATRICES}
        for at in range(config.num_layers):
            w = read_all(jax.tree.map(lambda w_L, at=at: w_L[at], weights["layers"]), compute.dtype)
            w = jax.tree.map(lambda one: one.astype(compute.dtype), w)
            own, exact, streams = _rounded_layer(w, exact, streams, config, compute)
            for path, matrix in own.items():
                made[f"layers/{path}"].append(matrix)

    def whole(path: str) -> Quantised:
        stacked = Quantised(*(np.stack(parts) for parts in zip(*made.pop(path), strict=True)))
        if mesh is None:
            return Quantised(*map(jnp.asarray, stacked))
        cuts = held_sharding(path, get(weights, path).sharding, stacked.shape, "int8")
        return Quantised(*map(jax.device_put, stacked, cuts))

    return nested((path, whole(path) if path in MATRICES else w) for path, w in leaves(weights))


def _rounded_layer(
    w: Any, exact: list[jax.Array], streams: list[jax.Array], config: ModelConfig, compute: ComputeConfig
) -> tuple[dict[str, Quantised], list[jax.Array], list[jax.Array]]:
    """(the matrices of one layer in int8, by their paths in it; the text after the layer `w` as it was, where it came
    as `exact`; the text after the rounded layer, where it came as `streams`)."""
    flows = [_exact(w, x_BTD, config=config, compute=compute) for x_BTD in exact]
    now, made = dict(leaves(w)), {}
    for place, paths in enumerate(OF_ONE_INPUT):
        moment_II: Any = 0.0
        wanted_IO: Any = 0.0
        for flow, x_BTD in zip(flows, streams, strict=True):
            more, of_wanted = _sums(nested(now.items()), flow, x_BTD, place=place, config=config, compute=compute)
            moment_II = moment_II + np.asarray(more, np.float64)
            wanted_IO = wanted_IO + np.asarray(of_wanted, np.float64)
        for path in paths:
            w_IO = np.asarray(now[path], np.float64).reshape(len(moment_II), -1)
            values_IO, scale_O = fitted(w_IO, moment_II, wanted_IO if place in WRITERS else wanted_IO @ w_IO)
            shape, inputs = now[path].shape, MATRICES[f"layers/{path}"]
            made[path] = Quantised(values_IO.reshape(shape), scale_O.reshape(*[1] * inputs, *shape[inputs:]))
            now[path] = jnp.asarray(made[path].values * made[path].scales)
    w = nested(now.items())
    return made, [f.out_BTD for f in flows], [_after(w, x_BTD, config=config, compute=compute) for x_BTD in streams]


def _seen(w: Any, x_BTD: jax.Array, config: ModelConfig, compute: ComputeConfig) -> tuple[Flow, jax.Array, jax.Array]:
    """(x_BTD in the layer `w`; the inputs of o and of down)."""
    ids_BT = jnp.ones(x_BTD.shape[:2], jnp.int32)
    positions_BT = jnp.broadcast_to(jnp.arange(x_BTD.shape[1]), ids_BT.shape)
    positions_BT = rotary.of_tokens(positions_BT, ids_BT, config.rope)

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, jax.Array]:
        out_BTNH = attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=compute, window=config.extras.window)
        return out_BTNH, out_BTNH

    (out_BTD, heads_BTNH), seen = Block(config).apply(
        {"params": w},
        x_BTD,
        positions_BT,
        attend,
        capture_intermediates=lambda module, _: isinstance(module, RMSNorm | Attention),
        mutable="intermediates",
    )
    kept = {name: seen["intermediates"][name]["__call__"][0] for name in ("attn_norm", "attn", "mlp_norm")}
    mlp_BTD = kept["mlp_norm"]
    down_BTF = jax.nn.silu(mlp_BTD @ w["mlp"]["gate"]) * (mlp_BTD @ w["mlp"]["up"])
    return Flow(kept["attn_norm"], x_BTD + kept["attn"][0], mlp_BTD, out_BTD), heads_BTNH, down_BTF


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _exact(w: Any, x_BTD: jax.Array, *, config: ModelConfig, compute: ComputeConfig) -> Flow:
    return _seen(w, x_BTD, config, compute)[0]


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _after(w: Any, x_BTD: jax.Array, *, config: ModelConfig, compute: ComputeConfig) -> jax.Array:
    return _seen(w, x_BTD, config, compute)[0].out_BTD


@functools.partial(jax.jit, static_argnames=("place", "config", "compute"))
def _sums(
    w: Any, exact: Flow, x_BTD: jax.Array, *, place: int, config: ModelConfig, compute: ComputeConfig
) -> tuple[jax.Array, jax.Array]:
    """(sums over the tokens of the products of the inputs of OF_ONE_INPUT[place] with each other, and with what they
    should be; of WRITERS, with what the matrix should make of them).

    An error of the stream counts by its share of the stream, since a norm is what reads it."""
    flow, heads_BTNH, down_BTF = _seen(w, x_BTD, config, compute)
    inputs = (flow.attn_BTD, heads_BTNH, flow.mlp_BTD, down_BTF)[place]
    wanted = (exact.attn_BTD, exact.between_BTD - x_BTD, exact.mlp_BTD, exact.out_BTD - flow.between_BTD)[place]
    tokens = x_BTD.shape[0] * x_BTD.shape[1]
    flat = inputs.reshape(tokens, -1)
    weighted = flat
    if place in WRITERS:
        weighted = flat / jnp.square(exact.out_BTD).mean(-1).reshape(tokens, 1)
    return weighted.T @ flat, weighted.T @ wanted.reshape(tokens, -1)


def fitted(w_IO: np.ndarray, moment_II: np.ndarray, products_IO: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The int8 values and the scale of each output that make nearly of the inputs, whose moments are given, what is
    wanted of them, by its products with the inputs. What the inputs do not decide stays as in w_IO."""
    squares_I = moment_II.diagonal()
    damping = DAMPING * squares_I.mean() or 1.0  # a text that reaches no input
    damped_II = moment_II + damping * np.eye(len(moment_II))
    best_IO = np.linalg.solve(damped_II, products_IO + damping * w_IO).astype(np.float32)
    scale_O = np.asarray(rounded(jnp.asarray(best_IO), (0,), "int8").scales)[0]
    order = np.argsort(-squares_I, kind="stable")
    factor_II = np.linalg.cholesky(np.linalg.inv(damped_II[np.ix_(order, order)])).T
    return nearest(best_IO, scale_O, order, factor_II), scale_O


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
