"""Log-likelihoods of token sequences, on one device or a mesh.

Sequences that begin alike are computed together (`tigerjax.evaluate.branches`): the context of several answers once,
and the examples of a few-shot task once for all its questions. The last bits of their scores depend on what they share.
A sequence that shares nothing is padded to the bucket of its own length, in a batch of a fixed number of rows. So its
score does not depend on what else is scored. With rope kind dynamic nothing is shared once a sequence is longer than
the original length: its beginning then has other angles than that of a shorter one.

There are few shapes. Logits exist for a chunk of positions at a time; those of columns past the vocabulary are -inf.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax import mesh as mesh_axes
from tigerjax.checkpoint.loaded import Loaded
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate import branches
from tigerjax.evaluate.branches import Tokens
from tigerjax.evaluate.together import Score, Together, at_once, in_chunks, of_targets
from tigerjax.mesh import in_mesh
from tigerjax.model import families
from tigerjax.model.attention import fitting
from tigerjax.model.layers import head
from tigerjax.model.quantised import is_quantised
from tigerjax.model.rope import depends_on_length
from tigerjax.sample.engine import bucket


class LogLikelihoods:
    """A model that is asked for log-likelihoods."""

    def __init__(self, model: Loaded, *, context: int, rows: int = 8):
        """`context` is the longest sequence in tokens, `rows` the rows of a batch."""
        self.config, self.compute, self.mesh = model.config, model.compute, model.mesh
        self.context, self.rows, mesh = context, rows, model.mesh
        self._traces = 0
        ways = mesh_axes.row_ways(mesh)
        if rows < 1 or rows % ways:
            raise ConfigError(
                f"batch of {rows} rows must be a multiple of the {ways} devices that share rows; change it"
            )
        self.weights = jax.tree.map(jnp.asarray, model.weights) if mesh is None else model.weights
        self._jitted: Callable[..., Any] = jax.jit(self._run, static_argnums=4)
        self._jitted_each: Callable[..., Any] = jax.jit(self._run_each, static_argnums=2)
        if mesh is not None:
            cut = families.weight_shardings(model.config, families.of(model.config).KIND, mesh)
            self.weights = jax.tree.map(
                lambda w, to: w if is_quantised(w) else jax.device_put(w, to), model.weights, cut, is_leaf=is_quantised
            )
            # Scores come back whole: every process reads all of them.
            whole = jax.jit(self._run, static_argnums=4, out_shardings=mesh_axes.sharding(mesh))
            each = jax.jit(self._run_each, static_argnums=2, out_shardings=mesh_axes.sharding(mesh))
            self._jitted, self._jitted_each = in_mesh(mesh, whole), in_mesh(mesh, each)
        self._together = Together(dataclasses.replace(model, weights=self.weights), rows=rows)

    @property
    def traces(self) -> int:
        """The shapes that were compiled."""
        return self._traces + self._together.traces

    def score(self, sequences: Sequence[Tokens]) -> Iterator[tuple[int, Score]]:
        """(index, score) as batches finish: those that share first, then short sequences first. DataError for a score
        that is not finite."""
        for n, sequence in enumerate(sequences):
            if not 1 <= sequence.first < len(sequence.ids) <= self.context:
                raise DataError(
                    f"sequence {n} has {len(sequence.ids)} tokens scored from {sequence.first} on; needs 2 to"
                    f" {self.context}, and one scored at least"
                )
        longest = max((len(sequence.ids) for sequence in sequences), default=0)
        alone = depends_on_length(self.config.rope, longest)
        plan = branches.Plan([], [], list(range(len(sequences)))) if alone else branches.plan(sequences)
        yield from self._together.score(sequences, plan)
        buckets: dict[int, list[int]] = {}
        for n in plan.alone:
            buckets.setdefault(bucket(len(sequences[n].ids), self.context), []).append(n)
        for length in sorted(buckets):
            members = buckets[length]
            for at in range(0, len(members), self.rows):
                batch = members[at : at + self.rows]
                yield from zip(batch, self._batch([sequences[n] for n in batch], length), strict=True)

    def each(self, rows: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """For each row, the log-probabilities of its tokens from the second on, in nats. The rows have one length.

        Raises DataError for a log-probability that is not finite.
        """
        for at in range(0, len(rows), self.rows):
            batch = [list(row) for row in rows[at : at + self.rows]]
            whole = batch + [batch[-1]] * (self.rows - len(batch))  # a short batch repeats its last row
            tokens_BT = np.asarray(whole, np.int32)
            logprob_BT = jax.device_get(
                self._jitted_each(self.weights, self._put(tokens_BT), self._chunk(len(whole[0])))
            )
            _refuse_not_finite(logprob_BT)
            yield from logprob_BT[: len(batch), :-1]

    def _chunk(self, length: int) -> int:
        """Positions whose logits exist at one time."""
        chunk = min(length, max(1, at_once(self.compute) // self.rows))
        while length % chunk:
            chunk -= 1
        return chunk

    def _batch(self, batch: list[Tokens], length: int) -> list[Score]:
        tokens_BT = np.zeros((self.rows, length), np.int32)
        ends_B, firsts_B = np.zeros(self.rows, np.int32), np.ones(self.rows, np.int32)
        for b in range(self.rows):
            sequence = batch[min(b, len(batch) - 1)]  # a short batch repeats its last row
            tokens_BT[b, : len(sequence.ids)] = sequence.ids
            ends_B[b], firsts_B[b] = len(sequence.ids), sequence.first
        chunk = self._chunk(length)
        args = (self.weights, *(self._put(a) for a in (tokens_BT, firsts_B, ends_B)))
        logprob_B, greedy_B = jax.device_get(self._jitted(*args, chunk))
        _refuse_not_finite(logprob_B[: len(batch)])
        return [Score(float(logprob_B[b]), bool(greedy_B[b])) for b in range(len(batch))]

    def _put(self, array: np.ndarray) -> Any:
        return array if self.mesh is None else mesh_axes.put(array, self.mesh, "batch")

    def _run(
        self, weights: Any, tokens_BT: jax.Array, firsts_B: jax.Array, ends_B: jax.Array, chunk: int
    ) -> tuple[jax.Array, jax.Array]:
        self._traces += 1
        B, T = tokens_BT.shape
        at_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
        hidden_BTD = self._hidden(weights, tokens_BT, at_BT, (at_BT < ends_B[:, None]).astype(jnp.int32))
        targets_BT = jnp.roll(tokens_BT, -1, axis=1)
        scored_BT = (at_BT + 1 >= firsts_B[:, None]) & (at_BT + 1 < ends_B[:, None])

        def step(sums: Any, part: Any) -> Any:
            hidden_BTD, targets_BT, scored_BT = part
            logprob_BT, right_BT = of_targets(hidden_BTD, head(weights, self.config), targets_BT, self.config)
            total_B, greedy_B = sums
            total_B += jnp.sum(jnp.where(scored_BT, logprob_BT, 0.0), axis=1)
            return (total_B, greedy_B & jnp.all(right_BT | ~scored_BT, axis=1)), None

        start = jnp.zeros(B, jnp.float32), jnp.ones(B, bool)
        return jax.lax.scan(step, start, tuple(in_chunks(a, chunk) for a in (hidden_BTD, targets_BT, scored_BT)))[0]

    def _run_each(self, weights: Any, tokens_BT: jax.Array, chunk: int) -> jax.Array:
        """The log-probability of the token after each position; the last one has none and is 0."""
        self._traces += 1
        B, T = tokens_BT.shape
        at_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
        hidden_BTD = self._hidden(weights, tokens_BT, at_BT, jnp.ones((B, T), jnp.int32))
        parts = tuple(in_chunks(a, chunk) for a in (hidden_BTD, jnp.roll(tokens_BT, -1, axis=1)))

        def step(_: None, part: Any) -> Any:
            hidden_BTD, targets_BT = part
            return None, of_targets(hidden_BTD, weights["head"], targets_BT, self.config)[0]

        _, logprob_CBT = jax.lax.scan(step, None, parts)
        logprob_BT = jnp.moveaxis(logprob_CBT, 0, 1).reshape(B, T)
        return jnp.where(at_BT < T - 1, logprob_BT, 0.0)

    def _hidden(self, weights: Any, tokens_BT: jax.Array, at_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
        """What the head is applied to, of rows at positions `at_BT`."""
        model = families.of(self.config).language_model(self.config, fitting(self.compute, tokens_BT.shape[1]))
        hidden_BTD: Any = model.apply({"params": weights}, tokens_BT, at_BT, segment_ids_BT, method="hidden")
        return hidden_BTD


def _refuse_not_finite(logprobs: np.ndarray) -> None:
    if not np.isfinite(logprobs).all():
        raise DataError("a log-likelihood is not finite: the model gives NaN, or an id is past its vocabulary")
