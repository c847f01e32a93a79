"""Batched sampling of n candidates a prompt: one prefill a prompt, then slots that are refilled as candidates finish.

Shapes are few and static: a prompt is padded to the bucket of its own length, every prefill has `batch_prompts` rows
and every decode `batch_rows`. So compilations are bounded by the number of buckets, and a candidate is computed in
the same shapes whatever it is batched with: together with the random stream of `choose` this makes a sample depend
on (model, seed, round, prompt, k) only. What happens on the device is in `slots`.
"""

import contextlib
import dataclasses
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.config import FLOAT32, ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model import cache as kv
from tigerjax.sample import records, slots
from tigerjax.sample.choose import candidate_keys
from tigerjax.sample.records import Prompt

SMALLEST_BUCKET = 32
BATCH_PROMPTS, BATCH_ROWS = 8, 80  # of a prefill, of a decode
REFILLS = 40
"""Slots are refilled when 1 in so many is free: fewer wait longer, more interrupt the decode for little."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How candidates are drawn; written into every record."""

    max_new_tokens: int
    n: int = 10
    """Candidates a prompt."""
    temperature: float = 0.9
    """0 is greedy."""
    top_p: float = 0.95
    top_k: int = 0
    """0 is off."""
    min_new_tokens: int = 1
    """A prompt that leaves room for fewer tokens than this is skipped, and reported as such."""
    context: int = 4096
    """Tokens that prompt and answer may fill together: Llama-2's length."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end an answer beside the tokenizer's own eos and markers."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_new_tokens < 1 or self.top_k < 0 or self.temperature < 0:
            raise ConfigError(
                f"sampling n={self.n}, max_new_tokens={self.max_new_tokens} must be at least 1,"
                f" top_k={self.top_k}, temperature={self.temperature} at least 0"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling top_p={self.top_p} must be in (0, 1]")
        if not 1 <= self.min_new_tokens <= self.max_new_tokens:
            raise ConfigError(
                f"sampling min_new_tokens={self.min_new_tokens} must be in [1, max_new_tokens={self.max_new_tokens}]"
            )
        if self.context < 2:
            raise ConfigError(f"sampling context={self.context} must be at least 2")


@dataclasses.dataclass
class Stats:
    """What one call of `generate` did; pass one in to read it afterwards."""

    prefilled: int = 0
    """Prompts run through the model; each once, however many candidates it gets."""
    decode_steps: int = 0
    decode_slots: int = 0
    """Steps times slots: what a decode without one free slot would have drawn."""
    drawn: int = 0
    """Tokens drawn in decode steps, those that ended an answer too; a first token comes from the prefill."""
    compilations: int = 0
    """Traces of prefill, fill and advance; jit keeps them over calls, so a second call counts only new shapes."""


def bucket(length: int, context: int) -> int:
    """The padded length of a prompt: a power of two times SMALLEST_BUCKET, at most the context."""
    size = SMALLEST_BUCKET
    while size < length:
        size *= 2
    return min(size, max(context, length))


def generate(
    model: Sequence[Any],
    tokenizer: Any,
    prompts: Sequence[Mapping[str, Any]],
    sampling: SamplingConfig,
    *,
    seed: int,
    round: int = 0,
    model_sha: str,
    chat: bool = True,
    batch_prompts: int = BATCH_PROMPTS,
    batch_rows: int = BATCH_ROWS,
    compute: ComputeConfig = FLOAT32,
    mesh: Mesh | None = None,
    stats: Stats | None = None,
) -> Iterator[dict[str, Any]]:
    """One record a prompt, in the order of `prompts`; the arguments are those of `complete`.

    record    = {**prompt, messages, model_sha, sampling: {…, seed, round, chat}, degenerate: bool, candidates: […]}
    candidate = {cid, text, token_ids, finish: stop|length|marker, logprob, ntok, empty: bool, dup_of: cid|None}

    token_ids leave out the token that ended the answer; logprob (nats, temperature 1, nothing truncated) counts it.
    `dup_of` names the first candidate with the same text; `degenerate` says that n > 1 candidates have one text.
    A prompt that does not fit has candidates [] and the reason in `skipped`.
    """
    waiting: dict[int, dict[str, Any]] = {}
    due = 0
    for index, record in complete(
        model,
        tokenizer,
        prompts,
        sampling,
        seed=seed,
        round=round,
        model_sha=model_sha,
        chat=chat,
        batch_prompts=batch_prompts,
        batch_rows=batch_rows,
        compute=compute,
        mesh=mesh,
        stats=stats,
    ):
        waiting[index] = record
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def complete(
    model: Sequence[Any],
    tokenizer: Any,
    prompts: Sequence[Mapping[str, Any]],
    sampling: SamplingConfig,
    *,
    seed: int,
    round: int,
    model_sha: str,
    chat: bool,
    batch_prompts: int,
    batch_rows: int,
    compute: ComputeConfig,
    mesh: Mesh | None,
    stats: Stats | None,
    done: Collection[str] = frozenset(),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index of the prompt, record) as prompts are finished: skipped prompts first, then by length.

    model = (ModelConfig, weights, …). A prompt is {prompt_id, messages | text, …}; the rest of it travels along.
    chat=True encodes by the chat template; chat=False continues the text and a newline, and a newline ends the answer.
    batch_prompts are the rows of a prefill, batch_rows the slots of a decode; both shape every computation, whatever
    is left to do. With `mesh`, rows are split over its batch axes; weights lie where the caller put them. Prompt ids
    in `done` are left out.
    """
    config, weights = model[0], model[1]
    stats = Stats() if stats is None else stats
    if batch_prompts < 1 or batch_rows < 1:
        raise ConfigError(f"batch_prompts={batch_prompts} and batch_rows={batch_rows} must be at least 1")
    if not 0 <= seed < 2**32 or not 0 <= round < 2**32:
        raise ConfigError(f"seed={seed} and round={round} must be in [0, 2^32)")
    if mesh is not None:
        ways = mesh_axes.row_ways(mesh)
        if batch_prompts % ways or batch_rows % ways:
            raise ConfigError(
                f"batch_prompts={batch_prompts} and batch_rows={batch_rows} must be multiples of the {ways} devices"
                " that share rows; change them or the mesh"
            )
    reasons = dict.fromkeys(sampling.stop_ids, "stop") | records.stops(tokenizer, chat)
    how = dataclasses.asdict(sampling) | {"seed": seed, "round": round, "chat": chat}
    base = {"model_sha": model_sha, "sampling": how}

    buckets: dict[int, list[Prompt]] = {}
    for p in records.encode(tokenizer, prompts, chat):
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
        buckets.setdefault(bucket(len(p.ids), sampling.context), []).append(p)
    if not buckets:
        return

    # Once, in the dtype of the products and on the device: not once a token.
    weights = jax.tree.map(lambda a: jnp.asarray(a, compute.dtype), weights)
    apart = mesh is None and jax.default_backend() == "cpu"
    weights, stacks = (kv.unstack(weights), config.num_layers) if apart else (weights, 1)
    draw = slots.Draw(sampling.temperature, sampling.top_p, sampling.top_k, tuple(sorted(reasons)))
    for length in sorted(buckets):
        decode = _Decode(
            weights, stacks, config, compute, sampling, draw, mesh, seed, round, batch_prompts, batch_rows, stats
        )
        for p, drawn in decode.run(buckets[length], length):
            yield p.place, records.record(p, base, drawn, tokenizer, reasons, chat)


Answer = tuple[list[int], int, float]
"""(tokens, stop token or -1, log-probability) of a candidate."""


@dataclasses.dataclass(frozen=True)
class _Decode:
    """One bucket's prompts through the slots."""

    weights: Any
    stacks: int
    config: ModelConfig
    compute: ComputeConfig
    sampling: SamplingConfig
    draw: slots.Draw
    mesh: Mesh | None
    seed: int
    round: int
    batch_prompts: int
    batch_rows: int
    stats: Stats

    def run(
        self, prompts: Sequence[Prompt], length: int
    ) -> Iterator[tuple[Prompt, list[tuple[list[int], int, float]]]]:
        """(prompt, [(tokens, stop token or -1, log-probability) of each candidate]) as prompts are finished."""
        stats, n, answer = self.stats, self.sampling.n, self.sampling.max_new_tokens
        state = slots.empty(self.config, self.compute, self.batch_rows, length, answer, self.mesh, self.stacks)
        waiting = deque((place, k) for place in range(len(prompts)) for k in range(n))
        prefilled, prefill = -1, None  # the batch of prompts whose candidates are being started
        owners: dict[int, tuple[int, int]] = {}  # slot -> (place, k)
        drawn: dict[int, dict[int, Answer]] = {}
        at_once = max(1, self.batch_rows // REFILLS)
        steps = 0
        while waiting or owners:
            before = slots.traced[0]
            free = [slot for slot in range(self.batch_rows) if slot not in owners]
            # All that fit, in groups of one fixed size, each from one prefill.
            while waiting and free:
                if prefilled != (number := waiting[0][0] // self.batch_prompts):
                    prefilled, prefill = number, self._prefill(prompts, number, length)
                group: list[tuple[int, int, int]] = []
                while waiting and free and len(group) < at_once and waiting[0][0] // self.batch_prompts == number:
                    owners[free[0]] = waiting[0]
                    group.append((free.pop(0), *waiting.popleft()))
                state = self._fill(state, prefill, prompts, group, at_once)
            enough = min(self.batch_rows, self.batch_rows - len(owners) + at_once)
            with self._set_mesh():
                state, seen = slots.advance(
                    self.weights,
                    state,
                    np.int32(enough),
                    config=self.config,
                    compute=self.compute,
                    draw=self.draw,
                    mesh=self.mesh,
                )
            stats.compilations += slots.traced[0] - before
            left_R, tokens_RT, count_R, stop_R, logprob_R, now = jax.device_get(seen)
            stats.decode_steps += int(now) - steps
            stats.decode_slots += (int(now) - steps) * self.batch_rows
            steps = int(now)
            for slot in [slot for slot in owners if not left_R[slot]]:
                place, k = owners.pop(slot)
                ids, stop = tokens_RT[slot, : count_R[slot]].tolist(), int(stop_R[slot])
                stats.drawn += len(ids) + (stop >= 0) - 1
                mine = drawn.setdefault(place, {})
                mine[k] = ids, stop, float(logprob_R[slot])
                if len(mine) == n:
                    yield prompts[place], [mine[k] for k in range(n)]
                    del drawn[place]

    def _prefill(self, prompts: Sequence[Prompt], number: int, length: int) -> Any:
        group = prompts[number * self.batch_prompts : (number + 1) * self.batch_prompts]
        self.stats.prefilled += len(group)
        tokens_BT, segments_BT = _pad([p.ids for p in group], self.batch_prompts, length)
        rows = self._put(tokens_BT), self._put(segments_BT)
        with self._set_mesh():
            return slots.prefill(self.weights, *rows, config=self.config, compute=self.compute)

    def _set_mesh(self) -> contextlib.AbstractContextManager[Any]:
        """For the parts that each device does on its own share; everything else follows the weights."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def _put(self, array: np.ndarray) -> Any:
        return array if self.mesh is None else mesh_axes.put(array, self.mesh, "batch")

    def _fill(
        self,
        state: slots.Slots,
        prefill: Any,
        prompts: Sequence[Prompt],
        group: Sequence[tuple[int, int, int]],
        size: int,
    ) -> slots.Slots:
        """Starts `group`, triples (slot, place of the prompt, k); what is missing to `size` goes to no slot."""
        most, context = self.sampling.max_new_tokens, self.sampling.context
        full = [*group, *[(self.batch_rows, *group[0][1:])] * (size - len(group))]
        ids = [prompts[place].prompt["prompt_id"] for _, place, _ in full]
        return slots.fill(
            state,
            *prefill,
            np.array([slot for slot, _, _ in full], np.int32),
            np.array([place % self.batch_prompts for _, place, _ in full], np.int32),
            np.asarray(jax.random.key_data(candidate_keys(self.seed, self.round, ids, [k for _, _, k in full]))),
            np.array([min(most, context - len(prompts[place].ids)) for _, place, _ in full], np.int32),
            draw=self.draw,
            mesh=self.mesh,
        )


def _pad(prompts: Sequence[Sequence[int]], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """tokens_BT padded with 0 on the right and segment_ids_BT, 1 on tokens; missing rows repeat the first prompt."""
    tokens_BT = np.zeros((rows, length), np.int32)
    segment_ids_BT = np.zeros((rows, length), np.int32)
    for b in range(rows):
        ids = prompts[b] if b < len(prompts) else prompts[0]
        tokens_BT[b, : len(ids)] = ids
        segment_ids_BT[b, : len(ids)] = 1
    return tokens_BT, segment_ids_BT
