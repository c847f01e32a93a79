"""The slots of a decode: R rows on the device, each with one unfinished candidate, refilled as candidates finish.

    prefill   runs P prompts through the model, once each: logits, keys and values
    fill      copies prompts into free slots and draws the first token of each
    advance   decodes all slots until enough of them are free again

A free slot computes as well, and its results are dropped. All shapes follow from R, P, the bucket of the prompts and
the longest answer. So each of the three is compiled once a bucket, and a candidate is computed in the same shapes
whichever slot it is in and whatever its neighbours are.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.model import cache as kv
from tigerjax.model import families
from tigerjax.sample.choose import choose, choose_each

traced = [0]
"""Traces of the three functions in this process; each is one compilation."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Draw:
    """How every token is drawn and which ids end an answer. It is a part of the program: others are compiled anew."""

    temperature: float
    top_p: float
    top_k: int
    stops: tuple[int, ...]


class Each(NamedTuple):
    """The same for each row by itself, as arrays: one program for all settings."""

    temperature_R: Any
    top_p_R: Any
    top_k_R: Any
    stops_RE: Any
    """The ids that end each answer; -1 in the other places."""
    live_R: Any
    """Rows where it is false are freed, whatever they hold."""
    top: Any
    """Whether the most probable tokens are looked for."""


class Top(NamedTuple):
    """The most probable tokens beside each one that was drawn, the first the most probable."""

    ids_RTN: jax.Array
    logprobs_RTN: jax.Array
    """In nats, at temperature 1, nothing truncated."""


class Starts(NamedTuple):
    """C candidates that are to be started, each in a free slot."""

    slot_C: jax.Array | np.ndarray
    """Where each goes; slot R does not exist, and what is put there is dropped."""
    prompt_C: jax.Array | np.ndarray
    """Which row of the prefill it continues."""
    keydata_C2: jax.Array | np.ndarray
    """Its random key, as two uint32 words."""
    limit_C: jax.Array | np.ndarray
    """The most tokens that it may have."""
    page_CT: jax.Array | np.ndarray | None = None
    """Which pages get the tokens of its prompt, counted over all devices; past the last: that page is there. None for
    a cache without pages."""


class Slots(NamedTuple):
    """R candidates; tokens_RT has room for the longest answer, or for what `advance` draws in `most` steps."""

    cache: kv.Cache
    keys_R: jax.Array
    token_R: jax.Array
    """The last token drawn, not yet read by the model."""
    left_R: jax.Array
    """Tokens that may still be drawn. 0: the slot is free, or its answer is finished and was not fetched yet."""
    number_R: jax.Array
    """The number of the next draw in the candidate's random stream."""
    tokens_RT: jax.Array
    """Without the token that ended the answer."""
    count_R: jax.Array
    """Tokens in tokens_RT."""
    stop_R: jax.Array
    """The token that ended the answer, or -1."""
    logprob_R: jax.Array
    """Sum over all draws, the ending one too: nats at temperature 1, nothing truncated."""
    logprobs_RT: jax.Array
    """Of each draw, the ending one too."""
    top: Top | None
    """None: nobody asks for it."""
    steps: jax.Array
    """Decode steps since `empty`."""


class Seen(NamedTuple):
    """What the host reads after `advance`. On a mesh every device has all of it, so that every process can read it."""

    left_R: jax.Array
    tokens_RT: jax.Array
    count_R: jax.Array
    stop_R: jax.Array
    logprob_R: jax.Array
    logprobs_RT: jax.Array
    top: Top | None
    steps: jax.Array


def empty(
    config: ModelConfig,
    compute: ComputeConfig,
    rows: int,
    length: int,
    answer: int,
    mesh: Mesh | None,
    form: kv.Form = kv.PLAIN,
    top: int = 0,
) -> Slots:
    """`rows` free slots for prompts and answers of up to `length` tokens together, of which `answer` are in tokens_RT.
    `form` is that of the cache; `top` is how many of the most probable tokens there is room for."""
    shape_LBKHS = config.num_layers, rows, config.num_kv_heads, config.head_dim, length

    def make() -> Slots:
        return Slots(
            cache=kv.empty(shape_LBKHS, compute.dtype, form),
            keys_R=jax.random.split(jax.random.key(0, impl="threefry2x32"), rows),
            token_R=jnp.zeros(rows, jnp.int32),
            left_R=jnp.zeros(rows, jnp.int32),
            number_R=jnp.zeros(rows, jnp.int32),
            tokens_RT=jnp.zeros((rows, answer), jnp.int32),
            count_R=jnp.zeros(rows, jnp.int32),
            stop_R=jnp.full(rows, -1, jnp.int32),
            logprob_R=jnp.zeros(rows, jnp.float32),
            logprobs_RT=jnp.zeros((rows, answer), jnp.float32),
            top=Top(*(jnp.zeros((rows, answer, top), dtype) for dtype in (jnp.int32, jnp.float32))) if top else None,
            steps=jnp.int32(0),
        )

    # Made in its shardings, so that no device ever holds the whole cache.
    return make() if mesh is None else jax.jit(make, out_shardings=shardings(mesh, form, top))()


def shardings(mesh: Mesh, form: kv.Form = kv.PLAIN, top: int = 0) -> Slots:
    """Rows over the batch axes, and pages too; heads over 'tensor'."""
    row, none = mesh_axes.sharding(mesh, "batch"), mesh_axes.sharding(mesh)
    heads = (mesh_axes.sharding(mesh, None, "batch", "act_kv_heads"),) * form.stacks
    cache = kv.Cache._make([heads, heads, row, row if form.pages else None])
    return Slots._make([cache, *[row] * 9, Top._make([row, row]) if top else None, none])


def _pin(slots: Slots, mesh: Mesh | None) -> Slots:
    """`slots` in the shardings of `empty`, so that the next call takes them without another compilation."""
    if mesh is None:
        return slots
    top = 0 if slots.top is None else 1
    form = kv.Form(len(slots.cache.keys), pages=0 if slots.cache.page_BT is None else 1)
    return jax.lax.with_sharding_constraint(slots, shardings(mesh, form, top))


@functools.partial(jax.jit, static_argnames=("length", "mesh"))
def resized(slots: Slots, *, length: int, mesh: Mesh | None) -> Slots:
    """The slots with a cache of `length` tokens for each row. No live row may be longer than that."""
    traced[0] += 1

    def fit(axis: int, cache: jax.Array) -> jax.Array:
        if (more := length - cache.shape[axis]) <= 0:
            return jax.lax.slice_in_dim(cache, 0, length, axis=axis)
        return jnp.pad(cache, [(0, more if place == axis else 0) for place in range(cache.ndim)])

    return _pin(slots._replace(cache=kv.over_tokens(fit, slots.cache)), mesh)


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def prefill(
    weights: Any, tokens_BT: jax.Array, segment_ids_BT: jax.Array, *, config: ModelConfig, compute: ComputeConfig
) -> tuple[jax.Array, kv.Cache]:
    """(logits_BV after each prompt, its cache of T slots)."""
    traced[0] += 1
    return families.of(config).prefill(weights, config, compute, tokens_BT, segment_ids_BT, max_len=tokens_BT.shape[1])


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def fill(
    slots: Slots,
    logits_BV: jax.Array,
    prompts: kv.Cache,
    starts: Starts,
    *,
    draw: Draw | Each,
    mesh: Mesh | None,
) -> Slots:
    """The slots with the candidates of `starts` in them, and the first token of each drawn.

    `logits_BV` and `prompts` are what `prefill` returned; an Each has a row for each candidate."""
    traced[0] += 1
    slot_C, prompt_C, keydata_C2, limit_C = map(jnp.asarray, starts[:4])
    keys_C = jax.random.wrap_key_data(keydata_C2, impl="threefry2x32")
    new_logits_CV = logits_BV[prompt_C]
    first_C = jnp.zeros_like(slot_C)
    token_C, logprob_C, ended_C, top_CN = _draw(new_logits_CV, keys_C, first_C, draw, slots.top)
    T = min(prompts.keys[0].shape[-1], slots.cache.keys[0].shape[-1])

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[slot_C].set(new.astype(old.dtype), mode="drop")

    # The slot's last candidate left keys and values after the prompt's, and so did the last owner of a page. They are
    # never read: they are past the row's length.
    def begin(axis: int, old: jax.Array, new: jax.Array) -> jax.Array:
        if starts.page_CT is not None:
            return kv.put_pages(old, new[:, prompt_C], jnp.asarray(starts.page_CT), axis)
        upto = (slice(None),) * (axis - 2) + (slice(T),)
        return old.at[:, slot_C, *upto].set(new[:, prompt_C, *upto], mode="drop")

    cache = kv.over_tokens(begin, slots.cache, kv.in_form_of(prompts, slots.cache))
    cache = cache._replace(lengths_B=put(slots.cache.lengths_B, prompts.lengths_B[prompt_C]))
    tokens_CT = jnp.zeros((len(slot_C), slots.tokens_RT.shape[1]), jnp.int32)
    filled = Slots(
        cache=cache,
        keys_R=slots.keys_R.at[slot_C].set(keys_C, mode="drop"),
        token_R=put(slots.token_R, token_C),
        left_R=put(slots.left_R, jnp.where(ended_C, 0, limit_C - 1)),
        number_R=put(slots.number_R, first_C + 1),
        tokens_RT=put(slots.tokens_RT, tokens_CT.at[:, 0].set(jnp.where(ended_C, 0, token_C))),
        count_R=put(slots.count_R, ~ended_C),
        stop_R=put(slots.stop_R, jnp.where(ended_C, token_C, -1)),
        logprob_R=put(slots.logprob_R, logprob_C),
        logprobs_RT=put(slots.logprobs_RT, jnp.zeros(tokens_CT.shape).at[:, 0].set(logprob_C)),
        top=_put_top(slots.top, slot_C, first_C, top_CN),
        steps=slots.steps,
    )
    return _pin(filled, mesh)


@functools.partial(jax.jit, static_argnames=("config", "compute", "mesh"), donate_argnums=1)
def advance(
    weights: Any,
    slots: Slots,
    enough: jax.Array,
    most: jax.Array | None = None,
    *,
    config: ModelConfig,
    compute: ComputeConfig,
    draw: Draw | Each,
    mesh: Mesh | None,
) -> tuple[Slots, Seen]:
    """Decodes until at least `enough` slots are free (left_R is 0); `enough` is at most R.

    With `most` it stops after so many steps at the latest, and the slots forget what is in Seen. So T need be no more
    than `most` and one, the first token of an answer.

    In a cache of pages, rows without a page are freed, and it stops before a live row has none for its next token.
    """
    traced[0] += 1
    if isinstance(draw, Each):
        slots = slots._replace(left_R=jnp.where(draw.live_R, slots.left_R, 0))
    paged = slots.cache.page_BT is not None
    if paged:
        slots = slots._replace(left_R=jnp.where(slots.cache.page_BT[:, 0] > 0, slots.left_R, 0))
    started = slots.steps
    T, family = slots.tokens_RT.shape[1], families.of(config)

    def step(s: Slots) -> Slots:
        live_R = s.left_R > 0
        logits_RV, cache = family.decode_step(weights, config, compute, s.cache, s.token_R, s.cache.lengths_B)
        token_R, logprob_R, ended_R, top_RN = _draw(logits_RV, s.keys_R, s.number_R, draw, s.top)
        goes_on_R = live_R & ~ended_R
        row_R = jnp.arange(len(live_R))
        place_R, drawn_R = (jnp.where(those_R, s.count_R, T) for those_R in (goes_on_R, live_R))  # T: outside, dropped
        return Slots(
            # The length of a free slot does not grow, so it never reaches the end of the cache.
            cache=cache._replace(lengths_B=jnp.where(live_R, cache.lengths_B, s.cache.lengths_B)),
            keys_R=s.keys_R,
            token_R=jnp.where(live_R, token_R, s.token_R),
            left_R=jnp.where(goes_on_R, s.left_R - 1, 0),
            number_R=s.number_R + live_R,
            tokens_RT=s.tokens_RT.at[row_R, place_R].set(token_R, mode="drop"),
            count_R=s.count_R + goes_on_R,
            stop_R=jnp.where(live_R & ended_R, token_R, s.stop_R),
            logprob_R=s.logprob_R + jnp.where(live_R, logprob_R, 0.0),
            logprobs_RT=s.logprobs_RT.at[row_R, drawn_R].set(logprob_R, mode="drop"),
            top=_put_top(s.top, row_R, place_R, top_RN),
            steps=s.steps + 1,
        )

    def goes_on(s: Slots) -> jax.Array:
        short = jnp.sum(s.left_R == 0) < enough
        if paged:
            short &= ~kv.any_without_room(s.cache, s.left_R > 0)
        return short if most is None else short & (s.steps < started + most)

    slots = _pin(jax.lax.while_loop(goes_on, step, slots), mesh)
    seen = Seen(*(getattr(slots, name) for name in Seen._fields))
    if most is not None:
        slots = slots._replace(count_R=jnp.zeros_like(slots.count_R))
    return slots, seen if mesh is None else jax.lax.with_sharding_constraint(seen, mesh_axes.sharding(mesh))


def _draw(
    logits_RV: jax.Array, keys_R: jax.Array, number_R: jax.Array, draw: Draw | Each, room: Top | None
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, jax.Array] | None]:
    """token_R of draw `number_R` of each stream, its log-probability in nats, whether it ends the answer, and the most
    probable tokens with theirs where there is room for them."""
    keys_R = jax.vmap(jax.random.fold_in)(keys_R, number_R)
    if isinstance(draw, Each):
        token_R = choose_each(
            logits_RV, keys_R, temperature_B=draw.temperature_R, top_p_B=draw.top_p_R, top_k_B=draw.top_k_R
        )
        stops_RE = jnp.asarray(draw.stops_RE)
    else:
        token_R = choose(logits_RV, keys_R, temperature=draw.temperature, top_p=draw.top_p, top_k=draw.top_k)
        stops_RE = jnp.array(draw.stops, jnp.int32)[None]
    chosen_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)[:, 0]
    whole_R = jax.nn.logsumexp(logits_RV, axis=-1)
    top_RN = None
    if room is not None and isinstance(draw, Each):
        top_RN = _most_probable(logits_RV, whole_R, draw.top, room.ids_RTN.shape[-1])
    return token_R, chosen_R - whole_R, (token_R[:, None] == stops_RE).any(-1), top_RN


def _most_probable(logits_RV: jax.Array, whole_R: jax.Array, wanted: jax.Array, N: int) -> tuple[jax.Array, jax.Array]:
    """(ids_RN, logprobs_RN), the first the most probable; zeros where nobody wants them."""

    def found() -> tuple[jax.Array, jax.Array]:
        logits_RN, ids_RN = jax.lax.top_k(logits_RV, N)
        return ids_RN, logits_RN - whole_R[:, None]

    def nothing() -> tuple[jax.Array, jax.Array]:
        shape = (logits_RV.shape[0], N)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    return jax.lax.cond(wanted, found, nothing)


def _put_top(top: Top | None, row: jax.Array, place: jax.Array, new: tuple[jax.Array, jax.Array] | None) -> Top | None:
    """`top` with what was found for these rows, each at its place among the tokens."""
    if top is None or new is None:
        return top
    return Top(*(old.at[row, place].set(one, mode="drop") for old, one in zip(top, new, strict=True)))
