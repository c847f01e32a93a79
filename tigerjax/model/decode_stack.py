"""The layers of a decode step made of the kernels of `decode_kernels`: the same maths as `decoder.Block`.

Each device runs all layers on its own heads and its own part of the MLP, and they add up twice in a layer. Weights must
be cut along `tensor` alone: a kernel reads what lies on its own device.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import on_each, spec
from tigerjax.model import cache as kv
from tigerjax.model import decode_kernels, decode_pages
from tigerjax.model import rope as rotary
from tigerjax.model.layers import RMSNorm
from tigerjax.model.quantised import Quantised
from tigerjax.model.weights import get, leaves, nested

CUTS = {
    "attn/q": (None, "heads", None),
    "attn/k": (None, "kv_heads", None),
    "attn/v": (None, "kv_heads", None),
    "attn/o": ("heads", None, None),
    "attn/q_bias": ("heads", None),
    "attn/k_bias": ("kv_heads", None),
    "attn/v_bias": ("kv_heads", None),
    "mlp/gate": (None, "mlp"),
    "mlp/up": (None, "mlp"),
    "mlp/down": ("mlp", None),
}
"""Logical axes of the weights of a layer that devices share. Of the others each has all."""


def check(config: ModelConfig, compute: ComputeConfig, w_L: Any, cache: kv.Cache) -> None:
    """ConfigError where the kernels cannot read such weights or such a cache."""
    sizes, given = jax.sharding.get_abstract_mesh().shape, f"compute.decode_kernels={compute.decode_kernels}"
    for axis in ("stage", "fsdp", "sequence"):
        if sizes.get(axis, 1) > 1:
            raise ConfigError(
                f"{given} reads weights that are cut along tensor alone, and mesh.{axis} is {sizes[axis]}; give"
                " mesh.tensor in its place, or compute.decode_kernels=off"
            )
    keys, H = cache.keys[0], config.head_dim
    if not hasattr(keys, "dtype"):
        raise ConfigError(f"{given} reads a cache in {compute.dtype}, not in int8; leave one of the two away")
    if any(isinstance(w, Quantised) and w.values.dtype != jnp.int8 for _, w in leaves(w_L)):
        raise ConfigError(f"{given} reads weights in {compute.dtype} and int8, not in int4; leave one of the two away")
    if H % decode_kernels.LANES and compute.decode_kernels == "on":
        raise ConfigError(f"{given} needs heads whose width is a multiple of 128, not {H}; set it off")
    rows, slots = len(cache.lengths_B) // sizes.get("data", 1), kv.slots_of(cache)
    if not decode_kernels.attention_rows(rows, slots, H, keys.dtype.itemsize):
        raise ConfigError(
            f"{given} holds the {slots} tokens of some rows in the vector memory at one time, which is too small for"
            " that; give shorter prompts and answers, or compute.decode_kernels=off"
        )


def run(
    x_BTD: jax.Array,
    w_L: Any,
    k_LBKHS: jax.Array,
    v_LBKSH: jax.Array,
    position_B: jax.Array,
    page_BT: jax.Array | None,
    *,
    config: ModelConfig,
    interpret: bool,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """(x_BTD after a stack of layers with T = 1, the new keys and values as LBKH). `page_BT` is that of the cache."""
    sin_BT1H, cos_BT1H = rotary.angles(position_B[:, None], config.head_dim, base=config.rope_base, scaling=config.rope)
    rows, kv_new = spec("batch", None), spec(None, "batch", "act_kv_heads", None)
    held = spec(None, "batch", "act_kv_heads", None, None)
    where_B = (position_B,) if page_BT is None else (position_B, page_BT)
    where = tuple(spec("batch", *[None] * (a.ndim - 1)) for a in where_B)
    cuts = nested((path, _cut(path, w)) for path, w in leaves(w_L))
    alone = jax.sharding.get_abstract_mesh().shape.get("tensor", 1) == 1
    out: Any = rows, (kv_new, kv_new)
    one: Any = on_each(
        functools.partial(_layers, config=config, interpret=interpret, alone=alone),
        (rows, cuts, held, held, where, rows, rows),
        out,
    )
    x_BD, new = one(x_BTD[:, 0], w_L, k_LBKHS, v_LBKSH, where_B, sin_BT1H[:, 0, 0], cos_BT1H[:, 0, 0])
    return x_BD[:, None], new


def _cut(path: str, w: Any) -> Any:
    axes = CUTS.get(path, ())
    cut = spec(None, *axes)
    if not isinstance(w, Quantised):
        return cut
    of_scales = (axis if size > 1 else None for axis, size in zip(cut, w.scales.shape, strict=True))
    return Quantised(cut, PartitionSpec(*of_scales))


# The ten are what `run` gives to each device, and what is static.
def _layers(
    x_BD: jax.Array,
    w_L: Any,
    k_LBKHS: jax.Array,
    v_LBKSH: jax.Array,
    where_B: tuple[jax.Array, ...],
    sin_BH: jax.Array,
    cos_BH: jax.Array,
    *,
    config: ModelConfig,
    interpret: bool,
    alone: bool,
) -> Any:
    """What one device does. `where_B` are position_B, and in a cache of pages page_BT."""
    dtype, extras, eps = x_BD.dtype, config.extras, config.norm_eps
    norm = functools.partial(decode_kernels.normed, eps=eps, interpret=interpret)
    scales = {name: get(w_L, f"{name}/scale")[:, None] for name in ("attn_norm", "mlp_norm")}

    def product(
        x: jax.Array, names: tuple[str, ...], layer_1: jax.Array, inputs: int = 1, head_dim: int = 0
    ) -> jax.Array:
        held = [get(w_L, name) for name in names]
        parts = [(w.values, w.scales) if isinstance(w, Quantised) else (w, None) for w in held]
        matrices = [w.reshape(len(w), math.prod(w.shape[1 : 1 + inputs]), -1) for w, _ in parts]
        of_columns = [s.reshape(len(s), 1, -1) for _, s in parts if s is not None]
        return decode_kernels.product(
            x, matrices, of_columns, layer_1, dtype=dtype, head_dim=head_dim, interpret=interpret
        )

    def summed(part_BD: jax.Array) -> jax.Array:
        return part_BD if alone else jax.lax.psum(part_BD, "tensor")

    def heads(h_BD: jax.Array, name: str, layer_1: jax.Array) -> jax.Array:
        x_NBH = product(h_BD, (f"attn/{name}",), layer_1, head_dim=config.head_dim)
        if extras.qkv_bias:
            bias_NH = get(w_L, f"attn/{name}_bias")[layer_1[0]].astype(dtype)
            x_NBH = (x_NBH.astype(dtype) + bias_NH[:, None]).astype(jnp.float32)
        if extras.qk_norm and name != "v":
            params = {"scale": get(w_L, f"attn/{name}_norm/scale")[layer_1[0]]}
            normed_NBH: Any = RMSNorm(eps).apply({"params": params}, x_NBH.astype(dtype))
            x_NBH = normed_NBH.astype(jnp.float32)
        return x_NBH

    def layer(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> Any:
        x_BD, more_BD, layer_1 = carry
        x_BD, h_BD = norm(x_BD, more_BD, scales["attn_norm"], layer_1)
        q_NBH, k_KBH, v_KBH = (heads(h_BD, name, layer_1) for name in ("q", "k", "v"))
        angles, held = (sin_BH, cos_BH), (k_LBKHS, v_LBKSH)
        if len(where_B) == 1:
            out_NBH, k_KBH = decode_kernels.attend(
                q_NBH, k_KBH, v_KBH, angles, *held, *where_B, layer_1, window=extras.window, interpret=interpret
            )
        else:
            where = layer_1, where_B[0], where_B[1]
            out_NBH, k_KBH = decode_pages.attend(
                (q_NBH, k_KBH, v_KBH), angles, held, where, window=extras.window, interpret=interpret
            )
        more_BD = summed(product(out_NBH, ("attn/o",), layer_1, inputs=2))
        if extras.o_bias:
            more_BD += get(w_L, "attn/o_bias")[layer_1[0]].astype(dtype)
        x_BD, h_BD = norm(x_BD, more_BD, scales["mlp_norm"], layer_1)
        hidden_BF = product(h_BD, ("mlp/gate", "mlp/up"), layer_1)
        more_BD = summed(product(hidden_BF, ("mlp/down",), layer_1))
        new_BKH = (a_KBH.transpose(1, 0, 2).astype(dtype) for a_KBH in (k_KBH, v_KBH))
        return (x_BD, more_BD, layer_1 + 1), tuple(new_BKH)

    start = x_BD, jnp.zeros_like(x_BD), jnp.zeros(1, jnp.int32)
    (x_BD, more_BD, _), new = jax.lax.scan(layer, start, length=len(k_LBKHS))
    return x_BD + more_BD, new
