"""The slots of a decode: R rows on the device, each with one unfinished candidate, refilled as candidates finish.

    prefill   runs P prompts through the model, once each: logits, keys and values
    fill      copies prompts into free slots and draws the first token of each
    advance   decodes all slots until enough of them are free again

A free slot computes as well, and its results are dropped. All shapes follow from R, P, the bucket of the prompts and
the longest answer. So each of the three is compiled once a bucket, and a candidate is computed in the same shapes
whichever slot it is in and whatever its neighbours are.
"""

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
from tigerjax.sample.choose import choose

traced = [0]
"""Traces of the three functions in this process; each is one compilation."""


class Draw(NamedTuple):
    """How a token is drawn and which ids end an answer; hashable, as jit's static arguments must be."""

    temperature: float
    top_p: float
    top_k: int
    stops: tuple[int, ...]


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


class Slots(NamedTuple):
    """R candidates; tokens_RT has room for the longest answer."""

    cache: kv.Cache
    keys_R: jax.Array
    token_R: jax.Array
    """The last token drawn, not yet read by the model."""
    left_R: jax.Array
    """Tokens that may still be drawn. 0: the slot is free, or its answer is finished and was not fetched yet."""
    tokens_RT: jax.Array
    """Without the token that ended the answer."""
    count_R: jax.Array
    """Tokens in tokens_RT, which is also the number of the next draw in the candidate's random stream."""
    stop_R: jax.Array
    """The token that ended the answer, or -1."""
    logprob_R: jax.Array
    """Sum over all draws, the ending one too: nats at temperature 1, nothing truncated."""
    logprobs_RT: jax.Array
    """Of each draw, the ending one too."""
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
    steps: jax.Array


def empty(
    config: ModelConfig,
    compute: ComputeConfig,
    rows: int,
    bucket: int,
    answer: int,
    mesh: Mesh | None,
    stacks: int = 1,
) -> Slots:
    """`rows` free slots for prompts of up to `bucket` tokens and answers of up to `answer`, the cache in `stacks`."""
    L, K, H, S = config.num_layers // stacks, config.num_kv_heads, config.head_dim, bucket + answer

    def make() -> Slots:
        lengths_R = jnp.zeros(rows, jnp.int32)
        keys, values = (
            tuple(jnp.zeros((L, rows, K, *last), compute.dtype) for _ in range(stacks)) for last in ((H, S), (S, H))
        )
        return Slots(
            cache=kv.Cache(keys, values, lengths_R),
            keys_R=jax.random.split(jax.random.key(0, impl="threefry2x32"), rows),
            token_R=jnp.zeros(rows, jnp.int32),
            left_R=jnp.zeros(rows, jnp.int32),
            tokens_RT=jnp.zeros((rows, answer), jnp.int32),
            count_R=jnp.zeros(rows, jnp.int32),
            stop_R=jnp.full(rows, -1, jnp.int32),
            logprob_R=jnp.zeros(rows, jnp.float32),
            logprobs_RT=jnp.zeros((rows, answer), jnp.float32),
            steps=jnp.int32(0),
        )

    # Made in its shardings, so that no device ever holds the whole cache.
    return make() if mesh is None else jax.jit(make, out_shardings=shardings(mesh, stacks))()


def shardings(mesh: Mesh, stacks: int = 1) -> Slots:
    """Rows over the batch axes, heads over 'tensor'."""
    row, none = mesh_axes.sharding(mesh, "batch"), mesh_axes.sharding(mesh)
    heads = (mesh_axes.sharding(mesh, None, "batch", "act_kv_heads"),) * stacks
    return Slots._make([kv.Cache._make([heads, heads, row]), *[row] * 8, none])


def _pin(slots: Slots, mesh: Mesh | None) -> Slots:
    """`slots` in the shardings of `empty`, so that the next call takes them without another compilation."""
    if mesh is None:
        return slots
    return jax.lax.with_sharding_constraint(slots, shardings(mesh, len(slots.cache.keys)))


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def prefill(
    weights: Any, tokens_BT: jax.Array, segment_ids_BT: jax.Array, *, config: ModelConfig, compute: ComputeConfig
) -> tuple[jax.Array, kv.Cache]:
    """(logits_BV after each prompt, its cache of T slots)."""
    traced[0] += 1
    return families.of(config).prefill(weights, config, compute, tokens_BT, segment_ids_BT, max_len=tokens_BT.shape[1])


@functools.partial(jax.jit, static_argnames=("draw", "mesh"), donate_argnums=0)
def fill(
    slots: Slots,
    logits_BV: jax.Array,
    prompts: kv.Cache,
    starts: Starts,
    *,
    draw: Draw,
    mesh: Mesh | None,
) -> Slots:
    """The slots with the candidates of `starts` in them, and the first token of each drawn.

    `logits_BV` and `prompts` are what `prefill` returned."""
    traced[0] += 1
    slot_C, prompt_C, keydata_C2, limit_C = map(jnp.asarray, starts)
    keys_C = jax.random.wrap_key_data(keydata_C2, impl="threefry2x32")
    new_logits_CV = logits_BV[prompt_C]
    first_C = jnp.zeros_like(slot_C)
    token_C, logprob_C, ended_C = _draw(new_logits_CV, keys_C, first_C, draw)
    T = prompts.keys[0].shape[-1]

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[slot_C].set(new.astype(old.dtype), mode="drop")

    # The slot's last candidate left keys and values after the prompt's. They are never read: they are past the row's
    # length.
    cache = kv.Cache(
        keys=tuple(
            old_LRKHS.at[:, slot_C, :, :, :T].set(new_LBKHS[:, prompt_C], mode="drop")
            for old_LRKHS, new_LBKHS in zip(slots.cache.keys, prompts.keys, strict=True)
        ),
        values=tuple(
            old_LRKSH.at[:, slot_C, :, :T].set(new_LBKSH[:, prompt_C], mode="drop")
            for old_LRKSH, new_LBKSH in zip(slots.cache.values, prompts.values, strict=True)
        ),
        lengths_B=put(slots.cache.lengths_B, prompts.lengths_B[prompt_C]),
    )
    tokens_CT = jnp.zeros((len(slot_C), slots.tokens_RT.shape[1]), jnp.int32)
    filled = Slots(
        cache=cache,
        keys_R=slots.keys_R.at[slot_C].set(keys_C, mode="drop"),
        token_R=put(slots.token_R, token_C),
        left_R=put(slots.left_R, jnp.where(ended_C, 0, limit_C - 1)),
        tokens_RT=put(slots.tokens_RT, tokens_CT.at[:, 0].set(jnp.where(ended_C, 0, token_C))),
        count_R=put(slots.count_R, ~ended_C),
        stop_R=put(slots.stop_R, jnp.where(ended_C, token_C, -1)),
        logprob_R=put(slots.logprob_R, logprob_C),
        logprobs_RT=put(slots.logprobs_RT, jnp.zeros(tokens_CT.shape).at[:, 0].set(logprob_C)),
        steps=slots.steps,
    )
    return _pin(filled, mesh)


@functools.partial(jax.jit, static_argnames=("config", "compute", "draw", "mesh"), donate_argnums=1)
def advance(
    weights: Any,
    slots: Slots,
    enough: jax.Array,
    *,
    config: ModelConfig,
    compute: ComputeConfig,
    draw: Draw,
    mesh: Mesh | None,
) -> tuple[Slots, Seen]:
    """Decodes until at least `enough` slots are free (left_R is 0); `enough` is at most R."""
    traced[0] += 1
    T, family = slots.tokens_RT.shape[1], families.of(config)

    def step(s: Slots) -> Slots:
        live_R = s.left_R > 0
        logits_RV, cache = family.decode_step(weights, config, compute, s.cache, s.token_R, s.cache.lengths_B)
        token_R, logprob_R, ended_R = _draw(logits_RV, s.keys_R, s.count_R, draw)
        goes_on_R = live_R & ~ended_R
        row_R = jnp.arange(len(live_R))
        place_R, drawn_R = (jnp.where(those_R, s.count_R, T) for those_R in (goes_on_R, live_R))  # T: outside, dropped
        return Slots(
            # The length of a free slot does not grow, so it never reaches the end of the cache.
            cache=cache._replace(lengths_B=jnp.where(live_R, cache.lengths_B, s.cache.lengths_B)),
            keys_R=s.keys_R,
            token_R=jnp.where(live_R, token_R, s.token_R),
            left_R=jnp.where(goes_on_R, s.left_R - 1, 0),
            tokens_RT=s.tokens_RT.at[row_R, place_R].set(token_R, mode="drop"),
            count_R=s.count_R + goes_on_R,
            stop_R=jnp.where(live_R & ended_R, token_R, s.stop_R),
            logprob_R=s.logprob_R + jnp.where(live_R, logprob_R, 0.0),
            logprobs_RT=s.logprobs_RT.at[row_R, drawn_R].set(logprob_R, mode="drop"),
            steps=s.steps + 1,
        )

    slots = _pin(jax.lax.while_loop(lambda s: jnp.sum(s.left_R == 0) < enough, step, slots), mesh)
    seen = Seen(*(getattr(slots, name) for name in Seen._fields))
    return slots, seen if mesh is None else jax.lax.with_sharding_constraint(seen, mesh_axes.sharding(mesh))


def _draw(
    logits_RV: jax.Array, keys_R: jax.Array, number_R: jax.Array, draw: Draw
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """token_R of draw `number_R` of each stream, its log-probability in nats, and whether it ends the answer."""
    keys_R = jax.vmap(jax.random.fold_in)(keys_R, number_R)
    token_R = choose(logits_RV, keys_R, temperature=draw.temperature, top_p=draw.top_p, top_k=draw.top_k)
    chosen_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)[:, 0]
    logprob_R = chosen_R - jax.nn.logsumexp(logits_RV, axis=-1)
    return token_R, logprob_R, (token_R[:, None] == jnp.array(draw.stops, jnp.int32)).any(-1)
