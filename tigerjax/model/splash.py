"""Splash attention: JAX's Pallas TPU kernel, causal within segments, run by each device on its own rows and heads.

XLA cannot split a Mosaic kernel over devices. So the kernel runs in a `shard_map` over every mesh axis that is still
automatic: all of them, or inside a pipeline all but 'stage'. Each device attends for its share of the heads. Where the
mesh cuts rows along T, each device has the queries of its share of a row, in the order of `mesh.balanced_places`, and
gathers the keys and values of the whole row. Otherwise nothing is exchanged.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

from tigerjax.config import SplashConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import balanced_places, gathered, in_row_order, length_ways, on_each, spec
from tigerjax.model import wide
from tigerjax.model.splash_blocks import mask_infos, read_by, tables
from tigerjax.model.stack import ATTENTION_OUT, KEY, QUERY, VALUE


def splash(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    c: SplashConfig,
    window: int | None,
) -> jax.Array:
    """out_BTNH of causal attention within segments, S = T, over the last `window` tokens or over all.

    The kernel's inputs carry the checkpoint_names QUERY, KEY and VALUE. Its output and logsumexp_BNT carry
    ATTENTION_OUT: with a remat policy that saves it, the backward pass does not run the forward kernel again. Padding
    (segment 0) attends to padding; the result is finite and unused. Raises ConfigError for rows that are no multiple of
    a block.
    """
    T, H = q_BTNH.shape[1], q_BTNH.shape[3]
    share = T // length_ways()
    for name, block in c.blocks().items():
        if (share if name.startswith("block_q") else T) % block:
            cut = f", cut into {length_ways()} shares," if length_ways() > 1 else ""
            raise ConfigError(f"rows of {T} tokens{cut} are no multiple of compute.splash.{name}={block}; change one")
    # The kernel does not scale. Scaled in float32, as the rotation before it: XLA merges the two roundings into one.
    wide_kernel = c.kernel == "wide"
    q_BTNH = wide.scaled(q_BTNH) if wide_kernel else (q_BTNH.astype("float32") * H**-0.5).astype(q_BTNH.dtype)
    q_BNTH, k_BKSH, v_BKSH = (a.swapaxes(1, 2) for a in (q_BTNH, k_BSKH, v_BSKH))
    q_BNTH, k_BKSH, v_BKSH = name_inputs(q_BNTH, k_BKSH, v_BKSH)
    infos = (tables if wide_kernel else mask_infos)(balanced_places(T), c, window)
    # Where rows are cut, every device has all segment ids: its keys are those of the whole row.
    segment_ids_BT = nn.with_logical_constraint(segment_ids_BT, ("batch", None))
    ids = segment_ids_BT, in_row_order(segment_ids_BT)
    out_BNTH = over_free_axes(functools.partial(_local, c=c, window=window))(q_BNTH, k_BKSH, v_BKSH, ids, infos)
    return out_BNTH.swapaxes(1, 2)


def name_inputs(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The inputs of a kernel, in whatever layout it reads, under the names that remat policies know."""
    return checkpoint_name(q, QUERY), checkpoint_name(k, KEY), checkpoint_name(v, VALUE)


def over_free_axes(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function` of (q_BNTH, k_BKSH, v_BKSH, (segment ids of the queries, of the keys), mask infos) on each device's
    rows, heads and share of T."""
    q_spec, kv_spec = spec("batch", "act_heads", "length", None), spec("batch", "act_kv_heads", "length", None)
    ids_spec = spec("batch", "length"), spec("batch", None)
    return on_each(function, (q_spec, kv_spec, kv_spec, ids_spec, spec("length")), q_spec)


def _local(
    q_BNTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    ids: Any,
    infos: Any,
    *,
    c: SplashConfig,
    window: int | None,
) -> Any:
    """out_BNTH on one device."""
    if length_ways() > 1:
        k_BKSH, v_BKSH = (in_row_order(gathered(a, 2), 2) for a in (k_BKSH, v_BKSH))
    if c.kernel == "wide":
        return wide.attend(q_BNTH, k_BKSH, v_BKSH, ids, [table[0] for table in infos], c=c, window=window)
    attend = kernel.SplashAttentionKernel(
        *jax.tree.map(lambda info: info[0], infos),
        block_sizes=kernel.BlockSizes(
            block_q=c.block_q,
            block_kv=c.block_kv,
            block_kv_compute=c.block_kv_compute,
            block_q_dkv=c.block_q_dkv,
            block_kv_dkv=c.block_kv_dkv,
            block_kv_dkv_compute=c.block_kv_dkv_compute,
            block_q_dq=None if c.fused_backward else c.block_q_dq,
            block_kv_dq=None if c.fused_backward else c.block_kv_dq,
            use_fused_bwd_kernel=c.fused_backward,
        ),
        is_mqa=False,
        save_residuals=False,
        mask_value=kernel.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=ATTENTION_OUT,
        mask_function=read_by(window),
        interpret=c.interpret,
    )

    def one_row(q: jax.Array, k: jax.Array, v: jax.Array, ids: Any) -> Any:
        return attend(q, k, v, kernel.SegmentIds(*ids))

    # A chip with two cores gives each of them half of the rows, so an odd number is made even: two groups of heads of a
    # row pass for rows. Without it the backward kernels of one row run on one core (`tigerjax plan` counts them).
    shape = q_BNTH.shape
    if shape[0] % 2 and k_BKSH.shape[1] % 2 == 0:
        q_BNTH, k_BKSH, v_BKSH = (a.reshape(-1, a.shape[1] // 2, *a.shape[2:]) for a in (q_BNTH, k_BKSH, v_BKSH))
        ids = jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), ids)
    return jax.vmap(one_row)(q_BNTH, k_BKSH, v_BKSH, ids).reshape(shape)
