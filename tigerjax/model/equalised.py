"""Layers whose matrices have inputs of about equal size: the same function, but whole numbers lose less of it.

A scale for each output serves all inputs of a matrix. It is as coarse as the largest of them needs, and an input whose
weights are small loses most of its digits, though what it is multiplied with may be large. Where something is only
multiplied by a number on its way to a matrix, a factor can move from the matrix to it:

    scale of a norm    ->  q, k and v, or gate and up
    output of v        ->  the inputs of o that its heads give
    output of up       ->  the input of down

So each input is divided by the size of its weights, and what comes before it is multiplied by that. This is the
cross-layer equalisation of Nagel et al. 2019 (arXiv:1906.04721), of inputs alone: outputs have scales of their own.
"""

from typing import Any

import jax
import jax.numpy as jnp

ROUNDS = 4
"""Outputs and inputs are brought to equal size in turns, so often."""


def equalised(weights: Any) -> Any:
    """The weights of a language model with equalised layers, in float32 where they change."""
    layers = dict(weights["layers"])
    attn, mlp = (_in_float32(layers[part]) for part in ("attn", "mlp"))
    L, N, H, D = attn["o"].shape
    K = attn["v"].shape[2]
    o_LIOO = attn["o"].reshape(L, K, N // K, H, D).transpose(0, 1, 3, 2, 4)  # the heads that share an output of v
    size_LKH = _sizes(o_LIOO.reshape(L, K * H, -1)).reshape(L, K, H)
    attn["o"] = attn["o"] / jnp.repeat(size_LKH, N // K, axis=1)[..., None]
    attn["v"] = attn["v"] * size_LKH[:, None]
    if "v_bias" in attn:
        attn["v_bias"] = attn["v_bias"] * size_LKH
    size_LF = _sizes(mlp["down"])
    mlp["down"], mlp["up"] = mlp["down"] / size_LF[..., None], mlp["up"] * size_LF[:, None]
    for norm, part, names in (("attn_norm", attn, "qkv"), ("mlp_norm", mlp, ("gate", "up"))):
        size_LD = _sizes(jnp.concatenate([part[name].reshape(L, D, -1) for name in names], axis=-1))
        for name in names:
            part[name] = part[name] / size_LD.reshape(L, D, *[1] * (part[name].ndim - 2))
        layers[norm] = {"scale": jnp.asarray(layers[norm]["scale"], jnp.float32) * size_LD}
    return {**weights, "layers": layers | {"attn": attn, "mlp": mlp}}


def _in_float32(part: Any) -> dict[str, Any]:
    """Its own weights; what it holds of others, such as the norms of queries and keys, stays as it is."""
    return {name: w if isinstance(w, dict) else jnp.asarray(w, jnp.float32) for name, w in part.items()}


def _sizes(w_LIO: jax.Array) -> jax.Array:
    """size_LI: the root mean square of each input's weights, where those of each output have one size. 1 for zeros."""
    size_LI1 = jnp.ones((*w_LIO.shape[:2], 1))
    for _ in range(ROUNDS):
        of_output_L1O = _root_mean_square(w_LIO / size_LI1, 1)
        size_LI1 = _root_mean_square(w_LIO / of_output_L1O, 2)
    return size_LI1[..., 0]


def _root_mean_square(w: jax.Array, axis: int) -> jax.Array:
    size = jnp.sqrt(jnp.mean(w**2, axis=axis, keepdims=True))
    return jnp.where(size == 0, 1.0, size)
