"""Rows of tokens that belong to trees: how they are described, and how their queries read keys and values.

x_BTD, kept = keep(weights, …)                  # of `tigerjax.model.decode`
x_BTD = branch(weights, …, Branches(…), kept)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tigerjax.model import attention

QUERY_PARTS, LEAST_QUERIES = 4, 32  # parts of a tree that read keys by themselves, and tokens of one at least


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
