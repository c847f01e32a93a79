"""Rotary embedding, and causal attention within segments by the kernel that the config names."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tigerjax.config import ComputeConfig
from tigerjax.errors import ConfigError
from tigerjax.model.splash import name_inputs, splash
from tigerjax.model.stack import ATTENTION_OUT

LANES = 128  # of a TPU's vector registers
# Finite, so that a row whose every score is masked stays finite; far below any real score in float32.
MASKED = -1e30


def rope(x_BTNH: jax.Array, positions_BT: jax.Array, *, base: float) -> jax.Array:
    """Rotates pairs (i, i + H/2) by position * base**(-2i/H): the Hugging Face pairing."""
    H = x_BTNH.shape[-1]
    # float32 throughout: bfloat16 rounds 257 to 256, but sin(257) is very different from sin(256).
    freq_H = base ** (-jnp.arange(0, H, 2, dtype=jnp.float32) / H)
    angle_BT1H = positions_BT[:, :, None, None].astype(jnp.float32) * freq_H
    sin_BT1H, cos_BT1H = jnp.sin(angle_BT1H), jnp.cos(angle_BT1H)
    return _rotate(
        x_BTNH, jnp.concatenate([-sin_BT1H, sin_BT1H], axis=-1), jnp.concatenate([cos_BT1H, cos_BT1H], axis=-1)
    )


@jax.custom_vjp
def _rotate(x_BTNH: jax.Array, sin_BT1H: jax.Array, cos_BT1H: jax.Array) -> jax.Array:
    """x * cos + (x with its halves swapped) * sin."""
    H = x_BTNH.shape[-1]
    # A product with a permutation swaps the halves, and it is exact. For a split and a concatenation XLA:TPU pads each
    # half to a whole array and makes three kernels, which take three times as long as this one.
    swap_HH = jnp.roll(jnp.eye(H, dtype=x_BTNH.dtype), H // 2, axis=-1)
    swapped_BTNH = jnp.matmul(x_BTNH, swap_HH, precision="highest", preferred_element_type=jnp.float32)
    return (x_BTNH.astype(jnp.float32) * cos_BT1H + swapped_BTNH * sin_BT1H).astype(x_BTNH.dtype)


def _rotate_fwd(x_BTNH: jax.Array, sin_BT1H: jax.Array, cos_BT1H: jax.Array) -> tuple[jax.Array, Any]:
    return _rotate(x_BTNH, sin_BT1H, cos_BT1H), (sin_BT1H, cos_BT1H)


def _rotate_bwd(angles: Any, d_BTNH: jax.Array) -> tuple[jax.Array, None, None]:
    """The inverse rotation; positions have no gradient."""
    sin_BT1H, cos_BT1H = angles
    return jax.lax.optimization_barrier(_rotate(d_BTNH, -sin_BT1H, cos_BT1H)), None, None


_rotate.defvjp(_rotate_fwd, _rotate_bwd)


def weigh(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Softmax attention where `mask_BTS` is true. The N // K query heads of a kv head share its keys and values without
    a copy."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    # float32 scores and softmax: bfloat16 has 8 bits, and a sum over thousands of keys would lose most of them.
    scores_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32) * H**-0.5
    probs_BKGTS = jax.nn.softmax(jnp.where(mask_BTS[:, None, None], scores_BKGTS, MASKED), axis=-1)
    out_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", probs_BKGTS.astype(v_BSKH.dtype), v_BSKH)
    return out_BTKGH.reshape(B, T, N, H)


def causal_mask(segment_ids_BT: jax.Array) -> jax.Array:
    """mask_BTS: true where query t may read key s, that is where s <= t in the same segment. Padding reads padding."""
    T = segment_ids_BT.shape[1]
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same_BTS & jnp.tril(jnp.ones((T, T), bool))


def fitting(compute: ComputeConfig, length: int) -> ComputeConfig:
    """`compute` changed so that its kernel can read rows of `length` tokens.

    Inference reads rows of many lengths, but splash needs blocks that divide the row. So the blocks become common
    divisors. Rows that are no multiple of the TPU's 128 lanes are short, and the reference kernel reads them.
    """
    if compute.attention != "splash" or not any(length % block for block in compute.splash.blocks().values()):
        return compute
    if length % LANES:
        return dataclasses.replace(compute, attention="reference")
    blocks: dict[str, Any] = {name: math.gcd(block, length) for name, block in compute.splash.blocks().items()}
    return dataclasses.replace(compute, splash=dataclasses.replace(compute.splash, **blocks))


def attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, segment_ids_BT: jax.Array, *, compute: ComputeConfig
) -> jax.Array:
    """Causal attention within segments, S = T, by the kernel that `compute.attention` names.

    Inputs and output carry the names QUERY, KEY, VALUE and ATTENTION_OUT, for remat policies. Raises ConfigError for
    cudnn in float32.
    """
    if compute.attention == "splash":
        return splash(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT, c=compute.splash)
    q_BTNH, k_BSKH, v_BSKH = name_inputs(q_BTNH, k_BSKH, v_BSKH)
    if compute.attention == "reference":
        out_BTNH = weigh(q_BTNH, k_BSKH, v_BSKH, causal_mask(segment_ids_BT))
    else:
        if q_BTNH.dtype != jnp.bfloat16:
            raise ConfigError(f"attention='cudnn' computes in bfloat16, not {q_BTNH.dtype}; change compute.dtype")
        # The mask goes in for the segments, `is_causal` so that cuDNN leaves out the half above the diagonal.
        same_B1TS = segment_ids_BT[:, None, :, None] == segment_ids_BT[:, None, None, :]
        out_BTNH = jax.nn.dot_product_attention(
            q_BTNH, k_BSKH, v_BSKH, mask=same_B1TS, is_causal=True, implementation="cudnn"
        )
    return checkpoint_name(out_BTNH, ATTENTION_OUT)
