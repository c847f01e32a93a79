"""The KV cache of a decode: how keys and values lie, how one query reads them and how a new token joins them.

A token at position p of its row lies in slot p, so `slot <= position` is the whole mask, and rows of different lengths
need nothing else. Keys lie as K H S and values as K S H: the two products of a step then read them as they lie. With S
before K, XLA:CPU transposes the whole cache at every step.

Layers come in stacks, weights and cache alike: one stack of all layers, which a loop runs through, or several
(`unstack`).

A cache in pages holds the tokens of a row in pages of some slots, which lie anywhere, and a table of them: the token at
position p is in slot p mod page_slots of page page_BT[row, p // page_slots]. So the memory is that of the tokens that
there are, and rows that begin alike can share pages. Who shares them is decided in `tigerjax.sample.paging`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from tigerjax.mesh import on_each, spec
from tigerjax.model import attention, cache_write
from tigerjax.model.layers import Weights
from tigerjax.model.quantised import rounded

MATRIX_ROWS = 8  # rows that a TPU's matrix unit takes at a time


class Form(NamedTuple):
    """How a cache is held."""

    stacks: int = 1
    """In how many stacks its layers are."""
    dtype: Literal["int8"] | None = None
    """None: that of the products. In int8 each token has a scale for each head, of its key and of its value."""
    pages: int = 0
    """In how many pages its tokens lie, over all devices, the empty ones too; 0: each row has all its slots."""
    page_slots: int = 0
    """Tokens of a page."""


PLAIN = Form()


class Rounded(NamedTuple):
    """Keys or values in int8. Keys are `mixed` before they are rounded."""

    numbers: Any
    """Where they lie as in an array of floats."""
    scales_LBK1S: Any
    """float32, of values too: with slots last a TPU pads them least."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.numbers.shape)


class Cache(NamedTuple):
    """Rotated keys and values: arrays in the compute dtype, or `Rounded` ones. Slots from lengths_B on hold nothing
    that is read."""

    keys: tuple[Any, ...]
    """k_LBKHS of each stack of layers."""
    values: tuple[Any, ...]
    """v_LBKSH of each. In pages: B is the pages, S the slots of one; keys too."""
    lengths_B: jax.Array
    """Slots filled, so also the position of the next token; int32."""
    page_BT: Any = None
    """The pages of each row in the order of its tokens, int32, counted among those of its device. Page 0 is nobody's:
    it stands where a row has no page, and what is written there is not read. None: the cache has no pages."""


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


def empty(shape_LBKHS: tuple[int, ...], dtype: DTypeLike, form: Form) -> Cache:
    """Rows without a token, in `dtype` where the form has none of its own."""
    L, B, K, H, S = shape_LBKHS
    lengths_B, page_BT = jnp.zeros(B, jnp.int32), None
    if form.pages:
        page_BT = jnp.zeros((B, -(-S // form.page_slots)), jnp.int32)
        B, S = form.pages, form.page_slots

    def stack(H: int, S: int, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
        shape = L // form.stacks, B, K
        return jnp.zeros((*shape, H, S), dtype), jnp.zeros((*shape, S, H), dtype)

    def both() -> tuple[Any, Any]:
        if form.dtype is None:
            return stack(H, S, dtype)
        keys, values = (Rounded(numbers, stack(1, S, jnp.float32)[0]) for numbers in stack(H, S, form.dtype))
        return keys, values

    keys, values = zip(*(both() for _ in range(form.stacks)), strict=True)
    return Cache(keys, values, lengths_B, page_BT)


def slots_of(cache: Cache) -> int:
    """The most tokens that a row may have."""
    slots = int(cache.keys[0].shape[-1])
    return slots if cache.page_BT is None else slots * cache.page_BT.shape[1]


def rows_of(held: Any, page_BT: jax.Array | None, axis: int) -> Any:
    """Keys or values of a layer with the slots of each row side by side, along `axis`, as without pages: a copy."""
    if page_BT is None:
        return held

    def gathered(held: jax.Array, page_BT: jax.Array, axis: int) -> jax.Array:
        apart = jnp.moveaxis(held[page_BT], 1, axis)
        return apart.reshape(*apart.shape[:axis], -1, *apart.shape[axis + 2 :])

    def on_device(held: jax.Array, axis: int) -> jax.Array:
        cut = spec("batch", "act_kv_heads", None, None)
        return on_each(functools.partial(gathered, axis=axis), (cut, spec("batch", None)), cut)(held, page_BT)

    if isinstance(held, Rounded):
        return Rounded(on_device(held.numbers, axis), on_device(held.scales_LBK1S, 3))
    return on_device(held, axis)


def any_without_room(cache: Cache, live_B: jax.Array) -> jax.Array:
    """Whether a row of `live_B` has no page for its next token."""
    room_B = (cache.page_BT > 0).sum(1) * cache.keys[0].shape[-1]
    return (live_B & (cache.lengths_B >= room_B)).any()


def put_pages(old: jax.Array, new: jax.Array, page_CT: jax.Array, axis: int) -> jax.Array:
    """Keys or values in pages, with those of C rows of slots, `new` (L, C, …), in the pages page_CT, which are counted
    over all devices. A page past the last is not written. `axis` is that of the slots."""
    many, slots = page_CT.shape[1], old.shape[axis]
    whole = [(0, many * slots - new.shape[axis] if place == axis else 0) for place in range(new.ndim)]
    apart = jnp.pad(new, whole).reshape(*new.shape[:axis], many, slots, *new.shape[axis + 1 :])
    return old.at[:, page_CT].set(jnp.moveaxis(apart, axis, 2).astype(old.dtype), mode="drop")


def mixed(x: jax.Array, axis: int = -1) -> jax.Array:
    """`x` with its features, which are along `axis`, turned by an orthogonal matrix that is its own inverse.

    Products of mixed queries and mixed keys are those of the queries and keys themselves. A few features of keys are
    much larger than the others, and a scale in int8 would be made for them; mixed, none is (QuaRot; Ashkboos et al.
    2024, arXiv 2404.00456, section 4, the rotation of keys)."""
    H = x.shape[axis]
    size = H & -H  # the largest power of two that divides H
    signs = np.ones((1, 1), np.float32)
    while len(signs) < size:
        signs = np.block([[signs, signs], [signs, -signs]])
    signs_HH = jnp.asarray(np.kron(np.eye(H // size), signs), x.dtype)  # exact in any type; so the root comes later
    moved = jnp.moveaxis(x, axis, -1)
    out = jnp.matmul(moved, signs_HH, precision="highest", preferred_element_type=jnp.float32) * size**-0.5
    return jnp.moveaxis(out, -1, axis).astype(x.dtype)


def _as_in(old: Any, new: jax.Array, axis: int, change: Callable[..., jax.Array] | None = None) -> Any:
    """New keys or values, whose features are along `axis`, in the form of those of a cache; where that is int8, after
    `change`. Their scales are 1 long along `axis`."""
    if not isinstance(old, Rounded) or isinstance(new, Rounded):
        return new
    new = new.astype(jnp.float32)
    return Rounded(*rounded(new if change is None else change(new, axis), (axis,), "int8"))


def in_form_of(cache: Cache, other: Cache) -> Cache:
    """The keys and values of `cache` held as those of `other`."""

    def values_as_in(old: Any, new: Any) -> Any:
        made = _as_in(old, new, 4)
        return made._replace(scales_LBK1S=made.scales_LBK1S.swapaxes(3, 4)) if made is not new else new

    keys = tuple(_as_in(old, new, 3, mixed) for old, new in zip(other.keys, cache.keys, strict=True))
    return cache._replace(keys=keys, values=tuple(map(values_as_in, other.values, cache.values)))


def over_tokens(function: Callable[..., jax.Array], *caches: Cache) -> Cache:
    """`function(axis, …)` of the arrays of the caches that stand at one place, scales too; `axis` is that of the
    tokens. The lengths are those of the first cache."""

    def each(axis: int, *held: Any) -> Any:
        if not isinstance(held[0], Rounded):
            return function(axis, *held)
        numbers, scales = zip(*held, strict=True)
        return Rounded(function(axis, *numbers), function(4, *scales))

    keys = tuple(each(4, *held) for held in zip(*(one.keys for one in caches), strict=True))
    values = tuple(each(3, *held) for held in zip(*(one.values for one in caches), strict=True))
    return caches[0]._replace(keys=keys, values=values)


def append(cache: Cache, keys: tuple[Any, ...], values: tuple[Any, ...], position_B: jax.Array) -> Cache:
    """The cache with one more token per row at position_B: its keys and values as new_LBKH of each stack of layers."""
    cut, new_cut = spec(None, "batch", "act_kv_heads", None, None), spec(None, "batch", "act_kv_heads", None)
    where_B: tuple[jax.Array, ...] = (position_B,)
    if cache.page_BT is not None:
        slots = cache.keys[0].shape[-1]
        page_B1 = jnp.take_along_axis(cache.page_BT, position_B[:, None] // slots, axis=1)
        where_B = position_B % slots, page_B1[:, 0]

    def write(axis: int, old: jax.Array, new_LBKH: jax.Array) -> jax.Array:
        # Each device writes its own rows: XLA would gather a cache that is written at an index of a split axis.
        one = on_each(
            functools.partial(cache_write.write, axis=axis), (cut, new_cut, *[spec("batch")] * len(where_B)), cut
        )
        return one(old, new_LBKH, *where_B)

    return over_tokens(write, cache, _new(cache, keys, values))


def append_several(cache: Cache, keys: tuple[Any, ...], values: tuple[Any, ...], count_B: jax.Array) -> Cache:
    """The cache with up to T more tokens per row behind those that it has, of which the first count_B are there: their
    keys and values as new_LBTKH of each stack of layers. There must be room for T, whatever count_B is."""
    cut, new_cut = spec(None, "batch", "act_kv_heads", None, None), spec(None, "batch", None, "act_kv_heads", None)

    def write(axis: int, old: jax.Array, new_LBTKH: jax.Array) -> jax.Array:
        def one(old: jax.Array, new_LBTKH: jax.Array, first_B: jax.Array) -> jax.Array:
            new = new_LBTKH.transpose((0, 1, 3, 4, 2) if axis == 4 else (0, 1, 3, 2, 4))
            for b in range(old.shape[1]):  # each a write in place; a scatter of T slots would copy the cache
                start = [jnp.int32(0), jnp.int32(b), *[jnp.int32(0)] * 3]
                start[axis] = first_B[b]
                old = jax.lax.dynamic_update_slice(old, new[:, b : b + 1], start)
            return old

        return on_each(one, (cut, new_cut, spec("batch")), cut)(old, new_LBTKH, cache.lengths_B)

    made = over_tokens(write, cache, _new(cache, keys, values))
    return made._replace(lengths_B=cache.lengths_B + count_B)


def _new(cache: Cache, keys: tuple[Any, ...], values: tuple[Any, ...]) -> Cache:
    """New keys and values, features last, in the form of those of a cache."""
    keys, values = (
        tuple(_as_in(old, one, one.ndim - 1, change) for old, one in zip(stacks, new, strict=True))
        for stacks, new, change in ((cache.keys, keys, mixed), (cache.values, values, None))
    )
    return Cache(keys, values, cache.lengths_B)


def attend(
    q_BTNH: jax.Array,
    k_BKHS: Any,
    v_BKSH: Any,
    before_BS: jax.Array,
    new_k_BKH: jax.Array,
    new_v_BKH: jax.Array,
) -> jax.Array:
    """out_BTNH of a query per row (T = 1), over the slots where before_BS is true and over its own token, whose key and
    value are not in the cache yet. Precision as in `attention.weigh`."""
    B, T, N, H = q_BTNH.shape
    K = new_k_BKH.shape[1]
    rest = k_BKHS, v_BKSH, before_BS, new_k_BKH, new_v_BKH

    def padded(q_BKGH: jax.Array, *rest: Any) -> jax.Array:
        # With fewer queries a head, XLA:TPU computes sums on the vector unit. They take longer than reading the cache.
        more = max(0, MATRIX_ROWS - N // K)
        return _read_groups(jnp.pad(q_BKGH, ((0, 0), (0, 0), (0, more), (0, 0))), *rest)[:, :, : N // K]

    q_BKGH = q_BTNH.reshape(B, K, N // K, H)
    return jax.lax.platform_dependent(q_BKGH, *rest, tpu=padded, default=_read_groups).reshape(B, T, N, H)


def _read_groups(
    q_BKGH: jax.Array,
    k_BKHS: Any,
    v_BKSH: Any,
    before_BS: jax.Array,
    new_k_BKH: jax.Array,
    new_v_BKH: jax.Array,
) -> jax.Array:
    """The same for query heads grouped by kv head: out_BKGH."""
    H, dtype = q_BKGH.shape[-1], q_BKGH.dtype
    # The scales are multiplied with the scores and the probabilities: so both products read whole numbers as they lie.
    k_BKHS, k_scale_BK1S = _parts(k_BKHS)
    v_BKSH, v_scale_BK1S = _parts(v_BKSH)
    read_BKGH = q_BKGH if k_scale_BK1S is None else mixed(q_BKGH)
    scores_BKGS = jnp.einsum("BKGH,BKHS->BKGS", read_BKGH, k_BKHS.astype(dtype), preferred_element_type=jnp.float32)
    scores_BKGS = scores_BKGS * H**-0.5 if k_scale_BK1S is None else scores_BKGS * (k_scale_BK1S * H**-0.5)
    scores_BKGS = jnp.where(before_BS[:, None, None], scores_BKGS, attention.MASKED)
    own_BKG1 = jnp.einsum("BKGH,BKH->BKG", q_BKGH, new_k_BKH, preferred_element_type=jnp.float32)[..., None] * H**-0.5
    # One softmax over both, without a place for the new token among the others.
    most_BKG1 = jnp.maximum(scores_BKGS.max(-1, keepdims=True), own_BKG1)
    weights_BKGS, own_BKG1 = jnp.exp(scores_BKGS - most_BKG1), jnp.exp(own_BKG1 - most_BKG1)
    total_BKG1 = weights_BKGS.sum(-1, keepdims=True) + own_BKG1
    probs_BKGS, own_BKG1 = weights_BKGS / total_BKG1, (own_BKG1 / total_BKG1).astype(dtype)
    if v_scale_BK1S is not None:
        probs_BKGS *= v_scale_BK1S
    out_BKGH = jnp.einsum("BKGS,BKSH->BKGH", probs_BKGS.astype(dtype), v_BKSH.astype(dtype))
    return out_BKGH + own_BKG1 * new_v_BKH[:, :, None]


def _parts(held: Any) -> tuple[jax.Array, jax.Array | None]:
    """(numbers, their scales) of keys or values; None where they have none."""
    return held if isinstance(held, Rounded) else (held, None)


def first(held: Any, axis: int, count: int, dtype: DTypeLike) -> jax.Array:
    """The first `count` slots of a layer's keys or values, in `dtype`; `axis` is that of the slots."""
    numbers, scale_BK1S = _parts(held)
    numbers = jax.lax.slice_in_dim(numbers, 0, count, axis=axis)
    if scale_BK1S is None:
        return numbers
    scale_BK1S = scale_BK1S[..., :count]
    if axis == 3:
        return mixed(numbers * scale_BK1S, 2).astype(dtype)
    return (numbers * scale_BK1S.swapaxes(2, 3)).astype(dtype)


def repeat(cache: Cache, n: int) -> Cache:
    """Each row n times, side by side: row b becomes rows b * n to b * n + n - 1."""
    many = over_tokens(lambda _, a: jnp.repeat(a, n, axis=1), cache)
    return many._replace(lengths_B=jnp.repeat(cache.lengths_B, n))
