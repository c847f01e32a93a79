"""A model in 8 bits: near the model in float32, and the same wherever it is read."""

from pathlib import Path

import jax
import numpy as np
import pytest
from asking import Answers, ask

from tigerjax import config
from tigerjax.checkpoint import loaded
from tigerjax.checkpoint.loaded import quantised
from tigerjax.evaluate.answerer import load_answerer
from tigerjax.evaluate.loglikelihood import LogLikelihoods, Tokens
from tigerjax.model.quantised import is_quantised, read_all
from tigerjax.sample.engine import Batching, SamplingConfig, generate
from tigerjax.serve.engine import Engine, ServeBatching

ROOT = Path(__file__).resolve().parents[2]
AGREEMENT, PERPLEXITY = 0.95, 0.03
"""Top-1 tokens that are the same at least, and how far the perplexity may be off. The model is random and tiny: its
weights have hardly any structure that 8 bits could lose, and few neighbours over which errors could cancel."""
SAME_MATHS = 1e-4  # sums of tens of log-probabilities, the weights multiplied out before or within the product


@pytest.fixture(scope="module")
def in_8_bits(tiny):
    return quantised(tiny.loaded(), "int8")


@pytest.fixture(scope="module")
def multiplied_out(tiny, in_8_bits):
    """The same weights as float32 arrays."""
    return tiny.loaded(weights=read_all(in_8_bits.weights, "float32"))


def test_the_matrices_of_the_layers_are_held_in_a_quarter_of_the_bytes_and_the_model_has_another_name(tiny, in_8_bits):
    attn = in_8_bits.weights["layers"]["attn"]
    assert is_quantised(attn["q"]) and attn["q"].values.dtype == np.int8
    assert in_8_bits.weights["embed"] is tiny.weights["embed"]
    assert in_8_bits.sha256 != tiny.loaded().sha256 and quantised(tiny.loaded(), None).sha256 == "m"


def test_top_1_tokens_and_perplexity_are_those_of_float32_but_for_a_few(tiny, in_8_bits, multiplied_out):
    rng = np.random.default_rng(5)
    near = tiny._replace(weights=multiplied_out.weights)
    agree, nats = [], np.zeros(2)
    for _ in range(4):
        ids = rng.integers(3, 259, 90).tolist()
        for n, model in enumerate((tiny, near)):
            logits_TV = model.logits(ids)
            nats[n] -= np.asarray(jax.nn.log_softmax(logits_TV))[np.arange(89), ids[1:]].mean() / 4
            if n == 0:
                best_T = logits_TV.argmax(-1)
        agree += (best_T == logits_TV.argmax(-1)).tolist()
    assert np.mean(agree) >= AGREEMENT and abs(np.exp(nats[1] - nats[0]) - 1) <= PERPLEXITY


def test_the_sampler_and_the_scorer_read_it_as_its_weights_multiplied_out(in_8_bits, multiplied_out):
    prompts = [{"prompt_id": "p", "text": "hello"}]
    sampling = SamplingConfig(n=4, max_new_tokens=12, seed=0)
    (one,), (other,) = (
        list(generate(model, prompts, sampling, batching=Batching(prompts=1, rows=4)))
        for model in (in_8_bits, multiplied_out)
    )
    assert [c["token_ids"] for c in one["candidates"]] == [c["token_ids"] for c in other["candidates"]]
    stem = tuple(range(3, 43))
    sequences = [Tokens((*stem, *end), len(stem)) for end in ((50, 51), (60,), (70, 71, 72))]
    sequences += [Tokens((5, 6, 7, 8), 1)]
    one, other = (
        dict(LogLikelihoods(model, context=64, rows=2).score(sequences)) for model in (in_8_bits, multiplied_out)
    )
    for n in range(len(sequences)):
        assert abs(one[n].logprob - other[n].logprob) < SAME_MATHS


def test_an_evaluation_reads_it_where_it_is_asked_to(tiny, monkeypatch):
    monkeypatch.setattr(loaded, "load", lambda *_, **__: tiny.loaded())
    monkeypatch.setattr("tigerjax.tokenizer.load.Tokenizer", lambda folder: tiny.tokenizer)
    settings = config.load(ROOT / "configs" / "llama2_tiny.py")
    for quantise in ("int8", None):
        answerer = load_answerer(settings, None, rows=2, cache=None, quantise=quantise)
        assert is_quantised(answerer.model.weights["layers"]["mlp"]["up"]) == (quantise is not None)


def test_the_engine_answers_with_it_as_the_sampler_does(tiny, in_8_bits):
    engine = Engine(in_8_bits, batching=ServeBatching(slots=4, context=96, chunk=16, kept_mb=0.0))
    got, one = Answers(4), ask(tiny, "hello", "p", n=4)
    engine.submit(one, got)
    sampling = SamplingConfig(n=4, max_new_tokens=12, seed=0, context=96)
    (record,) = generate(
        in_8_bits, [{"prompt_id": "p", "text": "hello"}], sampling, batching=Batching(prompts=1, rows=4)
    )
    assert [ids for ids, _ in got.result()] == [c["token_ids"] for c in record["candidates"]]
    engine.close()
