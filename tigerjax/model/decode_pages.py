"""The kernel of `decode_kernels.attend` for a cache of pages: it reads only the pages that a row has.

Step s of its loop sends for the pages of the rows of step s, and computes those of step s - 1, whose pages have come
in the meantime. So there are two places in the vector memory. They hold the slots of a row side by side, as a cache
without pages does, and the arithmetic is the same.

The page tables of JAX's own kernels (`jax.experimental.pallas.ops.tpu`) are of one layer. For them each layer would be
cut out of the cache, a copy in every step, and the new token would be written before it is read.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tigerjax.model import decode_kernels


def attend(
    new: tuple[jax.Array, jax.Array, jax.Array],
    angles: tuple[jax.Array, jax.Array],
    held: tuple[jax.Array, jax.Array],
    where: tuple[jax.Array, jax.Array, jax.Array],
    *,
    window: int | None,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """As `decode_kernels.attend`. `new` are q_NBH, k_KBH and v_KBH; `held` are keys and values in pages, and `where`
    layer_1, position_B and page_BT."""
    (q_NBH, k_KBH, _), (k_LBKHS, _), (layer_1, position_B, page_BT) = new, held, where
    (N, B, H), K, T, dtype = q_NBH.shape, len(k_KBH), page_BT.shape[1], k_LBKHS.dtype
    slots, size = k_LBKHS.shape[4], dtype.itemsize
    S, G = T * slots, N // K
    rows = decode_kernels.attention_rows(B, S, H, size)
    cores = 2 if B // rows % 2 == 0 else 1  # each has a half of the rows where a device has two
    blocks = B // rows // cores

    def body(layer_ref: Any, position_ref: Any, page_ref: Any, *refs: Any) -> None:
        *given, keys_hbm, values_hbm, o_ref, new_k_ref, keys_ref, values_ref, turned_ref, come = refs
        core, step = pl.program_id(0), pl.program_id(1)

        def first_row(step: Any) -> Any:
            return (core * blocks + step // K) * rows

        def each_page(step: Any, act: Any) -> None:
            """`act` for the copies of all pages that the rows of a step read."""
            place = step % 2
            for r in range(rows):
                row = first_row(step) + r
                position = position_ref[row]
                for t in range(T):
                    read = t * slots < position
                    if window is not None:
                        read &= (t + 1) * slots > position - window + 1
                    # Each place is filled once, with pages that are nobody's where the row has none: what was in the
                    # memory before may be no number, and 0 times that is none either.
                    read |= step < 2

                    def both(r: int = r, t: int = t, row: Any = row) -> None:
                        page, here = page_ref[row * T + t], pl.ds(t * slots, slots)
                        source = layer_ref[0], page, step % K
                        for whole, part in (
                            (keys_hbm, keys_ref.at[place, r, :, here]),
                            (values_hbm, values_ref.at[place, r, here]),
                        ):
                            act(pltpu.make_async_copy(whole.at[source], part, come.at[place]))

                    pl.when(read)(both)

        @pl.when(step < blocks * K)
        def _() -> None:
            each_page(step, lambda copy: copy.start())

        @pl.when(step > 0)
        def _() -> None:
            before = step - 1
            each_page(before, lambda copy: copy.wait())
            decode_kernels.attend_rows(
                (*given, o_ref, new_k_ref, turned_ref),
                lambda r: position_ref[first_row(before) + r],
                lambda r: keys_ref[before % 2, r],
                lambda r: values_ref[before % 2, r],
                window=window,
            )

    def of_head(count: int) -> Any:
        def block(core: Any, step: Any, *_: Any) -> Any:
            before = jnp.maximum(step - 1, 0)
            return before % K, core * blocks + before // K, 0

        return pl.BlockSpec((count, rows, H), block)

    of_row = pl.BlockSpec((rows, H), lambda core, step, *_: (core * blocks + jnp.maximum(step - 1, 0) // K, 0))
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    each = 2 * rows * H * S * size
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(cores, blocks * K + 1),
            in_specs=[of_head(G), of_head(1), of_head(1), of_row, of_row, anywhere, anywhere],
            out_specs=[of_head(G), of_head(1)],
            scratch_shapes=[
                pltpu.VMEM((2, rows, H, S), dtype),
                pltpu.VMEM((2, rows, S, H), dtype),
                pltpu.VMEM((G, rows, H), jnp.float32),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in (q_NBH, k_KBH)],
        compiler_params=decode_kernels.parameters("parallel", "arbitrary", blocks=2 * each),
        # Of rows that are as long as they may be.
        cost_estimate=decode_kernels.cost(4 * N * B * H * S, 2 * B * K * H * S * size, each),
        interpret=interpret,
        name="decode_attention_pages",
    )(layer_1, position_B, page_BT.reshape(-1), *new, *angles, *held)
