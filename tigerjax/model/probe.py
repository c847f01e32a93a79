"""The logits of a few tokens, computed twice by code that shares nothing: a conversion is checked with them.

`numpy_logits` reads Hugging Face's tensors, as Hugging Face lays them out: (out, in) matrices, heads in rows,
rotate_half. `layered_logits` runs our own layers on a checkpoint. Both read one weight or one layer at a time, so a
probe of 70B fits a small machine.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax.config import FLOAT32, ModelConfig
from tigerjax.model import attention
from tigerjax.model import rope as rotary
from tigerjax.model.decoder import MLP, Attention
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.layers import RMSNorm
from tigerjax.model.weights import ReadRows, TensorRow, get, put

Array = np.ndarray


def numpy_logits(tensors: ReadRows, config: ModelConfig, spec: list[TensorRow], ids_T: Array, dtype: str) -> Array:
    """logits_TV in float32 (scores_T1 of a reward model) of the tensors of a Hugging Face folder, whose weights are
    rounded to `dtype` first. `spec` is what `hf_rows` gives for the folder."""
    c = config
    T, N, K, H = len(ids_T), c.num_heads, c.num_kv_heads, c.head_dim
    rows = {row.theirs: row for row in spec}

    def read(name: str, start: int, stop: int) -> Array:
        return tensors(name, start, stop).astype(jnp.dtype(dtype)).astype(np.float32)

    def product(x_TD: Array, template: str, layer: int = 0) -> Array:
        name = template.format(layer)
        parts = [x_TD @ read(name, start, stop).T for start, stop in rows[template].blocks()]
        out = np.concatenate(parts, axis=1)
        added = template.removesuffix("weight") + "bias"
        return out + read(added.format(layer), 0, out.shape[1]) if added in rows else out

    def normed(x_TD: Array, template: str, layer: int = 0) -> Array:
        scale_D = read(template.format(layer), 0, x_TD.shape[-1])
        return x_TD / np.sqrt(np.mean(x_TD**2, axis=-1, keepdims=True) + c.norm_eps) * scale_D

    angle, size = np.arange(T)[:, None] * rotary.frequencies(H, c.rope_base, c.rope, T), rotary.magnitude(c.rope)
    cos, sin = (size * np.tile(f(angle), 2)[:, None].astype(np.float32) for f in (np.cos, np.sin))

    def rotated(x_TNH: Array) -> Array:
        first, second = np.split(x_TNH, 2, axis=-1)
        return x_TNH * cos + np.concatenate([-second, first], axis=-1) * sin

    x_TD = np.concatenate([read("model.embed_tokens.weight", int(i), int(i) + 1) for i in ids_T])
    hidden = np.triu(np.full((T, T), -np.inf, np.float32), 1)
    if (window := c.extras.window) is not None:
        hidden += np.tril(np.full((T, T), -np.inf, np.float32), -window)
    layer = "model.layers.{}."
    for i in range(c.num_layers):
        h_TD = normed(x_TD, layer + "input_layernorm.weight", i)
        q_TNH = product(h_TD, layer + "self_attn.q_proj.weight", i).reshape(T, N, H)
        k_TKH = product(h_TD, layer + "self_attn.k_proj.weight", i).reshape(T, K, H)
        v_TKH = product(h_TD, layer + "self_attn.v_proj.weight", i).reshape(T, K, H)
        if c.extras.qk_norm:
            q_TNH = normed(q_TNH, layer + "self_attn.q_norm.weight", i)
            k_TKH = normed(k_TKH, layer + "self_attn.k_norm.weight", i)
        q_TNH, k_TKH = rotated(q_TNH), rotated(k_TKH)
        out = []
        for n in range(N):
            weights = q_TNH[:, n] @ k_TKH[:, n // (N // K)].T * H**-0.5 + hidden
            weights = np.exp(weights - weights.max(axis=1, keepdims=True))
            out.append(weights / weights.sum(axis=1, keepdims=True) @ v_TKH[:, n // (N // K)])
        x_TD = x_TD + product(np.concatenate(out, axis=1), layer + "self_attn.o_proj.weight", i)
        h_TD = normed(x_TD, layer + "post_attention_layernorm.weight", i)
        gate_TF = product(h_TD, layer + "mlp.gate_proj.weight", i)
        up_TF = product(h_TD, layer + "mlp.up_proj.weight", i)
        x_TD = x_TD + product(gate_TF / (1 + np.exp(-gate_TF)) * up_TF, layer + "mlp.down_proj.weight", i)
    x_TD = normed(x_TD, "model.norm.weight")
    return product(x_TD, _last(spec).theirs)


def layered_logits(arrays: dict[str, Any], config: ModelConfig, ids_T: Array, dtype: str) -> Array:
    """The same by our own layers, from the weights of a checkpoint: numpy arrays, or stored ones that are read by part.

    At any time the attention's weights of one layer are in memory, or its `down` and a block of `gate` and `up`. The
    blocks add up, because an MLP is the sum of narrower ones.
    """
    spec = hf_rows(config, rows=config.padded_vocab_size, reward="score" in arrays)

    def rounded(block: Any) -> jax.Array:
        return jnp.asarray(np.asarray(block).astype(jnp.dtype(dtype), copy=False), jnp.float32)

    def layer_of(part: str, layer: int) -> dict[str, Any]:
        w: dict[str, Any] = {}
        for row in (row for row in spec if row.ours.startswith(f"layers/{part}/")):
            put(w, row.ours.removeprefix(f"layers/{part}/"), rounded(get(arrays, row.ours)[layer]))
        return w

    positions_BT, segments_BT = jnp.arange(len(ids_T))[None], jnp.ones((1, len(ids_T)), jnp.int32)

    attend_all = functools.partial(attention.attend, compute=FLOAT32, window=config.extras.window)

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, None]:
        return attend_all(q_BTNH, k_BTKH, v_BTKH, segments_BT), None

    def normed(x_BTD: jax.Array, w: Any) -> Any:
        return RMSNorm(config.norm_eps).apply({"params": w}, x_BTD)

    def mlp(x_BTD: Any, layer: int) -> Any:
        down_FD = np.asarray(get(arrays, "layers/mlp/down")[layer])
        total: Any = jnp.zeros_like(x_BTD)
        gate = next(row for row in spec if row.ours == "layers/mlp/gate")
        for start, stop in gate.blocks():
            w = {n: rounded(get(arrays, f"layers/mlp/{n}")[gate.place(layer, start, stop)]) for n in ("gate", "up")}
            part = MLP(dataclasses.replace(config, mlp_dim=stop - start))
            total += part.apply({"params": w | {"down": rounded(down_FD[start:stop])}}, x_BTD)
        return total

    with jax.default_matmul_precision("highest"):
        x_BTD: Any = jnp.stack([rounded(arrays["embed"][int(i)]) for i in ids_T])[None]
        for layer in range(config.num_layers):
            h_BTD = normed(x_BTD, layer_of("attn_norm", layer))
            attended: Any = Attention(config).apply({"params": layer_of("attn", layer)}, h_BTD, positions_BT, attend)
            x_BTD += attended[0]
            x_BTD += mlp(normed(x_BTD, layer_of("mlp_norm", layer)), layer)
        x_BTD = normed(x_BTD, {"scale": rounded(arrays["final_norm"]["scale"][:])})
        last = _last(spec)
        parts = []
        for start, stop in last.blocks():
            part = rounded(get(arrays, last.ours)[last.place(0, start, stop)])
            parts.append(x_BTD[0] @ (part.T if last.ours == "embed" else part.reshape(config.model_dim, -1)))
        return np.asarray(jnp.concatenate(parts, axis=1))


def _last(spec: list[TensorRow]) -> TensorRow:
    """What the last hidden states are multiplied with: the head or the score; the embedding where the head is tied."""
    return spec[-1] if spec[-1].ours in ("head", "score") else spec[0]
