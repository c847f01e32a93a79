"""Causal attention within segments, by the kernel that the config names."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tigerjax.config import ComputeConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import balanced_places, platform
from tigerjax.model.splash import name_inputs, splash
from tigerjax.model.splash_blocks import reads
from tigerjax.model.stack import ATTENTION_OUT

LANES = 128  # of a TPU's vector registers
# Finite, so that a row whose every score is masked stays finite; far below any real score in float32.
MASKED = -1e30


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


def causal_mask(segment_ids_BT: jax.Array, window: int | None) -> jax.Array:
    """mask_BTS: true where query t may read key s, that is where s is no later in the same segment, and less than
    `window` places before t where there is one. Padding reads padding. The rows are in the order of
    `mesh.balanced_places`."""
    place_T = balanced_places(segment_ids_BT.shape[1]).reshape(-1)
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same_BTS & reads(place_T[:, None], place_T[None, :], window=window)


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


def _check_kernel(compute: ComputeConfig, dtype: Any) -> None:
    if compute.attention == "cudnn" and dtype != jnp.bfloat16:
        raise ConfigError(f"attention='cudnn' computes in bfloat16, not {dtype}; change compute.dtype")
    missing = {"splash": ("cpu", "gpu"), "cudnn": ("cpu", "tpu"), "reference": ()}[compute.attention]
    if (here := platform()) in missing and not (compute.attention == "splash" and compute.splash.interpret):
        kind = "TPUs" if compute.attention == "splash" else "NVIDIA GPUs"
        raise ConfigError(
            f"compute.attention={compute.attention} is a kernel for {kind}, and this is a {here}; set it to reference"
        )


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    compute: ComputeConfig,
    window: int | None = None,
) -> jax.Array:
    """Causal attention within segments, S = T, by the kernel that `compute.attention` names. With a window a token sees
    so many tokens, itself included.

    The rows are in the order of `mesh.balanced_places`: as they are, unless a mesh that is set cuts them along T.
    Inputs and output carry the names QUERY, KEY, VALUE and ATTENTION_OUT, for remat policies. Raises ConfigError for
    cudnn in float32, and for a kernel that the devices do not have.
    """
    _check_kernel(compute, q_BTNH.dtype)
    if compute.attention == "splash":
        return splash(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT, c=compute.splash, window=window)
    q_BTNH, k_BSKH, v_BSKH = name_inputs(q_BTNH, k_BSKH, v_BSKH)
    if compute.attention == "reference":
        whole = ("batch", None, "act_kv_heads", "head_dim")
        k_BSKH, v_BSKH = (nn.with_logical_constraint(a, whole) for a in (k_BSKH, v_BSKH))
        out_BTNH = weigh(q_BTNH, k_BSKH, v_BSKH, causal_mask(segment_ids_BT, window))
    else:
        # The mask goes in for the segments, `is_causal` so that cuDNN leaves out the half above the diagonal.
        same_B1TS = segment_ids_BT[:, None, :, None] == segment_ids_BT[:, None, None, :]
        out_BTNH = jax.nn.dot_product_attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            mask=same_B1TS,
            is_causal=True,
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn",
        )
    return checkpoint_name(out_BTNH, ATTENTION_OUT)
