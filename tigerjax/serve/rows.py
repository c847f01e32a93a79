"""The engine's side of the device: a prompt that is being read, and the slots in which answers are decoded.

    read      reads the next `chunk` tokens of the prompt, behind those that it has
    start     puts the prompt into free slots and draws the first token of each answer
    advance   decodes some steps of all slots, and gives what was drawn

Each slot has settings of its own, as arrays, so no combination of settings is compiled anew. The caches of the slots
are as long as the longest answer in them needs, out of a few lengths (`reaches`). So each function is compiled once for
each of these lengths, and `warm` does it beforehand.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.files.progress import Advance
from tigerjax.model import cache as kv
from tigerjax.model import families
from tigerjax.sample import encoding, slots
from tigerjax.sample.choose import candidate_keys
from tigerjax.sample.ready import ready
from tigerjax.serve.asked import STOPS, TOP, Ask, ServeBatching
from tigerjax.serve.memory import Memory

SHORTEST, GROWTH = 256, 4
"""The shortest cache of the slots, and how many times as long the next one is: each is compiled, and each copy from one
to the next takes as long as a few steps."""
WINDOW = 32
"""The most steps of one `advance`."""


class Start(NamedTuple):
    """An answer that begins in a free slot."""

    slot: int
    ask: Ask
    answer: int


def reaches(context: int, chunk: int) -> list[int]:
    """The lengths of the slots' caches, in order. The last holds the context, in whole chunks."""
    found, last = [], -(-context // chunk) * chunk
    length = -(-SHORTEST // chunk) * chunk
    while length < last:
        found.append(length)
        length *= GROWTH
    return [*found, last]


class Rows:
    """One prompt and R answers on the device. Nothing here waits, but `advance`."""

    def __init__(self, model: Loaded, batching: ServeBatching):
        self.model, form = ready(model)
        self.chunk, self.context = batching.chunk, batching.context_of(model)
        self.slots = batching.slots_on(model.mesh)
        self.reasons = encoding.stops(model.tokenizer, chat=True)
        """Why an answer ends with each id that always ends one."""
        config, compute, mesh = model.config, model.compute, model.mesh
        self.reaches = reaches(self.context, self.chunk)
        R, P = self.slots, mesh_axes.row_ways(mesh)
        self.top = min(TOP, config.vocab_size)
        self._state = slots.empty(config, compute, R, self.reaches[0], WINDOW + 1, mesh, form, self.top)
        # A mesh splits rows, so there are as many rows as devices that share them; the first one is used.
        prompt = slots.empty(config, compute, P, self.reaches[-1], 1, mesh, form).cache
        self._prompt, self._logits = prompt, None
        self.memory = Memory(prompt, mesh, chunk=batching.chunk, size=int(batching.kept_mb * 1e6))
        self._settings = _Settings(R, len(self.reasons) + STOPS)
        self.steps = 0

    @property
    def reach(self) -> int:
        """The slots of the cache that a row has now."""
        return int(self._state.cache.keys[0].shape[-1])

    def begin(self, ids: Sequence[int]) -> int:
        """Makes the prompt `ids` the one that is read; how many of its tokens need not be read."""
        known = self.memory.known(ids)
        if known:
            self._prompt = self.memory.recall(self._prompt, 0, ids[:known])
        self._set_length(known)
        return known

    def read(self, ids: Sequence[int], at: int) -> int:
        """Reads the prompt's next chunk, from the place `at` on; where it ends."""
        P, T = len(self._prompt.lengths_B), self.chunk
        part = list(ids[at : at + T])
        tokens_BT, count_B = np.zeros((P, T), np.int32), np.zeros(P, np.int32)
        tokens_BT[0, : len(part)], count_B[0] = part, len(part)
        reach = next(length for length in self.reaches if at <= length)
        with self._set_mesh():
            self._logits, self._prompt = _extend(
                self.model.weights,
                self._prompt,
                self._put(tokens_BT),
                self._put(count_B),
                config=self.model.config,
                compute=self.model.compute,
                reach=reach,
                mesh=self.model.mesh,
            )
        end = at + len(part)
        if end == len(ids):
            self.memory.keep(self._prompt, 0, ids)
        return end

    def fit(self, length: int) -> None:
        """Makes the caches of the slots long enough for rows of `length` tokens, and no longer than that needs."""
        wanted = next(reach for reach in self.reaches if length <= reach)
        if wanted != self.reach:
            self._state = slots.resized(self._state, length=wanted, mesh=self.model.mesh)

    def start(self, begun: Start) -> None:
        """Begins an answer to the prompt that was read to its end; the caches are long enough for it."""
        ask, slot = begun.ask, begun.slot
        limit = min(ask.max_new_tokens, self.context - len(ask.ids))
        if slot < self.slots:
            self._settings.put(slot, ask, list(self.reasons))
        keys_C = candidate_keys(ask.seed, 0, [ask.prompt_id], [begun.answer])
        starts = slots.Starts(
            slot_C=np.array([slot], np.int32),
            prompt_C=np.zeros(1, np.int32),
            keydata_C2=np.asarray(jax.random.key_data(keys_C)),
            limit_C=np.array([limit], np.int32),
        )
        draw = self._settings.of(ask, list(self.reasons))
        self._state = slots.fill(self._state, self._logits, self._prompt, starts, draw=draw, mesh=self.model.mesh)

    def free(self, slot: int) -> None:
        """Ends the answer in a slot."""
        self._settings.live_R[slot] = False

    def advance(self, enough: int, most: int) -> slots.Seen:
        """What was drawn since the last call, after at most `most` steps; fewer once `enough` slots are free."""
        with self._set_mesh():
            self._state, seen = slots.advance(
                self.model.weights,
                self._state,
                np.int32(min(enough, self.slots)),
                np.int32(most),
                config=self.model.config,
                compute=self.model.compute,
                draw=self._settings.each(),
                mesh=self.model.mesh,
            )
        seen = jax.device_get(seen)
        self.steps = int(seen.steps)
        return seen

    def keep(self, slot: int, ids: Sequence[int]) -> None:
        """Remembers the conversation `ids` that a slot holds."""
        self.memory.keep(self._state.cache, slot, ids)

    def warm(self, progress: Advance | None, most: int) -> None:
        """Compiles what rows of up to `most` tokens need, by doing everything once; no slot may be in use."""
        ask = Ask(ids=(0,), prompt_id="", max_new_tokens=1, temperature=0.0, top_p=1.0, top_k=0, seed=0)
        needed = [reach for n, reach in enumerate(self.reaches) if n == 0 or self.reaches[n - 1] < most]
        for n, reach in enumerate(needed):
            for other in needed:  # from each length to each
                self.fit(other)
                self.fit(reach)
            self._set_length(0)
            self.read([0], 0 if n == 0 else self.reaches[n - 1] + 1)
            self.start(Start(self.slots, ask, 0))  # a slot that does not exist
            self.advance(self.slots, 0)
            self._prompt = self.memory.warm(self._prompt, self._state.cache)
            if progress is not None:
                progress(n + 1, len(needed))
        self.fit(1)

    def _set_length(self, length: int) -> None:
        lengths_B = np.zeros(len(self._prompt.lengths_B), np.int32)
        lengths_B[0] = length
        self._prompt = self._prompt._replace(lengths_B=self._put(lengths_B))

    def _set_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.model.mesh is None else jax.set_mesh(self.model.mesh)

    def _put(self, array: np.ndarray) -> Any:
        return jnp.array(array) if self.model.mesh is None else mesh_axes.put(array, self.model.mesh, "batch")


@dataclasses.dataclass
class _Settings:
    """How the answer in each slot is drawn. A free slot is greedy, which costs least."""

    rows: int
    stops: int

    def __post_init__(self) -> None:
        self.temperature_R, self.top_p_R = np.zeros(self.rows, np.float32), np.ones(self.rows, np.float32)
        self.top_k_R, self.stops_RE = np.zeros(self.rows, np.int32), np.full((self.rows, self.stops), -1, np.int32)
        self.live_R, self.top_R = np.zeros(self.rows, bool), np.zeros(self.rows, bool)

    def put(self, slot: int, ask: Ask, ends: Sequence[int]) -> None:
        """The settings of an answer that begins in `slot`."""
        one = self.of(ask, ends)
        self.temperature_R[slot], self.top_p_R[slot] = one.temperature_R[0], one.top_p_R[0]
        self.top_k_R[slot], self.stops_RE[slot] = one.top_k_R[0], one.stops_RE[0]
        self.live_R[slot], self.top_R[slot] = True, one.top

    def of(self, ask: Ask, ends: Sequence[int]) -> slots.Each:
        """The settings of one answer."""
        stops = np.full((1, self.stops), -1, np.int32)
        stops[0, : len(ends) + len(ask.stop_ids)] = [*ends, *ask.stop_ids]
        return slots.Each(
            temperature_R=np.array([ask.temperature], np.float32),
            top_p_R=np.array([ask.top_p], np.float32),
            top_k_R=np.array([ask.top_k], np.int32),
            stops_RE=stops,
            live_R=np.ones(1, bool),
            top=np.bool_(ask.top_logprobs > 0),
        )

    def each(self) -> slots.Each:
        """Those of all slots."""
        live_R = self.live_R.copy()
        return slots.Each(
            temperature_R=np.where(live_R, self.temperature_R, np.float32(0)),
            top_p_R=self.top_p_R.copy(),
            top_k_R=np.where(live_R, self.top_k_R, 0),
            stops_RE=self.stops_RE.copy(),
            live_R=live_R,
            top=np.bool_((self.top_R & live_R).any()),
        )


@functools.partial(jax.jit, static_argnames=("config", "compute", "reach", "mesh"), donate_argnums=1)
def _extend(
    weights: Any,
    prompt: kv.Cache,
    tokens_BT: jax.Array,
    count_B: jax.Array,
    *,
    config: ModelConfig,
    compute: ComputeConfig,
    reach: int,
    mesh: Mesh | None,
) -> tuple[jax.Array, kv.Cache]:
    """(logits_BV after the new tokens, the prompt's cache with them)."""
    slots.traced[0] += 1
    family = families.of(config)
    logits_BV, prompt = family.extend(weights, config, compute, prompt, tokens_BT, count_B, reach=reach)
    if mesh is not None:
        prompt = jax.lax.with_sharding_constraint(prompt, slots.shardings(mesh, kv.Form(len(prompt.keys))).cache)
    return logits_BV, prompt
