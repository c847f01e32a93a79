"""Loss of a chat model on held-out SFT examples: over all of them, by task and by language."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.data import rows
from tigerjax.errors import DataError
from tigerjax.files.progress import Advance
from tigerjax.model import families
from tigerjax.model.layers import head
from tigerjax.model.loss import token_loss
from tigerjax.records import NOT_GIVEN
from tigerjax.tokenizer.chat import encode_chat
from tigerjax.tokenizer.load import Tokenizer


def losses(
    model: Loaded,
    examples: Iterable[Mapping[str, Any]],
    *,
    seq_len: int,
    batch_rows: int,
    progress: Advance | None = None,
) -> dict[str, Any]:
    """{loss_nats, accuracy, tokens, examples, overlong, by_task, by_lang} of the answers in `examples`.

    Loss and next-token accuracy are means over the answers' tokens and their eos. Each token counts once: the weights
    that examples and answers have in training are not used, but an answer of weight 0 does not count. `by_task` and
    `by_lang` map a name to {loss_nats, accuracy, tokens}; examples that name none are under NOT_GIVEN.

    Examples are packed as in training, into batches of one shape. Those longer than `seq_len` are left out and counted
    in `overlong`; DataError when nothing is left. `progress` counts packed rows.
    """
    tokenizer = model.tokenizer
    groups: dict[tuple[str, str], list[tuple[list[int], list[float]]]] = defaultdict(list)
    for example in examples:
        ids, mask = encode_chat(tokenizer, example["messages"])
        groups[_name(example, "task"), _name(example, "lang")].append((ids, [float(w > 0) for w in mask]))
    by_task: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    by_lang: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    counts: Counter[str] = Counter()
    weights = jax.tree.map(jnp.asarray, model.weights)
    packs = {key: rows.pack(encoded, seq_len, pad=tokenizer.pad or 0) for key, encoded in sorted(groups.items())}
    done, all_rows = 0, sum(len(packed.rows) for packed in packs.values())
    for (task, lang), packed in packs.items():
        encoded = groups[task, lang]
        counts["overlong"] += len(packed.overlong)
        counts["examples"] += len(encoded) - len(packed.overlong) - len(packed.weightless)
        for start in range(0, len(packed.rows), batch_rows):
            part = packed.rows[start : start + batch_rows]
            part += [np.zeros_like(part[0])] * (batch_rows - len(part))  # segment 0: padding, no loss
            batch = rows.make_batch(part)
            sums = np.asarray(_sums(weights, batch, config=model.config, compute=model.compute), np.float64)
            by_task[task] += sums
            by_lang[lang] += sums
            done += min(batch_rows, len(packed.rows) - start)
            if progress is not None:
                progress(done, all_rows)
    if not counts["examples"]:
        raise _none_left(counts["overlong"], seq_len)
    total = _figures(sum(by_lang.values(), np.zeros(3)))
    named = {"by_task": by_task, "by_lang": by_lang}
    tables = {key: {name: _figures(sums) for name, sums in by.items() if sums[1]} for key, by in named.items()}
    return total | {"examples": counts["examples"], "overlong": counts["overlong"]} | tables


def refuse_unfit(tokenizer: Tokenizer, examples: Iterable[Mapping[str, Any]], *, seq_len: int) -> None:
    """DataError where `losses` would have no example left: call it before a long training, and not after."""
    packed = rows.pack([encode_chat(tokenizer, one["messages"]) for one in examples], seq_len, pad=tokenizer.pad or 0)
    if not packed.rows:
        raise _none_left(len(packed.overlong), seq_len)


def _none_left(overlong: int, seq_len: int) -> DataError:
    return DataError(
        f"no held-out example to take a loss of: {overlong} are longer than data.seq_len={seq_len};"
        " raise it or give others"
    )


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The figures of `losses` as lines: of all examples, then of each task and each language.

    Where no example names a task (or a language), its line would be that of all, and is left out.
    """
    named = [("held out", figures)]
    for what, by in (("task", figures["by_task"]), ("language", figures["by_lang"])):
        if set(by) != {NOT_GIVEN}:
            named += [(f"{what} {name}", part) for name, part in by.items()]
    return [
        f"{name:24} loss {part['loss_nats']:.3f} nats  accuracy {part['accuracy']:.1%}  tokens {part['tokens']}"
        for name, part in named
    ]


def _name(example: Mapping[str, Any], field: str) -> str:
    return str(example.get(field) or "").strip() or NOT_GIVEN


def _figures(sums: np.ndarray) -> dict[str, float]:
    nll, tokens, right = sums.tolist()
    return {"loss_nats": nll / tokens, "accuracy": right / tokens, "tokens": int(tokens)}


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _sums(weights: Any, batch: Any, *, config: ModelConfig, compute: ComputeConfig) -> jax.Array:
    """[sum of -log p in nats, number of tokens, number of right ones] of a batch."""
    model = families.of(config).language_model(config, compute)
    args = batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT
    hidden_BTD: Any = model.apply({"params": weights}, *args, method="hidden")
    total = token_loss(
        hidden_BTD,
        head(weights, config),
        batch.targets_BT,
        batch.weights_BT,
        vocab_size=config.vocab_size,
        chunk_tokens=compute.loss_chunk_tokens,
        batch_shards=1,
        length_shards=1,
    )
    return jnp.stack([total.nll_sum, total.weight, total.correct])
