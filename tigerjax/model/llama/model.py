"""Llama 2: RMSNorm, rotary grouped-query attention, SwiGLU.

Shape suffixes, here and in every file that touches arrays. A suffix names logical dimensions, never how they
are sharded:

    B batch        T query position   S key position    L layer
    D model        F mlp hidden       V vocab
    N query heads  K kv heads         G = N // K        H head dim
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.model import attention, products, stack

Weights = dict[str, Any]
# (q_BTNH, k_BTKH, v_BTKH) -> (out_BTNH, what the caller wants kept, such as the cache); k is already rotated.
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
Initialiser = Callable[..., jax.Array]

NORMAL = nn.initializers.normal(0.02)


class Activations(NamedTuple):
    """What travels through the stack. `segment_ids_BT` is 0 on padding, 1.. per packed document."""

    x_BTD: jax.Array
    positions_BT: jax.Array
    segment_ids_BT: jax.Array


def weight(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Initialiser = NORMAL
) -> jax.Array:
    """Declares a weight: its name, its shape and its logical axes, in one line."""
    value: Any = module.param(name, nn.with_logical_partitioning(init, axes), shape)
    return value


def zero_padding(init: Initialiser, axis: int, vocab_size: int) -> Initialiser:
    """`init` with the entries past the vocabulary zero; no gradient reaches them, so they stay zero."""

    def padded(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.where(jax.lax.broadcasted_iota(jnp.int32, shape, axis) < vocab_size, init(key, shape, dtype), 0)

    return padded


class RMSNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        scale_D = weight(self, "scale", x_BTD.shape[-1:], ("norm",), nn.initializers.ones)
        # float32: the mean of thousands of squares does not fit bfloat16's 8 bits.
        x32_BTD = x_BTD.astype(jnp.float32)
        rms_BT1 = jnp.sqrt(jnp.mean(x32_BTD**2, axis=-1, keepdims=True) + self.eps)
        return (x32_BTD / rms_BT1).astype(x_BTD.dtype) * scale_D.astype(x_BTD.dtype)


class Attention(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array, attend: Attend) -> tuple[jax.Array, Any]:
        c, dtype = self.config, x_BTD.dtype
        D, N, K, H = c.model_dim, c.num_heads, c.num_kv_heads, c.head_dim
        wq_DNH = weight(self, "q", (D, N, H), ("embed", "heads", "head_dim")).astype(dtype)
        wk_DKH = weight(self, "k", (D, K, H), ("embed", "kv_heads", "head_dim")).astype(dtype)
        wv_DKH = weight(self, "v", (D, K, H), ("embed", "kv_heads", "head_dim")).astype(dtype)
        wo_NHD = weight(self, "o", (N, H, D), ("heads", "head_dim", "embed")).astype(dtype)

        q_BTNH = jnp.einsum("BTD,DNH->BTNH", products.apart(x_BTD), wq_DNH)
        k_BTKH = jnp.einsum("BTD,DKH->BTKH", products.apart(x_BTD), wk_DKH)
        v_BTKH = jnp.einsum("BTD,DKH->BTKH", products.apart(x_BTD), wv_DKH)
        q_BTNH = nn.with_logical_constraint(q_BTNH, ("batch", "length", "act_heads", "head_dim"))
        k_BTKH = nn.with_logical_constraint(k_BTKH, ("batch", "length", "act_kv_heads", "head_dim"))
        v_BTKH = nn.with_logical_constraint(v_BTKH, ("batch", "length", "act_kv_heads", "head_dim"))
        q_BTNH = attention.rope(q_BTNH, positions_BT, base=c.rope_base)
        k_BTKH = attention.rope(k_BTKH, positions_BT, base=c.rope_base)
        out_BTNH, kept = attend(q_BTNH, k_BTKH, v_BTKH)
        return products.out_projection(out_BTNH, wo_NHD), kept


class MLP(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D, F, dtype = self.config.model_dim, self.config.mlp_dim, x_BTD.dtype
        gate_DF = weight(self, "gate", (D, F), ("embed", "mlp")).astype(dtype)
        up_DF = weight(self, "up", (D, F), ("embed", "mlp")).astype(dtype)
        down_FD = weight(self, "down", (F, D), ("mlp", "embed")).astype(dtype)
        gate_BTF = checkpoint_name(products.apart(x_BTD) @ gate_DF, stack.GATE)
        up_BTF = checkpoint_name(products.apart(x_BTD) @ up_DF, stack.UP)
        return products.swiglu_down(gate_BTF, up_BTF, down_FD)


class Block(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array, attend: Attend) -> tuple[jax.Array, Any]:
        eps = self.config.norm_eps
        x_BTD = checkpoint_name(between(x_BTD), stack.BLOCK_IN)
        with jax.named_scope("attention"):
            h_BTD = whole_rows(RMSNorm(eps, name="attn_norm")(x_BTD))
            h_BTD, kept = Attention(self.config, name="attn")(h_BTD, positions_BT, attend)
        x_BTD = checkpoint_name(between(x_BTD + between(h_BTD)), stack.RESIDUAL)
        with jax.named_scope("mlp"):
            h_BTD = whole_rows(RMSNorm(eps, name="mlp_norm")(x_BTD))
            x_BTD += between(MLP(self.config, name="mlp")(h_BTD))
        return between(x_BTD), kept


def between(x_BTD: jax.Array) -> jax.Array:
    """Sharded as between blocks: T over the devices that share a block's heads and mlp (sequence parallelism,
    Korthikanti et al. 2022), so that each of them holds its part of norms and saved activations, not all."""
    return nn.with_logical_constraint(x_BTD, ("batch", "act_length", "act_embed"))


def whole_rows(x_BTD: jax.Array) -> jax.Array:
    """Gathered along T for products with weights that are split over the same devices."""
    return nn.with_logical_constraint(x_BTD, ("batch", "length", "act_embed"))


def trunk(
    module: nn.Module,
    config: ModelConfig,
    compute: ComputeConfig,
    run: stack.Runner,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    segment_ids_BT: jax.Array,
) -> jax.Array:
    """Declares embedding, layers and final norm on `module`; x_BTD after the final norm, in the compute dtype."""
    V, D = config.padded_vocab_size, config.model_dim
    embed_init = zero_padding(NORMAL, 0, config.vocab_size)
    embed_VD = weight(module, "embed", (V, D), ("vocab", "table"), embed_init)
    act = Activations(between(embed_VD[tokens_BT].astype(compute.dtype)), positions_BT, segment_ids_BT)

    block = Block(config, parent=None)
    w_L = module.param("layers", init_stacked, block, config.num_layers)
    # Once, before the layers run: what is gathered, and the gradients that are reduced and stacked, are then of the
    # compute dtype. Each was rounded to it anyway.
    w_L = jax.tree.map(lambda w: w.astype(compute.dtype), w_L)

    def apply(w: Any, act: Activations) -> Activations:
        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, None]:
            return attention.attend(q_BTNH, k_BTKH, v_BTKH, act.segment_ids_BT, compute=compute), None

        x_BTD, _ = block.apply({"params": w}, act.x_BTD, act.positions_BT, attend)
        return act._replace(x_BTD=x_BTD)

    act = run(apply, w_L, act, remat=compute.remat)
    return whole_rows(RMSNorm(config.norm_eps, name="final_norm")(act.x_BTD))


class Llama(nn.Module):
    """Tokens to logits. `run` decides how the layers are run: see stack.py."""

    config: ModelConfig
    compute: ComputeConfig
    run: stack.Runner = stack.scan_layers

    @nn.compact
    def _forward(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Any:
        c = self.config
        x_BTD = trunk(self, c, self.compute, self.run, tokens_BT, positions_BT, segment_ids_BT)
        head_init = zero_padding(NORMAL, 1, c.vocab_size)
        return x_BTD, weight(self, "head", (c.model_dim, c.padded_vocab_size), ("table", "vocab"), head_init)

    def hidden(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
        """x_BTD after the final norm, in the compute dtype; times `head` it gives the logits."""
        return self._forward(tokens_BT, positions_BT, segment_ids_BT)[0]

    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
        """logits_BTV in float32; columns past the vocabulary are -inf."""
        x_BTD, head_DV = self._forward(tokens_BT, positions_BT, segment_ids_BT)
        return logits(x_BTD, head_DV, self.config)


def logits(x_BTD: jax.Array, head_DV: jax.Array, config: ModelConfig) -> jax.Array:
    """logits_BTV = x_BTD head_DV, accumulated in float32, padding columns -inf."""
    # float32 out: the loss subtracts logits near each other, and bfloat16 has 3 digits.
    logits_BTV = jnp.einsum("BTD,DV->BTV", x_BTD, head_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
    return mask_padding(nn.with_logical_constraint(logits_BTV, ("batch", "length", "act_vocab")), config)


def mask_padding(logits: jax.Array, config: ModelConfig) -> jax.Array:
    """`logits` (..., V) with the columns past the vocabulary at -inf: probability 0 and gradient 0."""
    return jnp.where(jnp.arange(config.padded_vocab_size) < config.vocab_size, logits, -jnp.inf)


def init_stacked(key: jax.Array, block: Block, num_layers: int) -> Any:
    """Weights of `num_layers` blocks, stacked: each leaf gains a leading 'layers' axis."""
    x_BTD, positions_BT = jnp.zeros((1, 1, block.config.model_dim)), jnp.zeros((1, 1), jnp.int32)

    def one(key: jax.Array) -> Any:  # attention has no weights of its own, so any function serves
        return block.init(key, x_BTD, positions_BT, lambda q_BTNH, k_BTKH, v_BTKH: (q_BTNH, None))["params"]

    w_L = jax.vmap(one)(jax.random.split(key, num_layers))
    is_box = lambda b: isinstance(b, nn.LogicallyPartitioned)  # noqa: E731
    return jax.tree.map(lambda b: b.add_axis(0, {nn.PARTITION_NAME: "layers"}), w_L, is_leaf=is_box)


def init(model: nn.Module, key: jax.Array) -> Weights:
    """Random float32 weights of a Llama or a Reward, each leaf boxed with its logical axes (nn.unbox removes them)."""
    # One token through the plain runner: no kernel or pipeline asks for its own shapes, and weights do not
    # depend on how they will be used.
    compute = dataclasses.replace(model.compute, attention="reference", remat="none", dtype="float32")
    token_BT = jnp.zeros((1, 1), jnp.int32)
    plain = model.clone(compute=compute, run=stack.scan_layers)
    return plain.init(key, token_BT, token_BT, token_BT + 1)["params"]


def parameter_count(config: ModelConfig) -> int:
    """Weights of a Llama of these sizes, the padding of the vocabulary included."""
    c = config
    attn = 2 * c.model_dim * c.head_dim * (c.num_heads + c.num_kv_heads)
    layer = attn + 3 * c.model_dim * c.mlp_dim + 2 * c.model_dim
    return c.num_layers * layer + 2 * c.padded_vocab_size * c.model_dim + c.model_dim
