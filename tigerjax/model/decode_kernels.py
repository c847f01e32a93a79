"""Pallas kernels of a decode step on TPUs: weights and cache go through each once, at the speed of the memory.

A step has few rows, so each of its products lasts as long as reading its matrix. By its own estimate XLA:TPU reads
matrices at 60% of the memory's bandwidth there. These kernels take a block of columns at a time, and the next block is
on its way while one is multiplied (docs/TPU.md, "The sampler").

Everything here is what one device does, with its share of the heads and of the MLP. A matrix stays in the stack of all
layers, and the number of the layer is an argument: a slice of the stack would be a copy of it, in every step. Heads
come first in arrays of heads (N, B, H), so that each of them is a whole block. Such arrays are float32 with numbers of
the compute dtype, because single rows of them are read, and two rows in 16 bits share a word.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tigerjax.model.attention import MASKED

LANES, SUBLANES, TILE_ROWS = 128, 8, 16
BLOCK_BYTES = 2 * 2**20
"""Of a matrix in the vector memory at one time; there are two such blocks. The first is waited for, so it should be
small. In a smaller one, what a step of the grid costs by itself would be seen."""
VMEM_BYTES = 40 * 2**20
"""Of all blocks of a kernel."""
SPARE_BYTES = 6 * 2**20
"""For what a kernel holds beside its blocks."""


def normed(
    x_BD: jax.Array, more_BD: jax.Array, scale_L1D: jax.Array, layer_1: jax.Array, *, eps: float, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """(x + more, its RMSNorm): Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4. Rounds as `layers.RMSNorm`."""
    (B, D), dtype = x_BD.shape, x_BD.dtype
    rows = _divisor(B, TILE_ROWS, BLOCK_BYTES // (4 * D))

    def body(_: Any, x_ref: Any, more_ref: Any, scale_ref: Any, sum_ref: Any, o_ref: Any) -> None:
        sum_BD = (x_ref[...].astype(jnp.float32) + more_ref[...].astype(jnp.float32)).astype(dtype)
        sum_ref[...] = sum_BD
        x32_BD = sum_BD.astype(jnp.float32)
        rms_B1 = jnp.sqrt(jnp.mean(x32_BD**2, axis=-1, keepdims=True) + eps)
        o_BD = (x32_BD / rms_B1).astype(dtype).astype(jnp.float32) * scale_ref[0].astype(dtype).astype(jnp.float32)
        o_ref[...] = o_BD.astype(dtype)

    block = pl.BlockSpec((rows, D), lambda b, layer: (b, 0))
    made = jax.ShapeDtypeStruct((B, D), dtype)
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B // rows,),
            in_specs=[block, block, pl.BlockSpec((1, 1, D), lambda b, layer: (layer[0], 0, 0))],
            out_specs=[block, block],
        ),
        out_shape=[made, made],
        compiler_params=parameters("parallel", blocks=4 * rows * D * dtype.itemsize + rows * D * 12),
        cost_estimate=cost(5 * B * D, 4 * B * D * dtype.itemsize, 2 * rows * D * dtype.itemsize),
        interpret=interpret,
        name="decode_norm",
    )(layer_1, x_BD, more_BD, scale_L1D)


def product(
    x: jax.Array,
    matrices: Sequence[jax.Array],
    scales: Sequence[jax.Array],
    layer_1: jax.Array,
    *,
    dtype: Any,
    head_dim: int = 0,
    interpret: bool,
) -> jax.Array:
    """y_BN in `dtype`, or (heads, B, head_dim) where a head's width is given.

    x is (B, K), or (heads, B, H) with heads x H = K. Of one matrix (L, K, N) this is x W; of two it is
    silu(x W1) * (x W2): Shazeer 2020 (arXiv 2002.05202), equation 5. Matrices in int8 have scales (L, 1, N).
    """
    matrix, B = matrices[0], x.shape[-2]
    _, K, N = matrix.shape
    width, size = max(LANES, head_dim), matrix.dtype.itemsize
    columns = _divisor(N, width, BLOCK_BYTES // (K * size * len(matrices)))

    def times(x_ref: Any, w_ref: Any) -> Any:
        if x.ndim == 2:
            return jnp.dot(x_ref[...], w_ref[0].astype(dtype), preferred_element_type=jnp.float32)
        H = x.shape[-1]
        parts = (
            jnp.dot(
                x_ref[n].astype(dtype), w_ref[0, n * H : (n + 1) * H].astype(dtype), preferred_element_type=jnp.float32
            )
            for n in range(len(x))
        )
        return functools.reduce(jnp.add, parts)

    def body(_: Any, x_ref: Any, *refs: Any) -> None:
        w_refs, scale_refs, o_ref = refs[: len(matrices)], refs[len(matrices) : -1], refs[-1]
        made = [times(x_ref, w_ref) for w_ref in w_refs]
        if scale_refs:
            made = [y_BN * scale_ref[0] for y_BN, scale_ref in zip(made, scale_refs, strict=True)]
        y_BN, *up = (y_BN.astype(dtype) for y_BN in made)
        if up:
            y_BN = (jax.nn.silu(y_BN.astype(jnp.float32)) * up[0].astype(jnp.float32)).astype(dtype)
        if not head_dim:
            o_ref[...] = y_BN
            return
        for n in range(columns // head_dim):
            o_ref[n] = y_BN[:, n * head_dim : (n + 1) * head_dim].astype(jnp.float32)

    if head_dim:
        count = columns // head_dim
        made = jax.ShapeDtypeStruct((N // head_dim, B, head_dim), jnp.float32)
        out = pl.BlockSpec((count, B, head_dim), lambda n, layer: (n, 0, 0))
    else:
        made = jax.ShapeDtypeStruct((B, N), dtype)
        out = pl.BlockSpec((B, columns), lambda n, layer: (0, n))
    x_bytes, first = x.size * x.dtype.itemsize, len(matrices) * K * columns * size
    moved = x_bytes + len(matrices) * K * N * size + B * N * made.dtype.itemsize
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(N // columns,),
            in_specs=[
                pl.BlockSpec(x.shape, lambda n, layer: (0,) * x.ndim),
                *[pl.BlockSpec((1, K, columns), lambda n, layer: (layer[0], 0, n)) for _ in matrices],
                *[pl.BlockSpec((1, 1, columns), lambda n, layer: (layer[0], 0, n)) for _ in scales],
            ],
            out_specs=out,
        ),
        out_shape=made,
        compiler_params=parameters(
            "parallel", blocks=2 * (x_bytes + first) + B * columns * 16 + (K * columns * 2 if scales else 0)
        ),
        cost_estimate=cost(2 * B * K * N * len(matrices), moved, first),
        interpret=interpret,
        name="decode_product",
    )(layer_1, x, *matrices, *scales)


def attention_rows(B: int, slots: int, head_dim: int, itemsize: int) -> int:
    """How many rows `attend` takes at a time; 0 where the vector memory cannot hold the slots of so many."""
    each = 2 * head_dim * slots * itemsize
    rows = _divisor(B, SUBLANES, BLOCK_BYTES // each)
    return rows if 2 * rows * each <= VMEM_BYTES else 0


# The ten are the arrays that the kernel reads, and what is static.
def attend(
    q_NBH: jax.Array,
    k_KBH: jax.Array,
    v_KBH: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    k_LBKHS: jax.Array,
    v_LBKSH: jax.Array,
    position_B: jax.Array,
    layer_1: jax.Array,
    *,
    window: int | None,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """(out_NBH, the rotated new key as KBH) of a query per row at position_B, over the slots before it and over its own
    token: `cache.attend` behind `rope`. `angles` are sin_BH, with the sign of the swapped half, and cos_BH."""
    N, B, H = q_NBH.shape
    K, S, dtype = k_LBKHS.shape[2], k_LBKHS.shape[4], k_LBKHS.dtype
    G, rows = N // K, attention_rows(B, S, H, dtype.itemsize)

    def body(_: Any, position_ref: Any, *refs: Any) -> None:
        *given, keys_ref, values_ref, o_ref, new_k_ref, turned_ref = refs
        attend_rows(
            (*given, o_ref, new_k_ref, turned_ref),
            lambda r: position_ref[pl.program_id(0) * rows + r],
            lambda r: keys_ref[0, r, 0],
            lambda r: values_ref[0, r, 0],
            window=window,
        )

    def of_head(count: int) -> Any:
        return pl.BlockSpec((count, rows, H), lambda b, k, *_: (k, b, 0))

    of_row = pl.BlockSpec((rows, H), lambda b, k, *_: (b, 0))
    each = 2 * rows * H * S * dtype.itemsize
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(B // rows, K),
            in_specs=[
                *[of_head(G), of_head(1), of_head(1), of_row, of_row],
                pl.BlockSpec((1, rows, 1, H, S), lambda b, k, layer, _: (layer[0], b, k, 0, 0)),
                pl.BlockSpec((1, rows, 1, S, H), lambda b, k, layer, _: (layer[0], b, k, 0, 0)),
            ],
            out_specs=[of_head(G), of_head(1)],
            scratch_shapes=[pltpu.VMEM((G, rows, H), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in (q_NBH, k_KBH)],
        compiler_params=parameters("parallel", "arbitrary", blocks=2 * each),
        cost_estimate=cost(4 * N * B * H * S, 2 * B * K * H * S * dtype.itemsize, each),
        interpret=interpret,
        name="decode_attention",
    )(layer_1, position_B, q_NBH, k_KBH, v_KBH, *angles, k_LBKHS, v_LBKSH)


def attend_rows(
    refs: tuple[Any, ...],
    position: Callable[[int], Any],
    keys: Callable[[int], Any],
    values: Callable[[int], Any],
    *,
    window: int | None,
) -> None:
    """The arithmetic of `attend` in a kernel: the queries of a key head, for some rows. `refs` are q, k, v, sin, cos,
    the two outputs and a place for the turned queries. Row r has position(r), keys(r) as HS and values(r) as SH."""
    q_ref, k_ref, v_ref, sin_ref, cos_ref, o_ref, new_k_ref, turned_ref = refs
    (G, rows, H), (S, _), dtype = q_ref.shape, values(0).shape, keys(0).dtype

    def turned(x: Any) -> Any:
        y = x * cos_ref[...] + pltpu.roll(x, H // 2, x.ndim - 1) * sin_ref[...]
        return y.astype(dtype).astype(jnp.float32)

    new_k_ref[0] = turned(k_ref[0])
    for g in range(G):
        turned_ref[g] = turned(q_ref[g])
    slot_GS = jax.lax.broadcasted_iota(jnp.int32, (G, S), 1)
    for r in range(rows):
        there_GS = slot_GS < position(r)
        if window is not None:
            there_GS &= slot_GS > position(r) - window
        q_GH = turned_ref[:, r]
        scores_GS = jnp.dot(q_GH.astype(dtype), keys(r), preferred_element_type=jnp.float32) * H**-0.5
        scores_GS = jnp.where(there_GS, scores_GS, MASKED)
        own_G1 = jnp.sum(q_GH * new_k_ref[0, r : r + 1], axis=-1, keepdims=True) * H**-0.5
        most_G1 = jnp.maximum(scores_GS.max(-1, keepdims=True), own_G1)
        weights_GS, own_G1 = jnp.exp(scores_GS - most_G1), jnp.exp(own_G1 - most_G1)
        total_G1 = weights_GS.sum(-1, keepdims=True) + own_G1
        probs_GS, own_G1 = (weights_GS / total_G1).astype(dtype), (own_G1 / total_G1).astype(dtype)
        out_GH = jnp.dot(probs_GS, values(r), preferred_element_type=jnp.float32)
        out_GH = out_GH.astype(dtype).astype(jnp.float32)
        o_ref[:, r] = out_GH + own_G1.astype(jnp.float32) * v_ref[0, r : r + 1]


def _divisor(count: int, unit: int, most: int) -> int:
    """The largest divisor of `count` in whole units that is at most `most`, or else one unit; all of it where `count`
    has no whole units."""
    if count % unit:
        return count
    return unit * max(k for k in range(1, max(1, min(most, count) // unit) + 1) if (count // unit) % k == 0)


def parameters(*kinds: Literal["parallel", "arbitrary"], blocks: int) -> Any:
    return pltpu.CompilerParams(dimension_semantics=kinds, vmem_limit_bytes=blocks + SPARE_BYTES)


def cost(flops: int, moved: int, first: int) -> pl.CostEstimate:
    """What the plan reads: bytes that go through the memory. Nothing hides the first block, so it counts twice."""
    return pl.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=moved + first)
