"""What the layers of every family are made of: declared weights, the norm, logits, sharding between blocks.

The letters at the end of array names are explained in `tigerjax.model.decoder`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tigerjax.config import ModelConfig
from tigerjax.model import low_precision, ring, stack

Weights = dict[str, Any]
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
"""(q_BTNH, k_BTKH, v_BTKH) -> (out_BTNH, whatever the caller collects of each layer, such as its cache). q and k come
rotated."""
Initialiser = Callable[..., jax.Array]

NORMAL = nn.initializers.normal(0.02)


class Activations(NamedTuple):
    """What goes from layer to layer. `segment_ids_BT` is 0 on padding and counts packed documents from 1."""

    x_BTD: jax.Array
    positions_BT: jax.Array
    segment_ids_BT: jax.Array


def weight(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Initialiser = NORMAL
) -> jax.Array:
    """Declares a weight by its name, shape and logical axes, and returns it as it is stored."""
    value: Any = module.param(name, nn.with_logical_partitioning(init, axes), shape)
    return value


def matrix(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], dtype: Any) -> Any:
    """Declares a weight that is multiplied with activations, and returns it in their dtype, or with its rounded values
    or its device's share where training has such."""
    found: Any = module.get_variable(low_precision.COLLECTION, name)
    share: Any = module.get_variable(ring.COLLECTION, name)
    w = weight(module, name, shape, axes).astype(dtype)
    return ring.with_share(w, share) if found is None else low_precision.with_rounded(w, found)


def bias(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], dtype: Any) -> jax.Array:
    """Declares a weight that is added to activations, and returns it in their dtype. Its name ends in `_bias`, by which
    the optimiser knows that it does not decay."""
    return weight(module, name, shape, axes, nn.initializers.zeros).astype(dtype)


def zero_padding(init: Initialiser, axis: int, vocab_size: int) -> Initialiser:
    """`init`, with the entries past the vocabulary zero. No gradient reaches them, so they stay zero."""

    def padded(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.where(jax.lax.broadcasted_iota(jnp.int32, shape, axis) < vocab_size, init(key, shape, dtype), 0)

    return padded


class RMSNorm(nn.Module):
    """Of the last axis: a token's features, or those of each of its heads."""

    eps: float

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        scale_D = weight(self, "scale", x_BTD.shape[-1:], ("norm",), nn.initializers.ones)
        # float32: the mean of thousands of squares does not fit bfloat16's 8 bits.
        x32_BTD = x_BTD.astype(jnp.float32)
        rms_BT1 = jnp.sqrt(jnp.mean(x32_BTD**2, axis=-1, keepdims=True) + self.eps)
        return (x32_BTD / rms_BT1).astype(x_BTD.dtype) * scale_D.astype(x_BTD.dtype)


def between(x_BTD: jax.Array) -> jax.Array:
    """x_BTD sharded as it is between blocks: T is split over the devices that share a block's heads and mlp (sequence
    parallelism, Korthikanti et al. 2022). So each of them holds only its part of norms and saved activations."""
    return nn.with_logical_constraint(x_BTD, ("batch", "act_length", "act_embed"))


def whole_rows(x_BTD: jax.Array) -> jax.Array:
    """x_BTD gathered along T, for products with weights that are split over the same devices."""
    return nn.with_logical_constraint(x_BTD, ("batch", "length", "act_embed"))


def head(weights: Weights, config: ModelConfig) -> jax.Array:
    """head_DV of a language model: a weight of its own, or its embedding where that serves as both."""
    head_DV: jax.Array = weights["embed"].T if config.tied else weights["head"]
    return head_DV


def logits(x_BTD: jax.Array, head_DV: jax.Array, config: ModelConfig) -> jax.Array:
    """logits_BTV = x_BTD head_DV, accumulated in float32, padding columns -inf."""
    # float32 out: the loss subtracts logits near each other, and bfloat16 has 3 digits.
    logits_BTV = jnp.einsum("BTD,DV->BTV", x_BTD, head_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
    return mask_padding(nn.with_logical_constraint(logits_BTV, ("batch", "length", "act_vocab")), config)


def mask_padding(logits: jax.Array, config: ModelConfig) -> jax.Array:
    """`logits` (..., V) with the columns past the vocabulary at -inf: probability 0 and gradient 0."""
    return jnp.where(jnp.arange(config.padded_vocab_size) < config.vocab_size, logits, -jnp.inf)


def init_stacked(key: jax.Array, block: Any, num_layers: int) -> Any:
    """Weights of `num_layers` blocks, stacked: each leaf gains a leading 'layers' axis. `block` is a module with a
    `config` that is called with (x_BTD, positions_BT, attend)."""
    x_BTD, positions_BT = jnp.zeros((1, 1, block.config.model_dim)), jnp.zeros((1, 1), jnp.int32)

    def one(key: jax.Array) -> Any:  # attention has no weights of its own, so any function serves
        return block.init(key, x_BTD, positions_BT, lambda q_BTNH, k_BTKH, v_BTKH: (q_BTNH, None))["params"]

    w_L = jax.vmap(one)(jax.random.split(key, num_layers))
    return jax.tree.map(
        lambda b: b.add_axis(0, {nn.PARTITION_NAME: "layers"}),
        w_L,
        is_leaf=lambda b: isinstance(b, nn.LogicallyPartitioned),
    )


def init(model: nn.Module, key: jax.Array) -> Weights:
    """Random float32 weights of a language or reward model, each leaf boxed with its logical axes (nn.unbox takes the
    boxes off). `model` is a module with the fields config, compute and run."""
    # One token through the plain runner. A kernel or a pipeline would ask for shapes of its own, and weights must not
    # depend on how they will be used.
    module: Any = model
    compute = dataclasses.replace(module.compute, attention="reference", remat="none", dtype="float32", reduce="auto")
    token_BT = jnp.zeros((1, 1), jnp.int32)
    plain = module.clone(compute=compute, run=stack.scan_layers)
    return plain.init(key, token_BT, token_BT, token_BT + 1)["params"]
