"""Held-out loss against log-probabilities of whole forward passes, one example at a time."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from face import Face

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import DataError
from tigerjax.evaluate.held_out import lines, losses
from tigerjax.model.layers import init
from tigerjax.model.llama import model as llama
from tigerjax.tokenizer.chat import encode_chat

CONFIG = ModelConfig(
    num_layers=1,
    model_dim=12,
    mlp_dim=20,
    num_heads=2,
    num_kv_heads=1,
    head_dim=6,
    vocab_size=33,
    padded_vocab_size=36,
    rope_base=777.0,
    norm_eps=1e-5,
)
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=16)
SAME_SUMS = 1e-5  # float32, other summation orders
SEQ_LEN = 24


class Letters(Face):
    """One id a lower-case letter; what the chat encoding needs of a tokenizer."""

    bos, eos, ins, res, pad, folder = 1, 2, 30, 31, 32, "letters"

    def encode(self, text: str) -> list[int]:
        return [3 + ord(c) - ord("a") for c in text]


def example(turns: str, task: str, lang: str) -> dict:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns.split())]
    return {"messages": messages, "task": task, "lang": lang}


EXAMPLES = [
    example("ab cde", "qa", "en"),
    example("b c", "qa", "zh"),
    example("abc de fg hijk", "chat", "en"),
    example("x yz", "chat", "zh"),
    example("zz a", "qa", "en"),
]


@pytest.fixture(scope="module")
def weights():
    model = llama.Llama(CONFIG, COMPUTE)
    return jax.tree.map(lambda w: w * 8.0, nn.unbox(init(model, jax.random.key(3))))


def one_by_one(weights, examples):
    """(sum of -log p, right, tokens) by the definition: each answer token and each eos of an assistant, once."""
    nll = right = count = 0
    for e in examples:
        ids, mask = encode_chat(Letters(), e["messages"])
        tokens_BT = np.zeros((1, SEQ_LEN), np.int32)
        tokens_BT[0, : len(ids)] = ids
        positions_BT, segment_ids_BT = np.arange(SEQ_LEN)[None], (np.arange(SEQ_LEN) < len(ids)).astype(np.int32)[None]
        logits_BTV = llama.Llama(CONFIG, COMPUTE).apply({"params": weights}, tokens_BT, positions_BT, segment_ids_BT)
        logprobs_TV = np.asarray(jax.nn.log_softmax(logits_BTV[0, :, : CONFIG.vocab_size]))
        for t in range(1, len(ids)):
            if mask[t]:
                nll, count = nll - logprobs_TV[t - 1, ids[t]], count + 1
                right += int(logprobs_TV[t - 1].argmax() == ids[t])
    return nll, right, count


def loaded(weights):
    return Loaded(config=CONFIG, weights=weights, tokenizer=Letters(), compute=COMPUTE, sha256="m")


def test_losses_by_task_and_language_are_those_of_single_examples(weights):
    got = losses(loaded(weights), EXAMPLES, seq_len=SEQ_LEN, batch_rows=2)
    parts = {("by_task", t): [e for e in EXAMPLES if e["task"] == t] for t in ("qa", "chat")}
    parts |= {("by_lang", name): [e for e in EXAMPLES if e["lang"] == name] for name in ("zh", "en")}
    for (table, name), examples in parts.items():
        nll, right, count = one_by_one(weights, examples)
        figures = got[table][name]
        assert figures["tokens"] == count and figures["accuracy"] == pytest.approx(right / count)
        assert figures["loss_nats"] == pytest.approx(nll / count, rel=SAME_SUMS)
    nll, _, count = one_by_one(weights, EXAMPLES)
    assert got["loss_nats"] == pytest.approx(nll / count, rel=SAME_SUMS) and got["tokens"] == count
    assert (got["examples"], got["overlong"]) == (5, 0)


def test_examples_without_a_task_are_named_in_figures_and_lines(weights):
    mixed = [EXAMPLES[0], {"messages": EXAMPLES[1]["messages"], "task": " ", "lang": "en"}, example("b c", "en", "en")]
    got = losses(loaded(weights), mixed, seq_len=SEQ_LEN, batch_rows=2)
    assert set(got["by_task"]) == {"qa", "not given", "en"} and set(got["by_lang"]) == {"en"}
    names = [line.split("  ")[0] for line in lines(got)]
    assert names == ["held out", "task en", "task not given", "task qa", "language en"]


def test_where_no_example_names_a_task_or_language_the_line_of_all_stands_alone():
    one = {"loss_nats": 1.0, "accuracy": 0.5, "tokens": 8}
    assert len(lines(one | {"by_task": {"not given": one}, "by_lang": {"not given": one}})) == 1


def test_examples_longer_than_a_row_are_counted_and_left_out(weights):
    long = [example("a " + "b" * 40, "qa", "en")]
    got = losses(loaded(weights), [*EXAMPLES, *long], seq_len=SEQ_LEN, batch_rows=2)
    assert got["overlong"] == 1 and got["examples"] == 5
    with pytest.raises(DataError, match="1 are longer than data"):
        losses(loaded(weights), long, seq_len=SEQ_LEN, batch_rows=2)
