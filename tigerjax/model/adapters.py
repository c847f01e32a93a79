"""Low-rank adapters of the matrices of a layer: declared and applied while training, merged where a model is read.

An adapter adds scale x A B to the product x W, and leaves W as it is (LoRA; Hu et al. 2021, arXiv 2106.09685, equation
3). A has the input axes of W and a last axis of `rank`; B has a first axis of `rank` and the output axes of W. A begins
as PEFT's does, uniform within 1 / sqrt(inputs) on both sides of 0, and B as zeros.

The product is added to the activation and never to W: in bfloat16, W + scale x A B would round small updates away.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from tigerjax.config import LoraConfig
from tigerjax.model import products, weights
from tigerjax.model.layers import weight

A, B = "_lora_a", "_lora_b"
"""Ends of the names of an adapter's two weights, which stand beside their matrix."""


def add_product(
    module: nn.Module, name: str, y: jax.Array, x: jax.Array, shape: tuple[int, ...], axes: tuple[str, ...]
) -> jax.Array:
    """y + scale x A B where the module's `lora` has an adapter for the matrix `name`, else y itself: Hu et al. 2021
    (arXiv 2106.09685), equation 3; the scale is that of `LoraConfig.scale`.

    `y` is x times the matrix, whose `shape` and logical `axes` are given: the adapter is cut over the mesh alike."""
    fields: Any = module
    lora: LoraConfig = fields.lora
    if not lora.adapts(name):
        return y
    n = weights.MATRIX_INPUTS[name]
    a = weight(module, name + A, (*shape[:n], lora.rank), (*axes[:n], "rank"), _uniform)
    b = weight(module, name + B, (lora.rank, *shape[n:]), ("rank", *axes[n:]), nn.initializers.zeros)
    a, b = (_gathered(w.astype(x.dtype), of) for w, of in ((a, (*axes[:n], "rank")), (b, ("rank", *axes[n:]))))
    low_BTR = jnp.tensordot(products.apart(x), a, n)
    low_BTR = nn.with_logical_constraint(low_BTR, ("batch", "length", "rank"))
    return y + lora.scale * jnp.tensordot(low_BTR, b, 1)


def _gathered(w: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """A weight whole along D, as a product reads it."""
    # Said, because XLA:CPU would read D over the devices of other axes, and move the weight to them by a permutation in
    # which all devices take part. In a pipeline those of an idle stage never come.
    return nn.with_logical_constraint(w, tuple(None if axis == "embed" else axis for axis in axes))


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def paths(lora: LoraConfig) -> list[str]:
    """The paths of all weights of the adapters."""
    return [weights.MATRIX_PATHS[name] + end for name in lora.targets for end in (A, B)] if lora.rank else []


def delta(a: Any, b: Any, scale: float, inputs: int) -> np.ndarray:
    """scale x A B of stacked layers or parts of them, in float32: a is (L, inputs..., R), b is (L, R, outputs...). It
    is the change of the weight in Hu et al. 2021 (arXiv 2106.09685), equation 3."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    L, rank = b.shape[:2]
    product = np.float32(scale) * (a.reshape(L, -1, rank) @ b.reshape(L, rank, -1))
    return product.reshape(*a.shape[: 1 + inputs], *b.shape[2:])


def without(tree: Any, lora: LoraConfig) -> dict[str, Any]:
    """A tree of weights, or of what belongs to each, without the adapters."""
    own = set(paths(lora))
    return weights.nested((path, leaf) for path, leaf in weights.leaves(tree) if path not in own)


def merged(tree: Any, lora: LoraConfig) -> dict[str, Any]:
    """A tree of arrays on devices with each adapter added to its matrix, W + scale x A B, and taken out of the tree: Hu
    et al. 2021 (arXiv 2106.09685), section 4.1.

    It is computed in float32 and given in the type of the matrix."""
    out = without(tree, lora)
    for name in lora.targets if lora.rank else ():
        w, a, b = (weights.get(tree, weights.MATRIX_PATHS[name] + end) for end in ("", A, B))
        added = jax.vmap(lambda a, b: lora.scale * jnp.tensordot(a, b, 1))(a, b)
        weights.put(out, weights.MATRIX_PATHS[name], (w.astype(jnp.float32) + added).astype(w.dtype))
    return out
