"""The KV cache of a decode: how keys and values lie, how one query reads them and how a new token joins them.

A token at position p of its row lies in slot p, so `slot <= position` is the whole mask, and rows of different lengths
need nothing else. Keys lie as K H S and values as K S H: the two products of a step then read them as they lie. With S
before K, XLA:CPU transposes the whole cache at every step.

Layers come in stacks, weights and cache alike: one stack of all layers, which a loop runs through, or several
(`unstack`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from tigerjax.mesh import on_each, spec
from tigerjax.model import attention
from tigerjax.model.layers import Weights

MATRIX_ROWS = 8  # rows that a TPU's matrix unit takes at a time
QUERY_PARTS, LEAST_QUERIES = 4, 32  # parts of a tree that read keys by themselves, and tokens of one at least


class Cache(NamedTuple):
    """Rotated keys and values in the compute dtype. Slots from lengths_B on hold nothing that is read."""

    keys: tuple[jax.Array, ...]
    """k_LBKHS of each stack of layers."""
    values: tuple[jax.Array, ...]
    """v_LBKSH of each."""
    lengths_B: jax.Array
    """Slots filled, so also the position of the next token; int32."""


class Kept(NamedTuple):
    """Rotated keys and values of whole rows, as a pass over them left them; rows of branches are read behind them."""

    keys: jax.Array
    """k_LBSKH."""
    values: jax.Array
    """v_LBSKH."""


class Branches(NamedTuple):
    """Rows of tokens that belong to trees, in which a token sees its own path from the root. A row begins with its
    trees, one after the other, without a gap. Before its first tree a row sees the first `before` tokens of row `stem`
    of what was kept, and so does each of its trees.

    Products with weights read the rows, which have hardly any padding. Attention reads each tree by itself, padded: in
    shelves of J trees a row, all of one width W."""

    tokens_BT: jax.Array
    positions_BT: jax.Array
    stem_B: jax.Array
    before_B: jax.Array
    starts: tuple[jax.Array, ...]
    """start_BJ of each shelf: the place in its row where a tree begins; the end of the row's tokens where it has none.
    Trees lie in the order of the shelves."""
    ends: tuple[jax.Array, ...]
    """end_BJW of each shelf, counted from the tree's start: place s is seen by the places from s to end - 1."""
    back_BT: jax.Array
    """Where a token is among the places of all shelves, one after the other. Any place for padding."""


def unstack(weights: Weights) -> Weights:
    """`layers` as a tuple of stacks of one layer each. A loop over a stack is in a compiled program once, but XLA:CPU
    copies each layer's weights and cache out of it, in every step."""
    depth = jax.tree.leaves(weights["layers"])[0].shape[0]
    cut = tuple(jax.tree.map(lambda w_L, at=at: w_L[at : at + 1], weights["layers"]) for at in range(depth))
    return weights | {"layers": cut}


def stacks(weights: Weights) -> tuple[Any, ...]:
    """The stacks of layers of `weights`, whether or not they went through `unstack`."""
    layers = weights["layers"]
    return layers if isinstance(layers, tuple) else (layers,)


def append(cache: Cache, keys: tuple[Any, ...], values: tuple[Any, ...], position_B: jax.Array) -> Cache:
    """The cache with one more token per row at position_B: its keys and values as new_LBKH of each stack of layers."""
    cut, new_cut = spec(None, "batch", "act_kv_heads", None, None), spec(None, "batch", "act_kv_heads", None)

    def write(axis: int, stacks: tuple[jax.Array, ...], new: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # Each device writes its own rows: XLA would gather a cache that is written at an index of a split axis.
        one = on_each(functools.partial(_write, axis=axis), (cut, new_cut, spec("batch")), cut)
        return tuple(one(old, new_LBKH, position_B) for old, new_LBKH in zip(stacks, new, strict=True))

    return cache._replace(keys=write(4, cache.keys, keys), values=write(3, cache.values, values))


def append_several(cache: Cache, keys: tuple[Any, ...], values: tuple[Any, ...], count_B: jax.Array) -> Cache:
    """The cache with up to T more tokens per row behind those that it has, of which the first count_B are there: their
    keys and values as new_LBTKH of each stack of layers. There must be room for T, whatever count_B is."""
    cut, new_cut = spec(None, "batch", "act_kv_heads", None, None), spec(None, "batch", None, "act_kv_heads", None)

    def write(order: tuple[int, ...], axis: int, stacks: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
        def one(old: jax.Array, new_LBTKH: jax.Array, first_B: jax.Array) -> jax.Array:
            new = new_LBTKH.transpose(order)
            for b in range(old.shape[1]):  # each a write in place; a scatter of T slots would copy the cache
                start = [jnp.int32(0), jnp.int32(b), *[jnp.int32(0)] * 3]
                start[axis] = first_B[b]
                old = jax.lax.dynamic_update_slice(old, new[:, b : b + 1], start)
            return old

        each = on_each(one, (cut, new_cut, spec("batch")), cut)
        return tuple(each(old, one, cache.lengths_B) for old, one in zip(stacks, new, strict=True))

    return Cache(
        keys=write((0, 1, 3, 4, 2), 4, cache.keys, keys),
        values=write((0, 1, 3, 2, 4), 3, cache.values, values),
        lengths_B=cache.lengths_B + count_B,
    )


def _write(cache: jax.Array, new_LBKH: jax.Array, position_B: jax.Array, *, axis: int) -> jax.Array:
    """The cache (L, B, …) with each row's `new_LBKH` in its slot position_B, which is an index of `axis`."""
    rows = functools.partial(_write_rows, axis=axis)
    return jax.lax.platform_dependent(
        cache, new_LBKH, position_B, tpu=rows, default=functools.partial(_scatter, axis=axis)
    )


def _scatter(cache: jax.Array, new_LBKH: jax.Array, position_B: jax.Array, *, axis: int) -> jax.Array:
    # Rows are a batch dimension of the scatter, so XLA writes in place. A vmap over rows means the same, but it moves
    # rows to the front, and XLA:CPU then copies the whole cache.
    places = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(0, 2, 3),
        inserted_window_dims=(axis,),
        scatter_dims_to_operand_dims=(axis,),
        operand_batching_dims=(1,),
        scatter_indices_batching_dims=(0,),
    )
    return jax.lax.scatter(cache, position_B[:, None], new_LBKH, places, unique_indices=True, mode="clip")


def _write_rows(cache: jax.Array, new_LBKH: jax.Array, position_B: jax.Array, *, axis: int) -> jax.Array:
    # For a scatter, XLA:TPU chooses another layout than the products read, and copies the whole cache into it in every
    # step. So this writes row by row and holds the layout. (On a GPU it would start one kernel per row.)
    as_it_lies = Layout(major_to_minor=tuple(range(cache.ndim)))

    def row(b: jax.Array, cache: jax.Array) -> jax.Array:
        new_L1KH = jax.lax.dynamic_slice_in_dim(new_LBKH, b, 1, axis=1)
        start = [jnp.int32(0)] * cache.ndim
        start[1], start[axis] = b, position_B[b]
        written = jax.lax.dynamic_update_slice(cache, jnp.expand_dims(new_L1KH, axis), start)
        return with_layout_constraint(written, as_it_lies)

    return jax.lax.fori_loop(0, cache.shape[1], row, cache)


def attend(
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    before_BS: jax.Array,
    new_k_BKH: jax.Array,
    new_v_BKH: jax.Array,
) -> jax.Array:
    """out_BTNH of a query per row (T = 1), over the slots where before_BS is true and over its own token, whose key and
    value are not in the cache yet. Precision as in `attention.weigh`."""
    B, T, N, H = q_BTNH.shape
    K = k_BKHS.shape[1]
    rest = k_BKHS, v_BKSH, before_BS, new_k_BKH, new_v_BKH

    def padded(q_BKGH: jax.Array, *rest: jax.Array) -> jax.Array:
        # With fewer queries a head, XLA:TPU computes sums on the vector unit. They take longer than reading the cache.
        more = max(0, MATRIX_ROWS - N // K)
        return _read_groups(jnp.pad(q_BKGH, ((0, 0), (0, 0), (0, more), (0, 0))), *rest)[:, :, : N // K]

    q_BKGH = q_BTNH.reshape(B, K, N // K, H)
    return jax.lax.platform_dependent(q_BKGH, *rest, tpu=padded, default=_read_groups).reshape(B, T, N, H)


def _read_groups(
    q_BKGH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    before_BS: jax.Array,
    new_k_BKH: jax.Array,
    new_v_BKH: jax.Array,
) -> jax.Array:
    """The same for query heads grouped by kv head: out_BKGH."""
    H = q_BKGH.shape[-1]
    scores_BKGS = jnp.einsum("BKGH,BKHS->BKGS", q_BKGH, k_BKHS, preferred_element_type=jnp.float32) * H**-0.5
    scores_BKGS = jnp.where(before_BS[:, None, None], scores_BKGS, attention.MASKED)
    own_BKG1 = jnp.einsum("BKGH,BKH->BKG", q_BKGH, new_k_BKH, preferred_element_type=jnp.float32)[..., None] * H**-0.5
    # One softmax over both, without a place for the new token among the others.
    most_BKG1 = jnp.maximum(scores_BKGS.max(-1, keepdims=True), own_BKG1)
    weights_BKGS, own_BKG1 = jnp.exp(scores_BKGS - most_BKG1), jnp.exp(own_BKG1 - most_BKG1)
    total_BKG1 = weights_BKGS.sum(-1, keepdims=True) + own_BKG1
    probs_BKGS, own_BKG1 = ((p / total_BKG1).astype(v_BKSH.dtype) for p in (weights_BKGS, own_BKG1))
    return jnp.einsum("BKGS,BKSH->BKGH", probs_BKGS, v_BKSH) + own_BKG1 * new_v_BKH[:, :, None]


def attend_branches(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    rows: Branches,
    before: Kept | None,
    *,
    window: int | None,
) -> jax.Array:
    """out_BTNH of rows of trees; `before` are the kept k_BSKH and v_BSKH of one layer, a row for each stem."""
    B, T = q_BTNH.shape[:2]
    of_row = None if before is None else Kept(*(one[rows.stem_B] for one in before))
    # A tree may end at the end of its row, and its shelf behind it.
    more = 0 if [a.shape[1:] for a in rows.ends] == [(1, T)] else max(a.shape[2] for a in rows.ends)
    padded = tuple(
        jnp.pad(a, ((0, 0), (0, more), *((0, 0),) * (a.ndim - 2))) for a in (q_BTNH, k_BTKH, v_BTKH, rows.positions_BT)
    )
    found = [
        _attend_shelf(padded, start_BJ, end_BJW, of_row, rows.before_B, window)
        for start_BJ, end_BJW in zip(rows.starts, rows.ends, strict=True)
    ]
    if B > 1:
        flat = [a.reshape(B, -1, *a.shape[-2:]) for a in found]
        return jnp.take_along_axis(jnp.concatenate(flat, axis=1), rows.back_BT[..., None, None], axis=1, mode="clip")
    # Where a tree ends the next one begins, and is written over the padding. XLA:CPU would gather number by number.
    out_BTNH = jnp.zeros_like(padded[0])
    for out_JWNH, start_BJ in zip(found, rows.starts, strict=True):
        for at in range(start_BJ.shape[1]):
            out_BTNH = jax.lax.dynamic_update_slice_in_dim(out_BTNH, out_JWNH[at : at + 1], start_BJ[0, at], axis=1)
    return out_BTNH[:, :T]


def _cut(row_BT: jax.Array, start_BJ: jax.Array, width: int) -> jax.Array:
    """The places from start_BJ on of each row, `width` of them: (B * J, W, ...)."""
    B, J = start_BJ.shape
    if B == 1:
        cuts = [jax.lax.dynamic_slice_in_dim(row_BT, start_BJ[0, j], width, axis=1) for j in range(J)]
        return jnp.concatenate(cuts)

    def cut(row: jax.Array, start_J: jax.Array) -> jax.Array:
        return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(row, start, width))(start_J)

    return jax.vmap(cut)(row_BT, start_BJ).reshape(B * J, width, *row_BT.shape[2:])


def _attend_shelf(
    qkv_and_positions: tuple[jax.Array, ...],
    start_BJ: jax.Array,
    end_BJW: jax.Array,
    before: Kept | None,
    before_B: jax.Array,
    window: int | None,
) -> jax.Array:
    """The outputs of all places of a shelf, (B * J, W, N, H). `before` has a row for each row of q."""
    B, J, W = end_BJW.shape
    q_BTNH, k_BTKH, v_BTKH, at_BW = (_cut(a, start_BJ, W) for a in qkv_and_positions)
    end_BS = end_BJW.reshape(B * J, W)
    kept_BS = None
    if before is not None:
        kept_k_BSKH, kept_v_BSKH = (jnp.repeat(one, J, axis=0) for one in before)
        kept_BS = jnp.arange(kept_k_BSKH.shape[1]) < jnp.repeat(before_B, J)[:, None]
        k_BTKH, v_BTKH = (jnp.concatenate(a, axis=1) for a in ((kept_k_BSKH, k_BTKH), (kept_v_BSKH, v_BTKH)))
    S = k_BTKH.shape[1] - W
    outs = []
    # Queries in parts, each with the keys up to its end only: most of what a causal mask hides is not computed.
    part = max(LEAST_QUERIES, -(-W // (8 * QUERY_PARTS)) * 8)
    for since in range(0, W, part):
        until = min(W, since + part)
        at_T, at_S = jnp.arange(since, until), jnp.arange(until)
        mask_BTS = (at_S <= at_T[:, None]) & (at_T[:, None] < end_BS[:, None, :until])
        if kept_BS is not None:
            all_BTS = jnp.broadcast_to(kept_BS[:, None], (B * J, until - since, S))
            mask_BTS = jnp.concatenate([all_BTS, mask_BTS], axis=2)
        if window is not None:  # a kept token's place is its position
            kept_at_BS = jnp.broadcast_to(jnp.arange(S), (B * J, S))
            key_at_BS = jnp.concatenate([kept_at_BS, at_BW[:, :until]], axis=1)
            mask_BTS &= key_at_BS[:, None] > at_BW[:, since:until, None] - window
        part_of = slice(0, S + until)
        outs.append(_weigh(q_BTNH[:, since:until], k_BTKH[:, part_of], v_BTKH[:, part_of], mask_BTS))
    return jnp.concatenate(outs, axis=1)


def _weigh(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """`attention.weigh`, where nothing is differentiated. XLA:CPU takes a fifth less time: scores lie as the product
    gives them, and the division comes after the values, which have fewer numbers than the probabilities."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKTGS = jnp.einsum("BTKGH,BSKH->BKTGS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32) * H**-0.5
    scores_BKTGS = jnp.where(mask_BTS[:, None, :, None], scores_BKTGS, attention.MASKED)
    weights_BKTGS = jnp.exp(scores_BKTGS - scores_BKTGS.max(axis=-1, keepdims=True))
    total_BKTG1 = weights_BKTGS.sum(axis=-1, keepdims=True)
    sums_BKTGH = jnp.einsum(
        "BKTGS,BSKH->BKTGH", weights_BKTGS.astype(v_BSKH.dtype), v_BSKH, preferred_element_type=jnp.float32
    )
    out_BKTGH = (sums_BKTGH / total_BKTG1).astype(v_BSKH.dtype)
    return out_BKTGH.transpose(0, 2, 1, 3, 4).reshape(B, T, N, H)


def repeat(cache: Cache, n: int) -> Cache:
    """Each row n times, side by side: row b becomes rows b * n to b * n + n - 1."""
    keys, values = (tuple(jnp.repeat(a, n, axis=1) for a in stacks) for stacks in (cache.keys, cache.values))
    return Cache(keys, values, jnp.repeat(cache.lengths_B, n))
