"""The sampler against whole forward passes, and its independence of batch, order, n and mesh."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy import stats

from tigerjax import mesh as mesh_axes
from tigerjax.config import FLOAT32, MeshConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.sample import engine, slots
from tigerjax.sample.engine import Batching, SamplingConfig, Stats, generate
from tigerjax.tokenizer.chat import encode_prompt

# Sums of up to 12 float32 log-probabilities, once by cached steps and once by whole passes: other summation orders.
LOGPROB_TOLERANCE = 1e-4
SMALLEST_P = 0.001  # with fixed seeds this is a fixed outcome; a wrong distribution gives p far below it
FULL = 0.9  # share of decode work that draws a token which is kept: the design's figure for ragged lengths
SAMPLED = SamplingConfig(n=4, max_new_tokens=12, seed=0)
BATCHING = Batching(prompts=2, rows=8)
GREEDY = SamplingConfig(n=1, temperature=0.0, max_new_tokens=12, seed=0)


def sample(tiny, prompts, sampling=SAMPLED, *, batching=BATCHING, mesh=None, stats=None, **changes) -> list[dict]:
    """`changes` are to `sampling`."""
    sampling = dataclasses.replace(sampling, **changes)
    return list(generate(tiny.loaded(mesh=mesh), prompts, sampling, batching=batching, stats=stats))


def drawn(records: list[dict]) -> dict[str, list[tuple]]:
    """What must not depend on the batch, bit for bit: everything but the log-probability."""
    return {
        r["prompt_id"]: [(c["cid"], c["text"], c["token_ids"], c["finish"]) for c in r["candidates"]] for r in records
    }


@pytest.fixture(scope="module")
def records(tiny, prompts) -> list[dict]:
    return sample(tiny, prompts)


def test_greedy_is_the_argmax_of_whole_forward_passes_token_by_token(tiny, prompts) -> None:
    for record in sample(tiny, prompts[:3], GREEDY):
        ids = encode_prompt(tiny.tokenizer, record["messages"])
        want: list[int] = []
        while len(want) < GREEDY.max_new_tokens:
            token = int(tiny.logits(ids + want)[-1].argmax())
            if token in (2, 259, 260, 261):
                break
            want.append(token)
        assert record["candidates"][0]["token_ids"] == want


def test_logprob_is_that_of_the_full_forward_log_softmax_with_the_stop_token(tiny, records) -> None:
    ended = 0
    for record in records:
        ids = encode_prompt(tiny.tokenizer, record["messages"])
        for c in record["candidates"]:
            if c["finish"] == "marker":  # the record does not say which of the three it was
                continue
            answer = c["token_ids"] + [2] * (c["finish"] == "stop")
            ended += c["finish"] == "stop"
            logprobs_TV = np.asarray(jax.nn.log_softmax(tiny.logits(ids + answer), axis=-1))
            want = sum(logprobs_TV[len(ids) - 1 + t, token] for t, token in enumerate(answer))
            assert abs(c["logprob"] - want) < LOGPROB_TOLERANCE
    assert ended >= 2  # both ways of ending were compared


def test_every_prompt_has_n_candidates_in_the_order_of_the_prompts_with_its_own_fields(records, prompts) -> None:
    assert [r["prompt_id"] for r in records] == [p["prompt_id"] for p in prompts]
    assert [r["task"] for r in records] == [p["task"] for p in prompts]
    assert all(len(r["candidates"]) == 4 for r in records)
    assert len({c["cid"] for r in records for c in r["candidates"]}) == 4 * len(prompts)
    assert records[0]["sampling"] | {"seed": 0, "round": 0, "chat": True} == records[0]["sampling"]
    assert records[0]["messages"] == [{"role": "user", "content": "aaaaa"}]
    for c in (c for r in records for c in r["candidates"]):
        assert c["ntok"] == len(c["token_ids"]) <= 12
        assert (c["ntok"] == 12) >= (c["finish"] == "length")
        assert all(0 <= i < 259 for i in c["token_ids"])  # no padding column, and the markers end an answer


def test_the_first_candidates_do_not_depend_on_n(tiny, prompts, records) -> None:
    want = drawn(records)
    for n in (1, 3, 11):  # 11 is more than the 8 rows of one decode
        for prompt_id, got in drawn(
            sample(tiny, prompts[4::2], SamplingConfig(n=n, max_new_tokens=12, seed=0))
        ).items():
            assert len(got) == n
            assert got[:4] == want[prompt_id][:n]


def test_samples_do_not_depend_on_order_or_neighbours(tiny, prompts, records) -> None:
    assert drawn(sample(tiny, prompts[::-1])) == drawn(records)
    for p in (prompts[1], prompts[4]):
        assert drawn(sample(tiny, [p]))[p["prompt_id"]] == drawn(records)[p["prompt_id"]]


def test_samples_do_not_depend_on_the_mesh(tiny, prompts, records) -> None:
    mesh = mesh_axes.make_mesh(MeshConfig(data=2, fsdp=2, tensor=1), jax.devices()[:4])
    boxed = jax.eval_shape(lambda k: init(decoder.LanguageModel(tiny.config, FLOAT32), k), jax.random.key(0))
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, mesh_axes.logical_rules())
    placed = tiny._replace(weights=jax.device_put(tiny.weights, nn.unbox(shardings)))
    with pytest.raises(ConfigError, match="batching of 2 prompts"):
        sample(placed, prompts[:1], mesh=mesh)
    assert drawn(sample(placed, prompts[4::2], mesh=mesh, batching=Batching(prompts=4, rows=8))) == drawn(records[4::2])


def test_samples_do_not_depend_on_the_kernels_of_a_step(tiny, prompts, records) -> None:
    model = tiny.loaded()
    kernels = dataclasses.replace(model, compute=dataclasses.replace(model.compute, decode_kernels="interpret"))
    assert drawn([*generate(kernels, prompts[4::2], SAMPLED, batching=BATCHING)]) == drawn(records[4::2])


def test_kernels_for_tpus_are_refused_on_a_cpu(tiny, prompts) -> None:
    model = tiny.loaded(compute=dataclasses.replace(tiny.loaded().compute, decode_kernels="on"))
    with pytest.raises(ConfigError, match="decode_kernels=on is for TPUs, and this is a cpu; set it off"):
        list(generate(model, prompts[:1], SAMPLED, batching=BATCHING))


def test_seed_and_round_give_other_samples(tiny, prompts, records) -> None:
    for other in ({"seed": 1}, {"round": 1}):
        for prompt_id, got in drawn(sample(tiny, prompts[4::2], **other)).items():
            assert got != drawn(records)[prompt_id]


def test_top_p_is_not_ignored_by_the_engine(tiny, prompts) -> None:
    tight = sample(tiny, prompts[4::2], SamplingConfig(n=4, max_new_tokens=12, top_p=1e-6, seed=0))
    greedy = sample(tiny, prompts[4::2], GREEDY)
    for t, g in zip(tight, greedy, strict=True):
        assert {tuple(c["token_ids"]) for c in t["candidates"]} == {tuple(g["candidates"][0]["token_ids"])}


def test_frequencies_of_first_and_second_tokens_are_those_of_the_model(tiny) -> None:
    """Through prefill, slots and refills: the second token must be drawn given the first of its own candidate."""
    n, how = 4000, {"temperature": 3.0, "top_p": 0.7}
    prompt = {"prompt_id": "p", "text": "abc"}
    (record,) = sample(
        tiny, [prompt], SamplingConfig(n=n, max_new_tokens=2, **how, seed=0), batching=Batching(prompts=2, rows=512)
    )
    ids = encode_prompt(tiny.tokenizer, record["messages"])
    ends = {259, 260, 261, 2}

    def wanted(ids: list[int]) -> np.ndarray:
        """Probabilities by sorting; the four ids that end an answer are one outcome, the last."""
        logits_V = tiny.logits(ids)[-1].astype(np.float64)[:262]
        p_V = np.exp((logits_V - logits_V.max()) / how["temperature"])
        p_V /= p_V.sum()
        order = np.argsort(-p_V)
        p_V[order[np.searchsorted(np.cumsum(p_V[order]), how["top_p"]) + 1 :]] = 0
        p_V /= p_V.sum()
        end = sum(p_V[i] for i in ends)
        p_V[sorted(ends)] = 0
        return np.append(p_V, end)

    def check(seen: list[int], p_V: np.ndarray) -> None:
        counts = np.bincount(seen, minlength=len(p_V))
        assert not counts[p_V == 0].any() and (p_V > 0).sum() > 3
        assert stats.chisquare(counts[p_V > 0], p_V[p_V > 0] * len(seen)).pvalue > SMALLEST_P

    answers = [c["token_ids"] for c in record["candidates"]]
    check([a[0] if a else 262 for a in answers], wanted(ids))
    firsts = [a[0] for a in answers if a]
    common = max(set(firsts), key=firsts.count)
    seconds = [a[1] if len(a) > 1 else 262 for a in answers if a and a[0] == common]
    assert len(seconds) > 200
    check(seconds, wanted([*ids, common]))


def test_equal_texts_are_marked_and_a_prompt_with_one_text_is_degenerate(tiny, prompts, records) -> None:
    same = sample(tiny, prompts[:1], SamplingConfig(n=4, max_new_tokens=12, temperature=0.0, seed=0))[0]
    assert same["degenerate"] is True
    assert [c["dup_of"] for c in same["candidates"]] == [None] + [same["candidates"][0]["cid"]] * 3
    for r in records:
        texts = [c["text"] for c in r["candidates"]]
        assert r["degenerate"] == (len(set(texts)) == 1)
        assert [c["dup_of"] is not None for c in r["candidates"]] == [t in texts[:k] for k, t in enumerate(texts)]


def test_an_id_of_the_settings_ends_an_answer_as_eos_does(tiny, prompts, records) -> None:
    whole = records[0]["candidates"][0]["token_ids"]
    assert len(whole) > 3
    stop = SamplingConfig(n=4, max_new_tokens=12, stop_ids=(whole[3],), seed=0)
    cut = sample(tiny, prompts[:1], stop)[0]["candidates"][0]
    assert cut["token_ids"] == whole[: whole.index(whole[3])] and cut["finish"] == "stop"


def test_an_empty_answer_is_kept_and_flagged(tiny, prompts) -> None:
    head_DV = tiny.weights["head"]
    stops_at_0 = type("Stops", (type(tiny.tokenizer),), {"eos": 0, "ends": frozenset({0})})()
    at_once = tiny._replace(weights=tiny.weights | {"head": head_DV * 0.0}, tokenizer=stops_at_0)  # all tie: id 0
    c = sample(at_once, prompts[:1], GREEDY)[0]["candidates"][0]
    assert (c["text"], c["ntok"], c["finish"], c["empty"], c["token_ids"]) == ("", 0, "stop", True, [])


def test_prompts_that_do_not_fit_are_reported_and_nothing_is_lost(tiny, prompts) -> None:
    short = SamplingConfig(n=2, max_new_tokens=12, min_new_tokens=3, context=24, seed=0)
    records = sample(tiny, prompts, short)
    skipped = {r["prompt_id"]: r["skipped"] for r in records if "skipped" in r}
    assert set(skipped) == {"p1", "p3", "p5", "p6"}  # 62, 42, 35 and 22 tokens with markers; 22 leave room for 2
    assert "62 tokens" in skipped["p1"]
    assert sum(len(r["candidates"]) for r in records) == 2 * (len(prompts) - len(skipped))
    assert len(records) == len(prompts)


def test_an_answer_ends_where_the_context_does(tiny, prompts, records) -> None:
    cut = sample(tiny, prompts[4:5], SamplingConfig(n=4, max_new_tokens=12, context=8, seed=0))[0]  # 5 tokens of prompt
    for got, want in zip(cut["candidates"], records[4]["candidates"], strict=True):
        assert got["token_ids"] == want["token_ids"][:3]


def test_each_prompt_is_prefilled_once_however_many_candidates_it_gets(tiny, prompts, monkeypatch) -> None:
    seen: list[int] = []
    prefill = slots.prefill
    monkeypatch.setattr(slots, "prefill", lambda *a, **k: seen.append(1) or prefill(*a, **k))
    for n in (4, 11):
        stats = Stats()
        sample(tiny, prompts[4::2] + prompts[:1], SamplingConfig(n=n, max_new_tokens=12, seed=0), stats=stats)
        assert stats.prefilled == 3
    assert len(seen) == 2 + 2  # three prompts, two at a time


def test_compilations_are_bounded_by_the_buckets(tiny) -> None:
    many = [{"prompt_id": f"q{n}", "text": "x" * n} for n in range(1, 60)]
    stats, again = Stats(), Stats()
    sampling = SamplingConfig(n=2, max_new_tokens=2, top_k=9, seed=0)
    sample(tiny, many, sampling, stats=stats)
    sample(tiny, many, sampling, stats=again, seed=5)
    assert 0 < stats.compilations <= 6  # two buckets, each prefill, fill and advance
    assert again.compilations == 0
    assert {engine.bucket(n, 4096) for n in range(1, 4097)} == {32, 64, 128, 256, 512, 1024, 2048, 4096}
    assert engine.bucket(70, 100) == 100


def test_the_loop_stops_when_all_candidates_have_ended(tiny, prompts, records) -> None:
    stats = Stats()
    one = sample(tiny, prompts[:1], SamplingConfig(n=4, max_new_tokens=12, temperature=0.9, seed=0), stats=stats)[0]
    # The first token of each comes from the prefill.
    assert stats.decode_steps == max(c["ntok"] + (c["finish"] != "length") for c in one["candidates"]) - 1
    assert stats.drawn == sum(c["ntok"] + (c["finish"] != "length") - 1 for c in one["candidates"])


def test_slots_are_refilled_as_candidates_finish(tiny, prompts, records) -> None:
    """Ragged answers keep the slots full: many more prompts than slots, and few steps in which a slot is free."""
    stats = Stats()
    many = [{"prompt_id": f"q{n}", "text": "x" * (n % 25 + 1)} for n in range(40)]
    got = sample(tiny, many, SAMPLED, stats=stats)
    lengths = {c["ntok"] for r in got for c in r["candidates"]}
    assert len(lengths) > 4  # they are ragged
    assert stats.drawn / stats.decode_slots > FULL
    one_by_one = sum(max(c["ntok"] for c in r["candidates"]) for r in got) / 2  # 8 slots in lockstep: two prompts
    assert stats.decode_steps < one_by_one


def test_a_base_model_continues_a_line_and_stops_at_its_end(tiny, prompts) -> None:
    for r in sample(tiny, prompts[4::2], SAMPLED, chat=False):
        for c in r["candidates"]:
            assert "\n" not in c["text"] and 13 not in c["token_ids"]
    # With all logits equal the argmax is id 0: where that is the newline, the answer ends at once.
    newline = tiny._replace(weights=tiny.weights | {"head": tiny.weights["head"] * 0.0})
    zero = type("Newline", (type(tiny.tokenizer),), {"encode": lambda self, text: [0], "decode": lambda self, i: "\n"})
    c = sample(newline._replace(tokenizer=zero()), prompts[:1], GREEDY, chat=False)[0]["candidates"][0]
    assert (c["finish"], c["token_ids"]) == ("stop", [])


def test_bad_prompts_and_settings_are_refused_before_any_work(tiny, prompts) -> None:
    stats = Stats()
    for bad, message in [
        ([{"text": "a"}], "prompt 0 has prompt_id None"),
        ([prompts[0], prompts[1], prompts[0]], "prompt 2 repeats prompt_id 'p0'"),
        ([{"prompt_id": "a"}], r"\('a'\) needs messages that end with the user"),
        (
            [{"prompt_id": "a", "messages": [{"role": "assistant", "content": "x"}]}],
            r"\('a'\) needs messages that end with the user",
        ),
    ]:
        with pytest.raises(DataError, match=message):
            sample(tiny, bad, stats=stats)
    for fields in ({"n": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"temperature": -1.0}, {"min_new_tokens": 0}):
        with pytest.raises(ConfigError):
            SamplingConfig(**{"max_new_tokens": 4, "seed": 0} | fields)
    with pytest.raises(ConfigError, match="seed=-1"):
        sample(tiny, prompts, seed=-1)
    assert stats.prefilled == 0


def test_a_model_that_gives_nan_is_named_with_the_prompt(tiny, prompts) -> None:
    broken = tiny._replace(weights=tiny.weights | {"embed": tiny.weights["embed"] * np.nan})
    with pytest.raises(DataError, match="prompt 'p0', candidate 0"):
        sample(broken, prompts[:1])
