"""Log-likelihoods beside an independent Llama; what they do not depend on; results that are kept."""

import json

import jax
import numpy as np
import pytest
from test_branches import CASES
from tiny import CONTEXT, loaded, sequences, weights
from tiny_model import CONFIG, ByteTokenizer

from tigerjax.config import MeshConfig
from tigerjax.convert.tensors import InMemory
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate.answerer import Answerer
from tigerjax.evaluate.loglikelihood import LogLikelihoods, Tokens
from tigerjax.mesh import make_mesh
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.probe import numpy_logits

EXACT = 1e-4  # nats a request, the bound; both sides are float32


def score(requests, rows=4, mesh=None):
    context = max(CONTEXT, *(len(ids) for ids, _ in requests), 0)
    scorer = LogLikelihoods(loaded(mesh=mesh), context=context, rows=rows)
    found = dict(scorer.score([Tokens(tuple(ids), first) for ids, first in requests]))
    return [found[n] for n in range(len(requests))], scorer


@pytest.fixture(scope="module")
def scored():
    return score(sequences())


def independent(requests=None):
    """(logprob, greedy) by the numpy Llama of conversion, from the tensors as Hugging Face lays them out."""
    w, spec = weights(), hf_rows(CONFIG, rows=CONFIG.vocab_size)
    tensors = {}
    for row in spec:
        leaf = w
        for name in row.ours.split("/"):
            leaf = leaf[name]
        for i, name in enumerate(row.names(CONFIG)):
            tensors[name] = row.to_theirs(leaf[row.place(i, 0, row.shape[0])])
    out = []
    for ids, first in requests or sequences():
        logits_TV = numpy_logits(InMemory(tensors).rows, CONFIG, spec, np.array(ids), "float32").astype(np.float64)
        logprobs_TV = logits_TV - np.log(np.exp(logits_TV).sum(1, keepdims=True))
        rows = range(first - 1, len(ids) - 1)
        out.append(
            (
                sum(logprobs_TV[t, ids[t + 1]] for t in rows),
                all(logits_TV[t].argmax() == ids[t + 1] for t in rows),
            )
        )
    return out


def test_scores_are_those_of_an_independent_llama(scored):
    found, scorer = scored
    want = independent()
    assert np.abs([f.logprob - w for f, (w, _) in zip(found, want, strict=True)]).max() < EXACT
    assert [f.greedy for f in found] == [g for _, g in want]
    assert min(f.logprob for f in found) < -20 and scorer.traces == 3  # buckets of 32, 64 and the context


@pytest.fixture(scope="module")
def long():
    """A scorer of longer sequences, which several tests compile for."""
    return LogLikelihoods(loaded(), context=1024, rows=2)


@pytest.mark.parametrize("case", ["letters", "endings", "whole texts with examples", "nested"])
def test_what_sequences_share_is_computed_once_with_the_same_scores(long, case):
    requests = _of(case)
    found, want = _again(long, requests), independent(requests)
    assert np.abs([f.logprob - w for f, (w, _) in zip(found, want, strict=True)]).max() < EXACT * longest(requests)
    assert [f.greedy for f in found] == [g for _, g in want]
    assert _again(long, requests[::-1])[::-1] == found


def _of(case):
    """Requests of a small case, with ids of the tiny model; one answer of each three is what it would say itself."""
    rng, small = np.random.default_rng(5), {"letters": {"subjects": 2, "questions": 8, "shots": 150}}
    small |= {"endings": {"items": 5}}
    made = CASES[case](rng, vocab=260, **small[case]) if case in small else CASES[case](rng)[::9]
    return [([3 + i % 255 for i in s.ids], s.first) for s in made]


def longest(requests):
    """Tens of scored tokens: the bound is for an answer, and the error of a whole text grows with its length."""
    return max(1, max(len(ids) - first for ids, first in requests) / 10)


def test_a_greedy_continuation_is_greedy(scored):
    _, scorer = scored
    answerer = Answerer(loaded(), context=CONTEXT, rows=4)
    answerer.scorer = scorer
    prompt = sequences()[0][0][:20]
    (text,) = answerer.continuations([(prompt, 6)])
    ids = next(iter(answerer.cache.results.values()))[1]
    assert text == ByteTokenizer().decode(ids) and len(ids) == 6
    (found,) = answerer.loglikelihoods([([*prompt, *ids], len(prompt))])
    assert found[1]
    (other,) = answerer.loglikelihoods([([*prompt, *ids[:-1], ids[-1] % 200 + 3], len(prompt))])
    assert not other[1]


def test_order_and_company_change_no_bit(scored):
    requests = sequences()
    turned = list(_again(scored[1], requests[::-1]))[::-1]
    assert turned == scored[0]
    assert _again(scored[1], requests[:1]) == scored[0][:1]


def _again(scorer, requests):
    found = dict(scorer.score([Tokens(tuple(ids), first) for ids, first in requests]))
    return [found[n] for n in range(len(requests))]


@pytest.mark.parametrize("rows", [1, 8])
def test_the_batch_size_does_not_change_results(scored, rows):
    found, _ = score(sequences()[:4], rows=rows)
    assert np.abs([a.logprob - b.logprob for a, b in zip(found, scored[0], strict=False)]).max() < EXACT
    assert [a.greedy for a in found] == [b.greedy for b in scored[0][:4]]


def test_a_mesh_does_not_change_results(scored):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), jax.devices()[:8])
    found, _ = score(sequences()[:4], rows=4, mesh=mesh)
    assert np.abs([a.logprob - b.logprob for a, b in zip(found, scored[0], strict=False)]).max() < EXACT
    requests = _of("letters")
    found, scorer = score(requests, rows=4, mesh=mesh)
    assert np.abs([f.logprob - w for f, (w, _) in zip(found, independent(requests), strict=True)]).max() < EXACT
    assert scorer.traces == 2  # stems, and what is behind them
    with pytest.raises(ConfigError, match="batch of 3 rows must be a multiple of the 4 devices"):
        score([], rows=3, mesh=mesh)


def test_a_sequence_that_does_not_fit_is_refused(scored):
    for bad in (Tokens((5,), 1), Tokens((5, 6), 2), Tokens((5, 6), 0), Tokens((5,) * 81, 1)):
        with pytest.raises(DataError, match=r"sequence 0 has \d+ tokens scored from"):
            list(scored[1].score([bad]))


class Idle:
    """A scorer with nothing left to do."""

    def score(self, sequences):
        assert not sequences
        return iter(())


def test_what_is_kept_is_not_computed_again_and_half_a_line_is_no_harm(scored, tmp_path):
    path = tmp_path / "cache.jsonl"

    def new(sha="m"):
        return Answerer(loaded(sha256=sha), context=CONTEXT, rows=4, cache=path)

    requests = sequences()
    first = new()
    first.scorer = scored[1]
    want = first.loglikelihoods([*requests, requests[0]])
    assert len(path.read_text().splitlines()) == len(requests)
    path.write_bytes(path.read_bytes() + b'["half')
    again = new()
    again.scorer = Idle()
    assert again.loglikelihoods(requests) == want[:-1]
    assert want[-1] == want[0]
    other = new("another model")
    other.scorer = scored[1]
    assert other.loglikelihoods(requests[:1]) == want[:1]
    assert len(path.read_text().splitlines()) == len(requests) + 1
    assert all(len(json.loads(line)) == 2 for line in path.read_text().splitlines())


def test_a_sequence_longer_than_the_context_loses_its_beginning(scored):
    answerer = Answerer(loaded(), context=CONTEXT, rows=4)
    answerer.scorer = scored[1]
    ids = sequences(1, seed=5)[0][0] * 40
    long, short = answerer.loglikelihoods([(ids, len(ids) - 3), (ids[-CONTEXT:], CONTEXT - 3)])
    assert long == short
