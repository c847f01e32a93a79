"""The decoder of every family: RMSNorm, rotary grouped-query attention, SwiGLU. What a family's attention has beyond
that, its config says (`ModelConfig.extras`).

Shape suffixes, here and in every file that touches arrays. A suffix names logical dimensions and never how they are
sharded:

    B batch        T query position   S key position    L layer
    D model        F mlp hidden       V vocab
    N query heads  K kv heads         G = N // K        H head dim
    R rank of an adapter
"""

import functools
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from tigerjax.config import ComputeConfig, LoraConfig, ModelConfig
from tigerjax.mesh import embed_ways
from tigerjax.model import attention, copies, low_precision, products, ring, stack
from tigerjax.model import rope as rotary
from tigerjax.model.adapters import add_product
from tigerjax.model.layers import (
    NORMAL,
    Activations,
    Attend,
    RMSNorm,
    between,
    bias,
    init_stacked,
    logits,
    matrix,
    weight,
    whole_rows,
    zero_padding,
)
from tigerjax.model.quantised import is_quantised, read_all


class Attention(nn.Module):
    config: ModelConfig
    lora: LoraConfig = LoraConfig()

    @nn.compact
    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array, attend: Attend) -> tuple[jax.Array, Any]:
        c, dtype = self.config, x_BTD.dtype
        D, N, K, H = c.model_dim, c.num_heads, c.num_kv_heads, c.head_dim
        heads, kv_heads = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
        joined = ("heads", "head_dim", "embed")
        wq_DNH = matrix(self, "q", (D, N, H), heads, dtype)
        wk_DKH = matrix(self, "k", (D, K, H), kv_heads, dtype)
        wv_DKH = matrix(self, "v", (D, K, H), kv_heads, dtype)
        wo_NHD = matrix(self, "o", (N, H, D), joined, dtype)

        q_BTNH = products.to_heads(products.apart(x_BTD), wq_DNH)
        k_BTKH = products.to_heads(products.apart(x_BTD), wk_DKH)
        v_BTKH = products.to_heads(products.apart(x_BTD), wv_DKH)
        q_BTNH = add_product(self, "q", q_BTNH, x_BTD, (D, N, H), heads)
        k_BTKH = add_product(self, "k", k_BTKH, x_BTD, (D, K, H), kv_heads)
        v_BTKH = add_product(self, "v", v_BTKH, x_BTD, (D, K, H), kv_heads)
        if c.extras.qkv_bias:
            q_BTNH += bias(self, "q_bias", (N, H), ("heads", "head_dim"), dtype)
            k_BTKH += bias(self, "k_bias", (K, H), ("kv_heads", "head_dim"), dtype)
            v_BTKH += bias(self, "v_bias", (K, H), ("kv_heads", "head_dim"), dtype)
        if c.extras.qk_norm:
            q_BTNH = RMSNorm(c.norm_eps, name="q_norm")(q_BTNH)
            k_BTKH = RMSNorm(c.norm_eps, name="k_norm")(k_BTKH)
        q_BTNH = nn.with_logical_constraint(q_BTNH, ("batch", "length", "act_heads", "head_dim"))
        k_BTKH = nn.with_logical_constraint(k_BTKH, ("batch", "length", "act_kv_heads", "head_dim"))
        v_BTKH = nn.with_logical_constraint(v_BTKH, ("batch", "length", "act_kv_heads", "head_dim"))
        q_BTNH = rotary.rope(q_BTNH, positions_BT, base=c.rope_base, scaling=c.rope)
        k_BTKH = rotary.rope(k_BTKH, positions_BT, base=c.rope_base, scaling=c.rope)
        out_BTNH, collected = attend(q_BTNH, k_BTKH, v_BTKH)
        x_BTD = products.out_projection(out_BTNH, wo_NHD)
        x_BTD = add_product(self, "o", x_BTD, out_BTNH, (N, H, D), joined)
        if c.extras.o_bias:
            x_BTD += bias(self, "o_bias", (D,), ("norm",), dtype)
        return x_BTD, collected


class MLP(nn.Module):
    config: ModelConfig
    lora: LoraConfig = LoraConfig()

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D, F, dtype = self.config.model_dim, self.config.mlp_dim, x_BTD.dtype
        wide, narrow = ("embed", "mlp"), ("mlp", "embed")
        gate_DF = matrix(self, "gate", (D, F), wide, dtype)
        up_DF = matrix(self, "up", (D, F), wide, dtype)
        down_FD = matrix(self, "down", (F, D), narrow, dtype)
        gate_BTF = products.to_hidden(products.apart(x_BTD), gate_DF)
        up_BTF = products.to_hidden(products.apart(x_BTD), up_DF)
        gate_BTF = add_product(self, "gate", gate_BTF, x_BTD, (D, F), wide)
        up_BTF = add_product(self, "up", up_BTF, x_BTD, (D, F), wide)
        gate_BTF, up_BTF = checkpoint_name(gate_BTF, stack.GATE), checkpoint_name(up_BTF, stack.UP)
        x_BTD = products.swiglu_down(gate_BTF, up_BTF, down_FD)
        if self.lora.adapts("down"):
            x_BTD = add_product(self, "down", x_BTD, jax.nn.silu(gate_BTF) * up_BTF, (F, D), narrow)
        return x_BTD


class Block(nn.Module):
    config: ModelConfig
    lora: LoraConfig = LoraConfig()

    @nn.compact
    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array, attend: Attend) -> tuple[jax.Array, Any]:
        eps = self.config.norm_eps
        x_BTD = checkpoint_name(between(x_BTD), stack.BLOCK_IN)
        with jax.named_scope("attention"):
            h_BTD = whole_rows(RMSNorm(eps, name="attn_norm")(x_BTD))
            h_BTD, collected = Attention(self.config, self.lora, name="attn")(h_BTD, positions_BT, attend)
        x_BTD = checkpoint_name(between(x_BTD + between(h_BTD)), stack.RESIDUAL)
        with jax.named_scope("mlp"):
            h_BTD = whole_rows(RMSNorm(eps, name="mlp_norm")(x_BTD))
            x_BTD += between(MLP(self.config, self.lora, name="mlp")(h_BTD))
        return between(x_BTD), collected


def trunk(
    module: nn.Module, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(x_BTD after the final norm, in the compute dtype; the embedding's weight embed_VD). Declares embedding, layers
    and final norm on `module`, whose fields are those of `LanguageModel`."""
    fields: Any = module
    config, compute, run = fields.config, fields.compute, fields.run
    V, D = config.padded_vocab_size, config.model_dim
    embed_init = zero_padding(NORMAL, 0, config.vocab_size)
    embed_VD = weight(module, "embed", (V, D), ("vocab", "table"), embed_init)
    positions_BT = rotary.of_tokens(positions_BT, segment_ids_BT, config.rope)
    act = Activations(between(embed_VD[tokens_BT].astype(compute.dtype)), positions_BT, segment_ids_BT)

    block = Block(config, fields.lora, parent=None)
    w_L = _layers(module, block, config.num_layers)
    copies.start_run(w_L)
    # Cast once, before the layers run. Then the weights that devices gather and the gradients that they reduce are of
    # the compute dtype, and move half the bytes. A layer would round each weight to it anyway. Whole numbers are read
    # in the layer, so that no stack of them exists in the compute dtype.
    rounded_L = low_precision.of_layers(copies.plain(w_L), compute.quantise)
    w_L = jax.tree.map(lambda w: w if is_quantised(w) else w.astype(compute.dtype), w_L, is_leaf=_is_read_in_layer)

    shared = compute.reduce == "ring" and embed_ways() > 1
    if shared:
        w_L = copies.read_layer(w_L)
        run = ring.over_shares(run, _axes(block, config.num_layers))
    attend_all = functools.partial(attention.attend, compute=compute, window=config.extras.window)

    def apply(w: Any, act: Activations) -> Activations:
        def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, None]:
            return attend_all(q_BTNH, k_BTKH, v_BTKH, act.segment_ids_BT), None

        weights, found = w
        collection = ring.COLLECTION if shared else low_precision.COLLECTION
        given = {"params": copies.read_layer(read_all(weights, compute.dtype)), collection: found}
        x_BTD, _ = block.apply(given, act.x_BTD, act.positions_BT, attend)
        return act._replace(x_BTD=x_BTD)

    act = run(apply, w_L if shared else (w_L, rounded_L), act, remat=compute.remat)
    return whole_rows(RMSNorm(config.norm_eps, name="final_norm")(act.x_BTD)), embed_VD


def _is_read_in_layer(leaf: Any) -> bool:
    """Whether a weight becomes an array in the layer only."""
    return is_quantised(leaf) or copies.is_layered(leaf)


def _layers(module: nn.Module, block: nn.Module, num_layers: int) -> Any:
    """The stacked weights of the layers, declared on `module`."""
    given: Any = module.get_variable("params", "layers")
    if given is not None and any(map(_is_read_in_layer, jax.tree.leaves(given, is_leaf=_is_read_in_layer))):
        return given  # linen would compare its leaves with those that it would make
    return module.param("layers", init_stacked, block, num_layers)


def _axes(block: nn.Module, num_layers: int) -> Any:
    """The logical axes of the stacked weights of the layers."""
    boxed: Any = jax.eval_shape(lambda: init_stacked(jax.random.key(0), block, num_layers))
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=lambda box: isinstance(box, nn.LogicallyPartitioned))


class LanguageModel(nn.Module):
    """Tokens to logits. `run` decides how the layers are run: see stack.py."""

    config: ModelConfig
    compute: ComputeConfig
    run: stack.StackRunner = stack.scan_layers
    lora: LoraConfig = LoraConfig()

    @nn.compact
    def _forward(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Any:
        c = self.config
        x_BTD, embed_VD = trunk(self, tokens_BT, positions_BT, segment_ids_BT)
        if c.tied:
            return x_BTD, embed_VD.T
        head_init = zero_padding(NORMAL, 1, c.vocab_size)
        return x_BTD, weight(self, "head", (c.model_dim, c.padded_vocab_size), ("table", "vocab"), head_init)

    def hidden(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
        """x_BTD after the final norm, in the compute dtype; times the head it gives the logits."""
        return self._forward(tokens_BT, positions_BT, segment_ids_BT)[0]

    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
        """logits_BTV in float32; columns past the vocabulary are -inf."""
        x_BTD, head_DV = self._forward(tokens_BT, positions_BT, segment_ids_BT)
        return logits(x_BTD, head_DV, self.config)
