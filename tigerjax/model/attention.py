"""Rotary embedding and causal attention within segments, the kernel chosen by config."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tigerjax.config import ComputeConfig
from tigerjax.errors import ConfigError
from tigerjax.model.splash import name_inputs, splash
from tigerjax.model.stack import ATTENTION_OUT

# Finite, so that a row whose every score is masked stays finite; far below any real score in float32.
MASKED = -1e30


def rope(x_BTNH: jax.Array, positions_BT: jax.Array, *, base: float) -> jax.Array:
    """Rotates pairs (i, i + H/2) by position * base**(-2i/H): the Hugging Face pairing."""
    H = x_BTNH.shape[-1]
    # float32 throughout: bfloat16 rounds 257 to 256, but sin(257) is very different from sin(256).
    freq_H = base ** (-jnp.arange(0, H, 2, dtype=jnp.float32) / H)
    angle_BTNH = positions_BT[:, :, None, None].astype(jnp.float32) * freq_H
    return _rotate(x_BTNH, jnp.sin(angle_BTNH), jnp.cos(angle_BTNH))


@jax.custom_vjp
def _rotate(x_BTNH: jax.Array, sin_BTNH: jax.Array, cos_BTNH: jax.Array) -> jax.Array:
    a_BTNH, b_BTNH = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    out_BTNH = jnp.concatenate([a_BTNH * cos_BTNH - b_BTNH * sin_BTNH, b_BTNH * cos_BTNH + a_BTNH * sin_BTNH], axis=-1)
    # Rounded before the cast, which changes nothing but keeps XLA from casting the halves and joining them afterwards.
    info = jnp.finfo(x_BTNH.dtype)
    return jax.lax.reduce_precision(out_BTNH, info.nexp, info.nmant).astype(x_BTNH.dtype)


def _rotate_fwd(x_BTNH: jax.Array, sin_BTNH: jax.Array, cos_BTNH: jax.Array) -> tuple[jax.Array, Any]:
    return _rotate(x_BTNH, sin_BTNH, cos_BTNH), (sin_BTNH, cos_BTNH)


def _rotate_bwd(angles: Any, g_BTNH: jax.Array) -> tuple[jax.Array, None, None]:
    """The inverse rotation, written as one: the transpose of split and concatenate that JAX would derive pads both
    halves to whole arrays (0.05 s of the 70B step on v5p-64, by the compiler's estimate). Positions have no gradient."""
    sin_BTNH, cos_BTNH = angles
    return jax.lax.optimization_barrier(_rotate(g_BTNH, -sin_BTNH, cos_BTNH)), None, None


_rotate.defvjp(_rotate_fwd, _rotate_bwd)


def weigh(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Softmax attention where `mask_BTS` is true; the N // K query heads of a kv head share it, never copied."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    # float32 scores and softmax: bfloat16 has 8 bits, and a sum over thousands of keys would lose most of them.
    scores_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32) * H**-0.5
    probs_BKGTS = jax.nn.softmax(jnp.where(mask_BTS[:, None, None], scores_BKGTS, MASKED), axis=-1)
    out_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", probs_BKGTS.astype(v_BSKH.dtype), v_BSKH)
    return out_BTKGH.reshape(B, T, N, H)


def causal_mask(segment_ids_BT: jax.Array) -> jax.Array:
    """mask_BTS: true where query t may read key s, which is s <= t in the same segment; padding reads padding."""
    T = segment_ids_BT.shape[1]
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same_BTS & jnp.tril(jnp.ones((T, T), bool))


def attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, segment_ids_BT: jax.Array, *, compute: ComputeConfig
) -> jax.Array:
    """Causal attention within segments, S = T, by the kernel that `compute.attention` names.

    Inputs and output carry the names QUERY, KEY, VALUE and ATTENTION_OUT, for remat policies.
    """
    if compute.attention == "splash":
        return splash(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT, c=compute.splash)
    q_BTNH, k_BSKH, v_BSKH = name_inputs(q_BTNH, k_BSKH, v_BSKH)
    if compute.attention == "reference":
        out_BTNH = weigh(q_BTNH, k_BSKH, v_BSKH, causal_mask(segment_ids_BT))
    else:
        if q_BTNH.dtype != jnp.bfloat16:
            raise ConfigError(f"attention='cudnn' computes in bfloat16, not {q_BTNH.dtype}; change compute.dtype")
        mask_B1TS = causal_mask(segment_ids_BT)[:, None]
        out_BTNH = jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_B1TS, implementation="cudnn")
    return checkpoint_name(out_BTNH, ATTENTION_OUT)
