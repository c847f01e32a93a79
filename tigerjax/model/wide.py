"""Our attention kernels for TPUs whose matrix units are 256 wide (v6e, tpu7x) while the heads have 128 features.

They compute what the splash kernel does: flash attention (Dao 2023, arXiv 2307.08691), causal within segments. A step
of their grid is a pair of blocks that has work, by the list of `splash_blocks.steps`; other pairs are not visited. What
is different, to keep the vector units from binding:

- Scores of the forward pass are transposed: keys along sublanes, queries along lanes. Then the largest score and the
  sum of a query are taken over sublanes, and the product with the values is 256 wide.
- The second half of a contraction over 256 is idle, so it compares segment ids: `_bits` of a query times those of a key
  are 0 where the ids agree in every bit, and at most -APART elsewhere. Only the places are compared in vector units.
- A row of ones beside the values sums the probabilities in the matrix unit.
- Scores are in units of log 2: log2(e) is in the queries already, and `exp2` takes no product.
- A step takes two query heads of a kv head, which share its keys, and what a step costs by itself.
- The scores of the next keys are multiplied before the softmax of those at hand, so both units have work.

S, T, N, K, H as elsewhere; heads come before places in every array.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tigerjax.config import SplashConfig
from tigerjax.errors import ConfigError
from tigerjax.model.splash_blocks import FIRST, FIRST_OF_QUERIES, LAST, LAST_OF_QUERIES, RUNS, reads, unpacked
from tigerjax.model.stack import ATTENTION_OUT

LANES, SUBLANES, ONES, ID_BITS = 128, 8, 16, 32
LOG2_E = float(np.log2(np.e))
APART = 2.0**40
"""Of the scores of two segments, for every bit in which their ids differ. A power of two, so exact in bfloat16."""
LONG = 16_384
"""Queries with LANES features whose gradient is kept for two heads at once: 32 MiB for bfloat16."""
MASKED, LEAST = -1e30, -1e38
"""Of a score that is not read, and of the largest score before there is one."""


def scaled(q: jax.Array) -> jax.Array:
    """Queries whose products with keys are scores in units of log 2, rounded once."""
    return (q.astype("float32") * (q.shape[-1] ** -0.5 * LOG2_E)).astype(q.dtype)


def attend(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, ids: Any, tables: Any, **static: Any) -> jax.Array:
    """out_BNTH of queries that are `scaled`, on one device. `ids` are segment ids (of queries BT, of keys BS), `tables`
    (steps forward, steps backward, place_T). `static` are c and window. Output and logsumexp carry the checkpoint_name
    ATTENTION_OUT. ConfigError for heads that are no multiple of 128 features, and for too many queries on a device."""
    if q_BNTH.shape[3] % LANES:
        raise ConfigError(f"compute.splash.kernel='wide' needs heads of a multiple of {LANES}; choose 'jax'")
    if (T := q_BNTH.shape[2]) > (most := 2 * LONG * LANES // q_BNTH.shape[3]):
        raise ConfigError(
            f"compute.splash.kernel='wide' keeps the gradients of a row's {T} queries in the vector memory of a core,"
            f" which holds those of {most}; cut rows by mesh.sequence, or choose 'jax'"
        )
    return _attend(static["c"], static["window"], q_BNTH, k_BKSH, v_BKSH, ids, tables)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    c: SplashConfig, window: int | None, q: jax.Array, k: jax.Array, v: jax.Array, ids: Any, tables: Any
) -> Any:
    return _forward(c, window, q, k, v, ids, tables)[0]


def _saved(c: SplashConfig, window: int | None, q: jax.Array, k: jax.Array, v: jax.Array, ids: Any, tables: Any) -> Any:
    out, lse = (checkpoint_name(a, ATTENTION_OUT) for a in _forward(c, window, q, k, v, ids, tables))
    return out, (q, k, v, ids, tables, out, lse)


def _gradients(c: SplashConfig, window: int | None, saved: Any, do: jax.Array) -> Any:
    dq, dk, dv = _backward(c, window, saved, do)
    return dq, dk, dv, None, None


_attend.defvjp(_saved, _gradients)


def _bits(ids: jax.Array, dtype: Any, *, of_keys: bool) -> jax.Array:
    """(rows, places, LANES): two features for each bit of an id. Queries have (bit, not bit), and keys -APART times
    (not bit, bit), so that their product counts the bits that differ."""
    bits = (ids[..., None] >> jnp.arange(ID_BITS)) & 1
    pair = (1 - bits, bits) if of_keys else (bits, 1 - bits)
    features = jnp.stack(pair, axis=-1).reshape(*ids.shape, 2 * ID_BITS).astype(dtype)
    features = features * jnp.asarray(-APART if of_keys else 1, dtype)
    return jnp.pad(features, ((0, 0), (0, 0), (0, LANES - 2 * ID_BITS)))


def _product(x: jax.Array, y: jax.Array, over_x: int, over_y: int) -> jax.Array:
    """Of two matrices in float32, summed over an axis of each."""
    return jax.lax.dot_general(x, y, (((over_x,), (over_y,)), ((), ())), preferred_element_type=jnp.float32)


def _flag(word: Any, flag: int) -> Any:
    return (word & flag) != 0


def _together(G: int, T: int, H: int) -> int:
    """How many of the G query heads on a kv head a step of the grid takes. The gradient of the T queries of each is in
    vector memory, and rows that are too long for two take one."""
    return 2 if G % 2 == 0 and T * H <= LONG * LANES else 1


def _of_queries(b: Any, n: Any, s: Any, steps: Any) -> Any:
    """An index map of the grid (row, heads, step): the block of queries, of these heads."""
    return b, n, unpacked(steps[s])[0], 0


def _of_figures(b: Any, n: Any, s: Any, steps: Any) -> Any:
    """The same for figures of queries, which lie along lanes."""
    return b, n, 0, unpacked(steps[s])[0]


def _of_query_ids(b: Any, n: Any, s: Any, steps: Any) -> Any:
    return b, unpacked(steps[s])[0], 0


def _of_key_ids(b: Any, n: Any, s: Any, steps: Any) -> Any:
    return b, unpacked(steps[s])[1], 0


def _of_head_keys(b: Any, n: Any, s: Any, steps: Any) -> Any:
    return b, n, unpacked(steps[s])[1], 0


def _of_keys(b: Any, n: Any, s: Any, steps: Any, *, shared_by: int) -> Any:
    """The block of keys, where `shared_by` steps in the dimension of heads have one kv head."""
    return b, n // shared_by, unpacked(steps[s])[1], 0


def _forward(c: SplashConfig, window: int | None, q: Any, k: Any, v: Any, ids: Any, tables: Any) -> Any:
    """(out_BNTH, lse_BN1T), the logsumexp in units of log 2."""
    (B, N, T, H), G = q.shape, q.shape[1] // k.shape[1]
    bq, bkv, tile = c.block_q, c.block_kv, c.block_kv_compute
    heads = _together(G, T, H)
    steps, _, place_T = tables

    def body(steps: Any, q_ref: Any, k_ref: Any, v_ref: Any, qi: Any, ki: Any, place: Any, *others: Any) -> None:
        o_ref, lse_ref, m_ref, sum_ref = others
        word = steps[pl.program_id(2)]
        first_key = unpacked(word)[1] * bkv

        @pl.when(_flag(word, FIRST))
        def _() -> None:
            m_ref[...] = jnp.full_like(m_ref, LEAST)  # what the sums hold is left out below

        def scores(t: int, h: int) -> jax.Array:
            keys = slice(t * tile, (t + 1) * tile)
            key_and_id, query = (jnp.concatenate(pair, 1) for pair in ((k_ref[keys], ki[keys]), (q_ref[h], qi[...])))
            s_kq = _product(key_and_id, query, 1, 1)
            key = jax.lax.broadcasted_iota(jnp.int32, (tile, bq), 0)
            return jnp.where(reads(place[:1] - (first_key + t * tile), key, window=window), s_kq, MASKED)

        def add(t: int, h: int, s_kq: jax.Array) -> None:
            had = m_ref[h]
            most = jnp.maximum(had, jnp.max(s_kq, axis=0, keepdims=True))
            m_ref[h] = most
            p_kq = jnp.exp2(s_kq - most[:1]).astype(v_ref.dtype)
            kept = jnp.exp2(had - most)[:1]
            values = v_ref[:, t * tile : (t + 1) * tile]
            values = jnp.concatenate([values, jnp.ones((ONES, tile), values.dtype)], 0)
            sum_ref[h] = jnp.where(kept > 0, sum_ref[h] * kept, 0) + _product(values, p_kq, 1, 0)

        @pl.when(_flag(word, RUNS))
        def _() -> None:
            parts = [(t, h) for t in range(bkv // tile) for h in range(heads)]
            ready = scores(*parts[0])
            for part, later in zip(parts, [*parts[1:], None], strict=True):
                following = scores(*later) if later else ready
                add(*part, ready)
                ready = following

        @pl.when(_flag(word, LAST))
        def _() -> None:
            for h in range(heads):
                total = sum_ref[h, H : H + 1]
                o_ref[h] = (sum_ref[h, :H] / total).T.astype(o_ref.dtype)
                lse_ref[h] = m_ref[h, :1] + jnp.log2(total)

    of_keys = functools.partial(_of_keys, shared_by=G // heads)
    out, lse = pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, N // heads, steps.size),
            in_specs=[
                pl.BlockSpec((None, heads, bq, H), _of_queries),
                pl.BlockSpec((None, None, bkv, H), of_keys),
                pl.BlockSpec(
                    (None, None, H, bkv), lambda b, n, s, steps: (b, n // (G // heads), 0, unpacked(steps[s])[1])
                ),
                pl.BlockSpec((None, bq, LANES), _of_query_ids),
                pl.BlockSpec((None, bkv, LANES), _of_key_ids),
                pl.BlockSpec((SUBLANES, bq), lambda b, n, s, steps: (0, unpacked(steps[s])[0])),
            ],
            out_specs=[
                pl.BlockSpec((None, heads, bq, H), _of_queries),
                pl.BlockSpec((None, heads, 1, bq), _of_figures),
            ],
            scratch_shapes=[pltpu.VMEM((heads, rows, bq), jnp.float32) for rows in (SUBLANES, H + ONES)],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((B, N, 1, T), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        name="splash_wide_fwd",
        interpret=c.interpret,
    )(steps, q, k, v.swapaxes(2, 3), *_compared(q, ids), jnp.broadcast_to(place_T, (SUBLANES, T)))
    return out, lse


def _compared(q: jax.Array, ids: Any) -> tuple[jax.Array, jax.Array]:
    return _bits(ids[0], q.dtype, of_keys=False), _bits(ids[1], q.dtype, of_keys=True)


def _backward(c: SplashConfig, window: int | None, saved: Any, do: jax.Array) -> Any:
    """Gradients of q, k and v by that of the output, dO_BNTH. `saved` are the arrays that `_forward` took, and what it
    returned."""
    q, k, v, ids, tables, out, lse = saved
    (B, N, T, H), (_, K, S, _) = q.shape, k.shape
    G, bq, bkv, tile = N // K, c.block_q_dkv, c.block_kv_dkv, c.block_kv_dkv_compute
    heads, (_, steps, place_T) = _together(G, T, H), tables
    di = (out.astype("float32") * do.astype("float32")).sum(axis=3)[:, :, None]
    of_query = jnp.concatenate([lse, di, jnp.broadcast_to(place_T.astype("float32"), di.shape)], axis=2)

    def body(steps: Any, q_ref: Any, k_ref: Any, v_ref: Any, do_ref: Any, of_ref: Any, *others: Any) -> None:
        qi, ki, dq_ref, dk_ref, dv_ref, dq_sum, dk_sum, dv_sum = others
        word = steps[pl.program_id(2)]
        block, first_key = unpacked(word)[0], unpacked(word)[1] * bkv
        queries = pl.ds(pl.multiple_of(block * bq, bq), bq)

        @pl.when(_flag(word, FIRST))
        def _() -> None:
            dk_sum[...] = jnp.zeros_like(dk_sum)
            dv_sum[...] = jnp.zeros_like(dv_sum)

        @pl.when(_flag(word, FIRST_OF_QUERIES))
        def _() -> None:
            dq_sum[:, queries] = jnp.zeros((heads, bq, H), jnp.float32)

        def scores(t: int, h: int) -> tuple[jax.Array, jax.Array]:
            keys = slice(t * tile, (t + 1) * tile)
            key_and_id, query = (jnp.concatenate(pair, 1) for pair in ((k_ref[keys], ki[keys]), (q_ref[h], qi[...])))
            return _product(query, key_and_id, 1, 1), _product(do_ref[h], v_ref[keys], 1, 1)

        def along(h: int, n: int) -> jax.Array:
            """A figure of each query, along all lanes of its row."""
            return jnp.broadcast_to(of_ref[h, n : n + 1], (LANES, bq)).T

        def add(t: int, h: int, s_qk: jax.Array, dp_qk: jax.Array, lse: Any, di: Any, place: Any) -> None:
            keys = slice(t * tile, (t + 1) * tile)
            wide = functools.partial(jnp.tile, reps=(1, tile // LANES))
            key = jax.lax.broadcasted_iota(jnp.int32, (bq, tile), 1)
            read = reads(wide(place - (first_key + t * tile)), key, window=window)
            p_qk = jnp.exp2(jnp.where(read, s_qk, MASKED) - wide(lse))
            ds_qk = (p_qk * (dp_qk - wide(di))).astype(q_ref.dtype)
            dv_sum[:, keys] += _product(do_ref[h], p_qk.astype(q_ref.dtype), 0, 0)
            dk_sum[:, keys] += _product(q_ref[h], ds_qk, 0, 0)
            dq_sum[h, queries] += _product(ds_qk, k_ref[keys], 1, 0)

        @pl.when(_flag(word, RUNS))
        def _() -> None:
            place = along(0, 2).astype(jnp.int32)
            figures = [(along(h, 0), along(h, 1), place) for h in range(heads)]
            parts = [(t, h) for t in range(bkv // tile) for h in range(heads)]
            ready = scores(*parts[0])
            for part, later in zip(parts, [*parts[1:], None], strict=True):
                following = scores(*later) if later else ready
                add(*part, *ready, *figures[part[1]])
                ready = following

        # d score is in units of log 2, and a query holds log2(e).
        @pl.when(_flag(word, LAST_OF_QUERIES))
        def _() -> None:
            dq_ref[:, queries] = (dq_sum[:, queries] / LOG2_E).astype(dq_ref.dtype)

        @pl.when(_flag(word, LAST))
        def _() -> None:
            dk_ref[...] = (dk_sum[...] / LOG2_E).T.astype(dk_ref.dtype)
            dv_ref[...] = dv_sum[...].T.astype(dv_ref.dtype)

    of_keys = functools.partial(_of_keys, shared_by=G // heads)
    a_query, a_key = (pl.BlockSpec((None, heads, bq, H), _of_queries), pl.BlockSpec((None, None, bkv, H), of_keys))
    of_head = jax.ShapeDtypeStruct((B, N // heads, S, H), k.dtype)
    dq, dk, dv = pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, N // heads, steps.size),
            in_specs=[
                a_query, a_key, a_key, a_query,
                pl.BlockSpec((None, heads, 3, bq), _of_figures),
                pl.BlockSpec((None, bq, LANES), _of_query_ids),
                pl.BlockSpec((None, bkv, LANES), _of_key_ids),
            ],
            out_specs=[
                pl.BlockSpec((None, heads, T, H), lambda b, n, s, steps: (b, n, 0, 0)),
                pl.BlockSpec((None, None, bkv, H), _of_head_keys),
                pl.BlockSpec((None, None, bkv, H), _of_head_keys),
            ],
            scratch_shapes=[pltpu.VMEM((heads, T, H), jnp.float32), *[pltpu.VMEM((H, bkv), jnp.float32)] * 2],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), of_head, of_head],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        name="splash_wide_dkv",
        interpret=c.interpret,
    )(steps, q, k, v, do, of_query, *_compared(q, ids))  # fmt: skip
    dk, dv = (_added(a.reshape(B, K, G // heads, S, H)) for a in (dk, dv))
    return dq, dk, dv


def _added(a_BKGSH: jax.Array) -> jax.Array:
    """Of the query heads of each kv head, added in float32 one by one: by the compiler a sum over the axis G takes 13
    times as long (libtpu 0.0.52)."""
    each = (a_BKGSH[:, :, g].astype("float32") for g in range(a_BKGSH.shape[2]))
    return functools.reduce(jnp.add, each).astype(a_BKGSH.dtype)
