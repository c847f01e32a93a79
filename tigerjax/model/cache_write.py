"""Writing the keys or values of one new token of each row into a cache, in place."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint


def write(cache: jax.Array, new_LBKH: jax.Array, *where_B: jax.Array, axis: int) -> jax.Array:
    """The cache (L, B, …) with each row's `new_LBKH` in its slot, which is an index of `axis`. `where_B` are the slots,
    and in a cache of pages the pages."""
    rows, scatter = (functools.partial(how, axis=axis) for how in (_write_rows, _scatter))
    return jax.lax.platform_dependent(cache, new_LBKH, *where_B, tpu=rows, default=scatter)


def _scatter(cache: jax.Array, new_LBKH: jax.Array, *where_B: jax.Array, axis: int) -> jax.Array:
    if len(where_B) == 2:  # rows without a page share page 0, so the places are not unique
        position_B, page_B = where_B
        places = jax.lax.ScatterDimensionNumbers(
            update_window_dims=(0, 2, 3), inserted_window_dims=(1, axis), scatter_dims_to_operand_dims=(1, axis)
        )
        return jax.lax.scatter(cache, jnp.stack([page_B, position_B], axis=1), new_LBKH, places, mode="clip")
    (position_B,) = where_B
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


def _write_rows(cache: jax.Array, new_LBKH: jax.Array, *where_B: jax.Array, axis: int) -> jax.Array:
    # For a scatter, XLA:TPU chooses another layout than the products read, and copies the whole cache into it in every
    # step. So this writes row by row and holds the layout. (On a GPU it would start one kernel per row.)
    as_it_lies = Layout(major_to_minor=tuple(range(cache.ndim)))
    position_B = where_B[0]

    # Four whole numbers share a word, and a write of one of them into a tile would copy the cache in every step. So the
    # tile is read, and written whole.
    slots = cache.shape[axis]
    tile = min({3: 32, 4: 128}[axis], slots) if cache.dtype == jnp.int8 else 1

    # In the form of a slot before the loop: XLA would turn the features of a key into a column anew for every row.
    made = jax.lax.optimization_barrier(jnp.expand_dims(new_LBKH, axis))

    def row(b: jax.Array, cache: jax.Array) -> jax.Array:
        new = jax.lax.dynamic_slice_in_dim(made, b, 1, axis=1)
        start = [jnp.int32(0)] * cache.ndim
        start[1], start[axis] = where_B[1][b] if where_B[1:] else b, position_B[b] // tile * tile
        if slots % tile:  # the last tile begins earlier; XLA then no longer sees that tiles lie apart, and copies
            start[axis] = jnp.minimum(start[axis], slots - tile)
        if tile > 1:
            size = list(cache.shape)
            size[1], size[axis] = 1, tile
            here = start[axis] + jax.lax.broadcasted_iota(jnp.int32, size, axis) == position_B[b]
            new = jnp.where(here, new, jax.lax.dynamic_slice(cache, start, size))
        written = jax.lax.dynamic_update_slice(cache, new, start)
        return with_layout_constraint(written, as_it_lies)

    return jax.lax.fori_loop(0, new_LBKH.shape[1], row, cache)
