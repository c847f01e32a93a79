"""Batched sampling of n candidates per prompt: one prefill per prompt, then slots that are refilled.

There are few shapes, and they do not change while sampling. A prompt is padded to the bucket of its own length, every
prefill has `Batching.prompts` rows, and every decode `Batching.rows`. So each part is compiled once a bucket, and a
candidate is computed in the same shapes whatever it is batched with. Its random stream (see `choose`) does not
depend on the batch either, so a sample depends on (model, seed, round, prompt, candidate number) only.

What happens on the device is in `slots`.
"""

import contextlib
import dataclasses
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config.ranges import Count, CountOrZero, PositiveShare, Range, Seed, check
from tigerjax.errors import ConfigError
from tigerjax.model import cache as kv
from tigerjax.sample import encoding, paging, slots
from tigerjax.sample.choose import candidate_keys
from tigerjax.sample.encoding import Drawn, Prompt
from tigerjax.sample.ready import ready

SMALLEST_BUCKET = 32
REFILLS = 40
"""Slots are refilled when 1 in so many is free. If it were more slots, they would stay empty for longer; if fewer, the
decode would be interrupted too often."""
Temperature = Annotated[float, Range(0, 100)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Everything that decides which candidates a model gives to a prompt; written into every record."""

    max_new_tokens: Count
    n: Count = 10
    """Candidates per prompt."""
    temperature: Temperature = 0.9
    """0 is greedy."""
    top_p: PositiveShare = 0.95
    top_k: CountOrZero = 0
    """0 is off."""
    min_new_tokens: Count = 1
    """A prompt that leaves room for fewer tokens than this is skipped; its record says so."""
    context: Annotated[int, Range(2, 2**24)] = 4096
    """Tokens that prompt and answer may fill together: Llama-2's length."""
    stop_ids: tuple[CountOrZero, ...] = ()
    """Ids that end an answer beside the tokenizer's own eos and markers."""
    seed: Seed
    round: Seed = 0
    """Of an alignment: the same seed draws other candidates in another round."""
    chat: bool = True
    """False: a base model continues the prompt's text and a newline, and the next newline ends the answer."""

    def __post_init__(self) -> None:
        check(self, "sampling.")
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"sampling min_new_tokens={self.min_new_tokens} must be in [1, max_new_tokens={self.max_new_tokens}]"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How many are computed at once. Every computation has these shapes, whatever is left to do."""

    prompts: Count = 8
    """Rows of a prefill."""
    rows: Count = 80
    """Slots of a decode: candidates that are drawn side by side."""

    def __post_init__(self) -> None:
        check(self, "batching.")

    def check(self, mesh: Mesh | None) -> None:
        """ConfigError when the devices of `mesh` cannot share the rows evenly."""
        ways = mesh_axes.row_ways(mesh)
        if self.prompts % ways or self.rows % ways:
            raise ConfigError(
                f"batching of {self.prompts} prompts and {self.rows} rows: both must be multiples of the {ways} devices"
                " that share rows; change them or the mesh"
            )

    def for_mesh(self, mesh: Mesh | None) -> "Batching":
        """The same, both numbers rounded up to multiples of the devices of `mesh` that share rows."""
        ways = mesh_axes.row_ways(mesh)
        return Batching(prompts=-(-self.prompts // ways) * ways, rows=-(-self.rows // ways) * ways)


@dataclasses.dataclass
class Stats:
    """Counts of one call of `generate`. Pass one in, and read it afterwards."""

    prefilled: int = 0
    """Prompts run through the model; each once, however many candidates it gets."""
    decode_steps: int = 0
    decode_slots: int = 0
    """Steps times slots: the tokens that would have been drawn if no slot had ever been free."""
    drawn: int = 0
    """Tokens drawn in decode steps, including those that ended an answer. (First tokens come from the prefill.)"""
    put_back: int = 0
    """Candidates for which a cache of pages had no room, and which were drawn again."""
    compilations: int = 0
    """Traces of prefill, fill and advance. jit remembers them, so a second call counts new shapes only."""


def bucket(length: int, context: int) -> int:
    """The padded length of a prompt: a power of two times SMALLEST_BUCKET, at most the context."""
    size = SMALLEST_BUCKET
    while size < length:
        size *= 2
    return min(size, max(context, length))


def generate(
    model: Loaded,
    prompts: Sequence[Mapping[str, Any]],
    sampling: SamplingConfig,
    *,
    batching: Batching = Batching(),  # frozen
    stats: Stats | None = None,
) -> Iterator[dict[str, Any]]:
    """One record per prompt, in the order of `prompts`; the arguments are those of `complete`.

    record    = {**prompt, messages, model_sha, sampling: {…}, degenerate: bool, candidates: […]}
    candidate = {cid, text, token_ids, finish: stop|length|marker, logprob, ntok, empty: bool, dup_of: cid|None}

    token_ids leave out the token that ended the answer; logprob (nats, temperature 1, nothing truncated) counts it.
    `dup_of` names the first candidate with the same text; `degenerate` says that n > 1 candidates have one text.
    A prompt that does not fit has candidates [] and the reason in `skipped`.
    """
    waiting: dict[int, dict[str, Any]] = {}
    due = 0
    for index, record in complete(model, prompts, sampling, batching=batching, stats=stats):
        waiting[index] = record
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def complete(
    model: Loaded,
    prompts: Sequence[Mapping[str, Any]],
    sampling: SamplingConfig,
    *,
    batching: Batching,
    stats: Stats | None = None,
    done: Collection[str] = frozenset(),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index of the prompt, record) as prompts are finished: skipped prompts first, then by length.

    A prompt is {prompt_id, messages | text, …}; the rest of it travels along into its record. On a mesh, rows are
    split over its batch axes. Prompts whose id is in `done` are left out.
    """
    tokenizer = model.tokenizer
    batching.check(model.mesh)
    reasons = dict.fromkeys(sampling.stop_ids, "stop") | encoding.stops(tokenizer, sampling.chat)
    base = {"model_sha": model.sha256, "sampling": dataclasses.asdict(sampling)}

    fitting: list[Prompt] = []
    for p in encoding.encode(tokenizer, prompts, sampling.chat):
        if p.prompt["prompt_id"] in done:
            continue
        if len(p.ids) + sampling.min_new_tokens > sampling.context:
            reason = (
                f"prompt of {len(p.ids)} tokens and min_new_tokens={sampling.min_new_tokens}"
                f" do not fit context={sampling.context}"
            )
            head = {**p.prompt, "messages": p.messages, **base}
            yield p.place, head | {"degenerate": False, "skipped": reason, "candidates": []}
            continue
        fitting.append(p)
    for p, drawn in answers(model, fitting, sampling, batching=batching, stats=stats):
        yield p.place, encoding.record(p, base, drawn, tokenizer, reasons, sampling.chat)


def answers(
    model: Loaded,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    *,
    batching: Batching,
    stats: Stats | None = None,
) -> Iterator[tuple[Prompt, list[Drawn]]]:
    """(prompt, its candidates) as prompts are finished, by length; each prompt leaves room for an answer."""
    stats = Stats() if stats is None else stats
    batching.check(model.mesh)
    ends = {*sampling.stop_ids, *encoding.stops(model.tokenizer, sampling.chat)}
    buckets: dict[int, list[Prompt]] = {}
    for p in prompts:
        buckets.setdefault(bucket(len(p.ids), sampling.context), []).append(p)
    if not buckets:
        return
    longest = max(min(len(p.ids) + sampling.max_new_tokens, sampling.context) for p in prompts)
    paging.check(model.compute.cache_tokens, longest - 1, mesh_axes.row_ways(model.mesh))  # the last one is not read

    model, form = ready(model)
    draw = slots.Draw(sampling.temperature, sampling.top_p, sampling.top_k, tuple(sorted(ends)))
    decode = _Decode(model, form, sampling, draw, batching, stats)
    for length in sorted(buckets):
        yield from decode.run(buckets[length], length)


@dataclasses.dataclass(frozen=True)
class _Decode:
    """Decodes the prompts of one bucket after the other."""

    model: Loaded
    """Its weights are as `ready` gives them."""
    form: kv.Form
    sampling: SamplingConfig
    draw: slots.Draw
    batching: Batching
    stats: Stats

    def run(self, prompts: Sequence[Prompt], length: int) -> Iterator[tuple[Prompt, list[Drawn]]]:
        """(prompt, its candidates) as prompts are finished; `length` is the bucket of the prompts."""
        stats, n, answer = self.stats, self.sampling.n, self.sampling.max_new_tokens
        model, R, P = self.model, self.batching.rows, self.batching.prompts
        ways, room = mesh_axes.row_ways(model.mesh), length + answer
        form = paging.in_pages(self.form, model.compute.cache_tokens, R, room, ways)
        pages = paging.Pages(form, R, room, ways) if form.pages else None
        state = slots.empty(model.config, model.compute, R, room, answer, model.mesh, form)
        waiting = deque((place, k) for place in range(len(prompts)) for k in range(n))
        prefilled, prefill = -1, None  # the batch of prompts whose candidates are being started
        owners: dict[int, tuple[int, int]] = {}  # slot -> (place, k)
        drawn: dict[int, dict[int, Drawn]] = {}
        at_once = max(1, R // REFILLS)
        steps, written = 0, dict[int, int]()  # written: tokens in the cache, by slot
        while waiting or owners:
            before = slots.traced[0]
            for slot in pages.grow(written) if pages else ():
                waiting.appendleft(owners.pop(slot))
                stats.put_back += 1
            # Starts as many candidates as fit, in groups of one fixed size, each group from one prefill.
            while group := self._group(prompts, waiting, owners, pages, at_once):
                if prefilled != (number := group[0].place // P):
                    prefilled, prefill = number, self._prefill(prompts, number, length)
                state = self._fill(state, prefill, prompts, group, at_once)
                owners |= {one.slot: (one.place, one.k) for one in group}
            if pages:
                state = state._replace(cache=state.cache._replace(page_BT=self._put(pages.table_RT.copy())))
            enough = min(R, R - len(owners) + at_once)
            with self._set_mesh():
                state, seen = slots.advance(
                    model.weights,
                    state,
                    np.int32(enough),
                    config=model.config,
                    compute=model.compute,
                    draw=self.draw,
                    mesh=model.mesh,
                )
            stats.compilations += slots.traced[0] - before
            seen = jax.device_get(seen)
            now = int(seen.steps)
            stats.decode_steps += now - steps
            stats.decode_slots += (now - steps) * R
            steps = now
            written = {
                slot: len(prompts[place].ids) + int(seen.count_R[slot]) - 1 for slot, (place, _) in owners.items()
            }
            for slot in [slot for slot in owners if not seen.left_R[slot]]:
                if pages:
                    pages.end(slot)
                place, k = owners.pop(slot)
                ids, stop = seen.tokens_RT[slot, : seen.count_R[slot]].tolist(), int(seen.stop_R[slot])
                draws = len(ids) + (stop >= 0)
                stats.drawn += draws - 1
                mine = drawn.setdefault(place, {})
                mine[k] = Drawn(ids, stop, float(seen.logprob_R[slot]), seen.logprobs_RT[slot, :draws].copy())
                if len(mine) == n:
                    yield prompts[place], [mine[k] for k in range(n)]
                    del drawn[place]

    def _group(
        self,
        prompts: Sequence[Prompt],
        waiting: deque[tuple[int, int]],
        owners: Collection[int],
        pages: paging.Pages | None,
        size: int,
    ) -> list[paging.Started]:
        """Takes candidates from `waiting`, at most `size` and of one prefill, as far as slots and pages are free."""
        free = [slot for slot in range(self.batching.rows) if slot not in owners]
        group: list[paging.Started] = []
        number = waiting[0][0] // self.batching.prompts if waiting else -1
        while waiting and free and len(group) < size and waiting[0][0] // self.batching.prompts == number:
            prompt = prompts[waiting[0][0]]
            found = pages.start(free, waiting[0][0], len(prompt.ids), self._limit(prompt)) if pages else (free[0], None)
            if found is None:
                break
            slot, page_T = found
            free.remove(slot)
            group.append(paging.Started(slot, page_T, *waiting.popleft()))
        return group

    def _limit(self, prompt: Prompt) -> int:
        """The most tokens that an answer to this prompt may have."""
        return min(self.sampling.max_new_tokens, self.sampling.context - len(prompt.ids))

    def _prefill(self, prompts: Sequence[Prompt], number: int, length: int) -> Any:
        group = prompts[number * self.batching.prompts : (number + 1) * self.batching.prompts]
        self.stats.prefilled += len(group)
        tokens_BT, segments_BT = encoding.padded([p.ids for p in group], self.batching.prompts, length)
        rows = self._put(tokens_BT), self._put(segments_BT)
        with self._set_mesh():
            return slots.prefill(self.model.weights, *rows, config=self.model.config, compute=self.model.compute)

    def _set_mesh(self) -> contextlib.AbstractContextManager[Any]:
        """The mesh, for the parts that each device computes on its own share. Everything else follows the weights."""
        return contextlib.nullcontext() if self.model.mesh is None else jax.set_mesh(self.model.mesh)

    def _put(self, array: np.ndarray) -> Any:
        return array if self.model.mesh is None else mesh_axes.put(array, self.model.mesh, "batch")

    def _fill(
        self,
        state: slots.Slots,
        prefill: Any,
        prompts: Sequence[Prompt],
        group: Sequence[paging.Started],
        size: int,
    ) -> slots.Slots:
        """Starts the candidates of `group`.

        The group is filled up to `size` with copies that go to no slot, so that the shape is always the same."""
        first = group[0]
        none_T = None if first.page_T is None else np.full_like(first.page_T, paging.NOWHERE)
        full = [*group, *[first._replace(slot=self.batching.rows, page_T=none_T)] * (size - len(group))]
        ids = [prompts[one.place].prompt["prompt_id"] for one in full]
        keys_C = candidate_keys(self.sampling.seed, self.sampling.round, ids, [one.k for one in full])
        starts = slots.Starts(
            slot_C=np.array([one.slot for one in full], np.int32),
            prompt_C=np.array([one.place % self.batching.prompts for one in full], np.int32),
            keydata_C2=np.asarray(jax.random.key_data(keys_C)),
            limit_C=np.array([self._limit(prompts[one.place]) for one in full], np.int32),
            page_CT=None if none_T is None else np.stack([one.page_T for one in full]),
        )
        return slots.fill(state, *prefill, starts, draw=self.draw, mesh=self.model.mesh)
