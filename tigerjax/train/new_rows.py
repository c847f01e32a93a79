"""Rows of new tokens, learnt from what the model made of the same text before it had them.

The method is token distillation (Dobler et al., 2025, arXiv 2505.20133): the model reads a text in its old tokens, and
in its new ones. Where an old and a new token end at the same character, both readings have seen the same text, so their
hidden states should be equal. Only the embedding rows of the new tokens are trained for that; nothing else changes.

Unlike the paper, a text is read in all of its new tokens at once, and not in one of them. The head's rows stay as they
are given: hidden states say nothing about them.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.config.ranges import Count, PositiveFactor, check
from tigerjax.errors import DataError
from tigerjax.files.progress import Advance
from tigerjax.model import families

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """How new rows are learnt."""

    snippets: Count = 100
    """Snippets of text that are read for each new token. The paper has about 100."""
    tokens: Count = 64
    """Old tokens of a snippet, at most."""
    batch_rows: Count = 16
    """Snippets of a step."""
    peak_lr: PositiveFactor = 1e-3
    """Learning rate of Adam, which falls to nothing in a straight line."""

    def __post_init__(self) -> None:
        check(self, "distil.")


Spans = list[tuple[int, int, int]]
"""(id, begin, end) of each token of a text."""


class Snippet(NamedTuple):
    """A text in old and in new tokens, and the places (in old tokens, in new ones) that have read the same text."""

    old: list[int]
    new: list[int]
    places: list[tuple[int, int]]


def snippets(
    texts: Iterable[str], old: "Tokenizer", new: "Tokenizer", first: int, config: DistilConfig
) -> list[Snippet]:
    """Snippets until each new token was read often enough, as far as the texts have it; `first` is the first new id.

    A snippet is taken for the sake of a token that has not had its share yet. Raises DataError where the texts have no
    new token.
    """
    seen: Counter[int] = Counter()
    found = []
    for text in texts:
        for before, after in _parts(text, old, new, config.tokens):
            ids = {i for i, *_ in after if i >= first}
            if not any(seen[i] < config.snippets for i in ids):
                continue
            begins = next(n for n, (i, *_) in enumerate(after) if i >= first)
            ends = {end: place for place, (_, begin, end) in enumerate(before) if end > begin}
            places = [
                (ends[end], n) for n, (_, begin, end) in enumerate(after) if n >= begins and end > begin and end in ends
            ]
            if places:
                seen.update(ids)
                found.append(Snippet([i for i, *_ in before], [i for i, *_ in after], places))
    if not found:
        raise DataError("none of the texts has a new token; give text in the language that the tokenizer was made for")
    return found


def _parts(text: str, old: "Tokenizer", new: "Tokenizer", tokens: int) -> Iterator[tuple[Spans, Spans]]:
    """The lines of a text in old and in new tokens, cut in halves until they have at most so many of either."""
    left = [line for line in reversed(text.split("\n")) if line]
    while left:
        line = left.pop()
        before, after = old.encode_spans(line), new.encode_spans(line)
        if max(len(before), len(after)) <= tokens:
            yield before, after
        elif len(line) > 1:
            left += [line[len(line) // 2 :], line[: len(line) // 2]]


def distil(
    weights: dict[str, Any],
    model: ModelConfig,
    given: Sequence[Snippet],
    first: int,
    config: DistilConfig,
    compute: ComputeConfig,
    *,
    progress: Advance | None = None,
) -> tuple[np.ndarray, dict[str, float]]:
    """(`embed` with learnt rows for the tokens from `first` on, {loss_before, loss_after, steps}).

    `weights` and `model` are those of the resized checkpoint. The loss is the mean square of the difference of the
    hidden states after the final norm, over all features and places. A row that no snippet has stays as it is.
    """
    family = families.of(model).language_model(model, compute)
    old_VD = jnp.asarray(weights["embed"])
    fixed = {name: jax.tree.map(jnp.asarray, value) for name, value in weights.items() if name != "embed"}

    def hidden(embed_VD: jax.Array, tokens_BT: jax.Array | np.ndarray) -> jax.Array:
        B, T = tokens_BT.shape
        at_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
        # Causal attention: what stands behind a place does not change it, so padding needs no segment of its own.
        args = tokens_BT, at_BT, jnp.ones((B, T), jnp.int32)
        made: Any = family.apply({"params": fixed | {"embed": embed_VD}}, *args, method="hidden")
        return made.astype(jnp.float32)

    def loss(rows_VD: jax.Array, batch: "SnippetBatch") -> jax.Array:
        target_BTD = jax.lax.stop_gradient(hidden(old_VD, batch.old_BT))
        made_BTD = hidden(old_VD.at[first : first + len(rows_VD)].set(rows_VD.astype(old_VD.dtype)), batch.new_BT)
        rows = jnp.arange(len(batch.old_BT))[:, None]
        off_BP = jnp.mean((made_BTD[rows, batch.at_new_BP] - target_BTD[rows, batch.at_old_BP]) ** 2, axis=-1)
        return jnp.sum(off_BP * batch.weight_BP) / jnp.sum(batch.weight_BP)

    batches = list(_batches(given, config))
    optimizer = optax.adam(optax.linear_schedule(config.peak_lr, 0.0, len(batches)))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(rows_VD: jax.Array, state: Any, batch: "SnippetBatch") -> tuple[jax.Array, Any, jax.Array]:
        value, slope_VD = jax.value_and_grad(loss)(rows_VD, batch)
        change_VD, state = optimizer.update(slope_VD, state, rows_VD)
        return rows_VD + change_VD, state, value

    rows_VD = old_VD[first : model.vocab_size].astype(jnp.float32)
    state, losses = optimizer.init(rows_VD), []
    for n, batch in enumerate(batches):
        rows_VD, state, value = step(rows_VD, state, batch)
        losses.append(float(value))
        if progress is not None:
            progress(n + 1, len(batches))
    out_VD = np.array(weights["embed"])
    out_VD[first : model.vocab_size] = np.asarray(rows_VD).astype(out_VD.dtype)
    few = max(1, len(losses) // 10)
    return out_VD, {
        "loss_before": sum(losses[:few]) / few,
        "loss_after": sum(losses[-few:]) / few,
        "steps": len(losses),
    }


class SnippetBatch(NamedTuple):
    """Snippets of one shape: tokens, and places (P of them) with weight 1, or 0 where a snippet has fewer."""

    old_BT: np.ndarray
    new_BT: np.ndarray
    at_old_BP: np.ndarray
    at_new_BP: np.ndarray
    weight_BP: np.ndarray


def _batches(given: Sequence[Snippet], config: DistilConfig) -> Iterator[SnippetBatch]:
    """All snippets in an order that mixes documents; the last batch takes some of the first again."""
    order = np.random.default_rng(0).permutation(len(given))
    B, T = config.batch_rows, config.tokens
    for start in range(0, len(given), B):
        batch = SnippetBatch(*(np.zeros((B, T), kind) for kind in (np.int32, np.int32, np.int32, np.int32, np.float32)))
        for b in range(B):
            one = given[order[(start + b) % len(given)]]
            batch.old_BT[b, : len(one.old)] = one.old
            batch.new_BT[b, : len(one.new)] = one.new
            for p, (at_old, at_new) in enumerate(one.places):
                batch.at_old_BP[b, p], batch.at_new_BP[b, p], batch.weight_BP[b, p] = at_old, at_new, 1.0
        yield batch
