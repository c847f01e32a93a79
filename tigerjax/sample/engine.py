"""Batched sampling of n candidates a prompt: one prefill a prompt, then a decode loop that stays on the device.

Shapes are few and static: a prompt is padded to the bucket of its own length, every prefill has `batch_prompts` rows
and every decode `batch_rows`. So compilations are bounded by the number of buckets, and a candidate is computed in
the same shapes whatever it is batched with: together with the random stream of `choose` this makes a sample depend
on (model, seed, round, prompt, k) only.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model import cache as kv
from tigerjax.sample import records
from tigerjax.sample.choose import candidate_keys, choose
from tigerjax.sample.records import Prompt

SMALLEST_BUCKET = 32
FLOAT32 = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1)


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
    compilations: int = 0
    """Traces of prefill and decode; jit keeps them over calls, so a second call counts only new shapes."""


class Answers(NamedTuple):
    """What decode leaves of R rows: tokens_RT without the stop token, how many, the stop token or -1, the sum."""

    tokens_RT: jax.Array
    count_R: jax.Array
    stop_R: jax.Array
    logprob_R: jax.Array
    steps: jax.Array


_traced = [0]


def bucket(length: int, context: int) -> int:
    """The padded length of a prompt: a power of two times SMALLEST_BUCKET, at most the context."""
    size = SMALLEST_BUCKET
    while size < length:
        size *= 2
    return min(size, max(context, length))


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _prefill(
    weights: Any, tokens_BT: jax.Array, segment_ids_BT: jax.Array, *, config: ModelConfig, compute: ComputeConfig
) -> tuple[jax.Array, kv.Cache]:
    _traced[0] += 1
    T = tokens_BT.shape[1]
    return kv.prefill(_cast(weights, compute), config, compute, tokens_BT, segment_ids_BT, max_len=T)


def _cast(weights: Any, compute: ComputeConfig) -> Any:
    """Weights in the activation dtype once, instead of once a token."""
    return jax.tree.map(lambda a: a.astype(compute.dtype), weights)


def _rows(prompts: Sequence[kv.Cache], rows_R: jax.Array, slots: int) -> kv.Cache:
    """The cache of the rows that continue the prompts (row r continues prompt rows_R[r]), with room for new tokens.

    This is where the n candidates of a prompt share its one prefill.
    """

    def take(*arrays_LBSKH: jax.Array) -> jax.Array:
        rows_LRSKH = jnp.concatenate(arrays_LBSKH, axis=1)[:, rows_R]
        return jnp.pad(rows_LRSKH, ((0, 0), (0, 0), (0, slots), (0, 0), (0, 0)))

    lengths_B = jnp.concatenate([c.lengths_B for c in prompts])
    return kv.Cache(take(*(c.k_LBSKH for c in prompts)), take(*(c.v_LBSKH for c in prompts)), lengths_B[rows_R])


@functools.partial(jax.jit, static_argnames=("config", "compute", "sampling", "stops"))
def _decode(
    weights: Any,
    prompts: Sequence[tuple[jax.Array, kv.Cache]],
    rows_R: jax.Array,
    keys_R: jax.Array,
    limit_R: jax.Array,
    *,
    config: ModelConfig,
    compute: ComputeConfig,
    sampling: SamplingConfig,
    stops: tuple[int, ...],
) -> Answers:
    """Row r answers prompt rows_R[r] of the concatenated prefills with at most limit_R[r] tokens; 0 is an idle row."""
    _traced[0] += 1
    weights = _cast(weights, compute)
    logits_BV = jnp.concatenate([logits for logits, _ in prompts])
    cache = _rows([c for _, c in prompts], rows_R, sampling.max_new_tokens)
    R = rows_R.shape[0]

    class State(NamedTuple):
        answers: Answers
        token_R: jax.Array
        done_R: jax.Array
        cache: kv.Cache

    def pick(logits_RV: jax.Array, old: Answers, done_R: jax.Array) -> tuple[Answers, jax.Array, jax.Array]:
        step_keys_R = jax.vmap(jax.random.fold_in, (0, None))(keys_R, old.steps)
        token_R = choose(
            logits_RV, step_keys_R, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k
        )
        chosen_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)[:, 0]
        logprob_R = chosen_R - jax.nn.logsumexp(logits_RV, axis=-1)
        ended_R = ~done_R & (token_R[:, None] == jnp.array(stops, jnp.int32)).any(-1)
        kept_R = ~done_R & ~ended_R
        answers = Answers(
            tokens_RT=old.tokens_RT.at[:, old.steps].set(jnp.where(kept_R, token_R, 0)),
            count_R=old.count_R + kept_R,
            stop_R=jnp.where(ended_R, token_R, old.stop_R),
            logprob_R=old.logprob_R + jnp.where(done_R, 0.0, logprob_R),
            steps=old.steps + 1,
        )
        return answers, token_R, done_R | ended_R | (answers.steps >= limit_R)

    def body(state: State) -> State:
        logits_RV, cache = kv.decode_step(weights, config, compute, state.cache, state.token_R, state.cache.lengths_B)
        return State(*pick(logits_RV, state.answers, state.done_R), cache)

    empty = Answers(
        tokens_RT=jnp.zeros((R, sampling.max_new_tokens), jnp.int32),
        count_R=jnp.zeros(R, jnp.int32),
        stop_R=jnp.full(R, -1, jnp.int32),
        logprob_R=jnp.zeros(R, jnp.float32),
        steps=jnp.int32(0),
    )
    # The first token comes from the prefill; so no step of the loop computes logits that nobody reads.
    state = State(*pick(logits_BV[rows_R], empty, limit_R <= 0), cache)
    return jax.lax.while_loop(lambda s: ~s.done_R.all(), body, state).answers


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
    batch_prompts: int = 8,
    batch_rows: int = 80,
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
    """(index of the prompt, record) in the order in which batches finish: skipped prompts first, then by length.

    model = (ModelConfig, weights, …). A prompt is {prompt_id, messages | text, …}; the rest of it travels along.
    chat=True encodes by the chat template; chat=False continues the text and a newline, and a newline ends the answer.
    batch_prompts are the rows of a prefill, batch_rows those of a decode (n above it takes several decodes). With
    `mesh`, rows are split over its batch axes; weights lie where the caller put them. Prompt ids in `done` are left
    out, and batches are formed as if they were not, so that what is missing is computed exactly as it would have been.
    """
    config, weights = model[0], model[1]
    stats = Stats() if stats is None else stats
    if batch_prompts < 1 or batch_rows < 1:
        raise ConfigError(f"batch_prompts={batch_prompts} and batch_rows={batch_rows} must be at least 1")
    if not 0 <= seed < 2**32 or not 0 <= round < 2**32:
        raise ConfigError(f"seed={seed} and round={round} must be in [0, 2^32)")
    if mesh is not None:
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        if batch_prompts % ways or batch_rows % ways:
            raise ConfigError(
                f"batch_prompts={batch_prompts} and batch_rows={batch_rows} must divide over mesh data x fsdp = {ways}"
            )
    reasons = records.stops(tokenizer, chat)
    how = dataclasses.asdict(sampling) | {"seed": seed, "round": round, "chat": chat}
    base = {"model_sha": model_sha, "sampling": how}

    buckets: dict[int, list[Prompt]] = {}
    for p in records.encode(tokenizer, prompts, chat):
        if len(p.ids) + sampling.min_new_tokens > sampling.context:
            if p.prompt["prompt_id"] not in done:
                reason = (
                    f"prompt of {len(p.ids)} tokens and min_new_tokens={sampling.min_new_tokens}"
                    f" do not fit context={sampling.context}"
                )
                head = {**p.prompt, "messages": p.messages, **base}
                yield p.place, head | {"degenerate": False, "skipped": reason, "candidates": []}
            continue
        buckets.setdefault(bucket(len(p.ids), sampling.context), []).append(p)

    def put(array: np.ndarray | jax.Array) -> Any:
        return array if mesh is None else jax.device_put(array, mesh_axes.sharding(mesh, "batch"))

    group_size = max(1, batch_rows // sampling.n)
    for length in sorted(buckets):
        for at in range(0, len(buckets[length]), group_size):
            group = buckets[length][at : at + group_size]
            if all(p.prompt["prompt_id"] in done for p in group):
                continue
            before = _traced[0]
            prefills = []
            for first in range(0, len(group), batch_prompts):
                tokens_BT, segments_BT = _pad(
                    [p.ids for p in group[first : first + batch_prompts]], batch_prompts, length
                )
                prefills.append(_prefill(weights, put(tokens_BT), put(segments_BT), config=config, compute=compute))
            stats.prefilled += len(group)
            # One decode shape for all groups: a short group repeats its first prefill, which no row reads.
            prefills += prefills[:1] * (-(-group_size // batch_prompts) - len(prefills))

            pairs = [(place, k) for place in range(len(group)) for k in range(sampling.n)]
            drawn: list[tuple[list[int], int, float]] = []
            for first in range(0, len(pairs), batch_rows):
                part = pairs[first : first + batch_rows]
                real, part = len(part), part + part[:1] * (batch_rows - len(part))
                room = [min(sampling.max_new_tokens, sampling.context - len(group[place].ids)) for place, _ in part]
                keys_R = candidate_keys(
                    seed, round, [group[place].prompt["prompt_id"] for place, _ in part], [k for _, k in part]
                )
                answers = _decode(
                    weights,
                    tuple(prefills),
                    put(np.array([place for place, _ in part], np.int32)),
                    put(keys_R),
                    put(np.where(np.arange(batch_rows) < real, room, 0).astype(np.int32)),
                    config=config,
                    compute=compute,
                    sampling=dataclasses.replace(sampling, n=1, min_new_tokens=1, context=2),
                    stops=tuple(sorted(reasons)),
                )
                tokens_RT, count_R, stop_R, logprob_R, steps = jax.device_get(answers)
                stats.decode_steps += int(steps)
                drawn += [
                    (tokens_RT[r, : count_R[r]].tolist(), int(stop_R[r]), float(logprob_R[r])) for r in range(real)
                ]
            stats.compilations += _traced[0] - before
            for place, p in enumerate(group):
                if p.prompt["prompt_id"] not in done:
                    mine = drawn[place * sampling.n : (place + 1) * sampling.n]
                    yield p.place, records.record(p, base, mine, tokenizer, reasons, chat)


def _pad(prompts: Sequence[Sequence[int]], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """tokens_BT padded with 0 on the right and segment_ids_BT, 1 on tokens; missing rows repeat the first prompt."""
    tokens_BT = np.zeros((rows, length), np.int32)
    segment_ids_BT = np.zeros((rows, length), np.int32)
    for b in range(rows):
        ids = prompts[b] if b < len(prompts) else prompts[0]
        tokens_BT[b, : len(ids)] = ids
        segment_ids_BT[b, : len(ids)] = 1
    return tokens_BT, segment_ids_BT
