"""Preference data, the pair loss, and a reward model that learns a planted preference."""

import dataclasses
import json
import math
import random
import shutil
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax.align import reward, reward_data
from tigerjax.errors import ConfigError, DataError, GateFailed
from tigerjax.model import llama
from tigerjax.model.reward import Reward, from_llama
from tigerjax.train.checkpoint import Model, load_model, save_model

sys.path.insert(0, str(Path(__file__).parent))
import world

CLOSED_FORM_TOLERANCE = 1e-6  # float32 sums of some ten terms of order 1
PADDING_TOLERANCE = 1e-4  # float32: matmuls of other shapes add in another order
TOKENIZER = world.Letters()
USER = [{"role": "user", "content": "hi"}]


def born(model, seed):
    return jax.jit(lambda key: nn.unbox(llama.init(model, key)))(jax.random.key(seed))


def write(tmp_path, records):
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return [file]


def ranked(prompt, texts, ranking, **more):
    responses = [{"id": f"r{i}", "text": t} for i, t in enumerate(texts)]
    messages = [{"role": "user", "content": prompt}]
    return {"prompt_id": prompt, "messages": messages, "responses": responses, "ranking": ranking} | more


def test_one_ranking_of_ten_is_45_pairs_of_total_weight_one(tmp_path):
    texts = [f"answer {'abcdefghij'[i]}" for i in range(10)]
    (one,), counts = reward_data.read(write(tmp_path, [ranked("q", texts, [[f"r{i}"] for i in range(10)])]))
    assert len(one.pairs) == 45 == counts["in"] == counts["out"]
    assert sum(p.weight for p in one.pairs) == pytest.approx(1.0)
    rows = reward_data.to_rows([one], TOKENIZER, seq_len=32)
    assert np.count_nonzero(rows.pairs_BCC) == 45 and rows.pairs_BCC.sum() == pytest.approx(1.0)


def test_ties_and_identical_texts_are_dropped_and_counted(tmp_path):
    records = [
        ranked("q", ["a", "b", "c", "a"], [["r0"], ["r1", "r2"], ["r3"]]),
        ranked("unlisted", ["a", "b", "c"], [["r1"]]),
        {"messages": [{"role": "user", "content": "pair"}], "chosen": "x", "rejected": "y", "margin": 0.5},
        {"messages": [{"role": "user", "content": "same"}], "chosen": "x", "rejected": "x"},
    ]
    got, counts = reward_data.read(write(tmp_path, records))
    assert counts["dropped"] == {"tie": 2, "identical": 2} and counts["out"] == 4 + 2 + 1
    assert counts["in"] == counts["out"] + 4
    assert counts["prompts"] == 3 and counts["prompts_without_pairs"] == 1
    assert all(sum(p.weight for p in c.pairs) == pytest.approx(1.0) for c in got)
    assert got[2].pairs == (reward_data.Pair(0, 1, 1.0, 0.5),)


def test_pairs_of_one_prompt_in_several_records_stay_together_and_weigh_one(tmp_path):
    pair = {"messages": USER, "chosen": "a", "rejected": "b"}
    records = [pair, pair | {"rejected": "c", "strength": 2, "margin": 1.0}]
    (one,), _ = reward_data.read(write(tmp_path, records))
    assert one.pairs == (reward_data.Pair(0, 1, 1 / 3, 0.0), reward_data.Pair(0, 2, 2 / 3, 1.0))


@pytest.mark.parametrize(
    "bad",
    [
        ranked("q", ["a", "b"], [["r0"], ["r7"]]),
        ranked("q", ["a", "b"], [["r0"], ["r0"]]),
        ranked("q", ["a", "b"], [["r0"], []]),
        ranked("q", ["a", "b"], "r0"),
        ranked("q", ["a", "b"], [["r0"]], messages=[{"role": "assistant", "content": "x"}]),
        ranked("q", ["a", "b"], [["r0"]], responses=[{"id": "r0"}]),
        ranked("q", ["a", "b"], [["r0"]], responses=[{"id": "r0", "text": "x", "finish": "maybe"}]),
        ranked("first", ["a", "b"], [["r0"]], messages=[{"role": "user", "content": "another"}]),
        {"messages": USER, "chosen": "x"},
        {"messages": USER, "chosen": "x", "rejected": "y", "margin": -1},
    ],
)
def test_a_broken_preference_is_refused_with_file_and_line(tmp_path, bad):
    with pytest.raises(DataError, match=r"preferences\.jsonl:2: "):
        reward_data.read(write(tmp_path, [ranked("first", ["a", "b"], [["r0"]]), bad]))


def test_the_split_is_by_prompt_and_keeps_its_sides_when_prompts_are_added(tmp_path):
    records = [ranked(f"q {a}{b}", ["a", "b"], [["r0"]]) for a in "abcdefgh" for b in "abcdefghij"]
    all_prompts, _ = reward_data.read(write(tmp_path, records))
    train, test = reward_data.split(all_prompts, eval_fraction=0.25, seed=0)
    assert len(train) + len(test) == 80 and 10 <= len(test) <= 30
    small_train, small_test = reward_data.split(all_prompts[:40], eval_fraction=0.25, seed=0)
    assert {c.prompt_id for c in small_test} <= {c.prompt_id for c in test}
    assert {c.prompt_id for c in small_train} <= {c.prompt_id for c in train}
    with pytest.raises(ConfigError, match="eval_fraction"):
        reward_data.split(all_prompts[:1], eval_fraction=0.5, seed=0)


def test_rows_are_as_long_as_the_longest_chat(tmp_path):
    records = [ranked("q", ["a", "b"], [["r0"]]), ranked("q q q q q q q", ["a a a", "b"], [["r0"]])]
    comparisons = reward_data.read(write(tmp_path, records))[0]
    rows = reward_data.to_rows(comparisons, TOKENIZER, seq_len=99)
    longest = int(rows.last_BC.max()) + 1
    assert rows.tokens_BCT.shape[2] == -(-longest // 16) * 16 < 99
    assert reward_data.to_rows(comparisons, TOKENIZER, seq_len=longest).tokens_BCT.shape[2] == longest


def test_an_epoch_holds_every_prompt_once_and_resumes_in_place(tmp_path):
    records = [ranked(f"q {c}", ["a", "b"], [["r0"]]) for c in "abcdefghij"]
    rows = reward_data.to_rows(reward_data.read(write(tmp_path, records))[0], TOKENIZER, seq_len=16)

    def make():
        return reward_data.PairLoader(rows, batch_rows=4, seed=1, tokenizer_sha256="x")

    loader = make()
    assert loader.steps_per_epoch == 3
    batches = [next(loader) for _ in range(6)]
    for epoch in (batches[:3], batches[3:]):
        seen = [tuple(row[0]) for b in epoch for row, last in zip(b.tokens_BCT, b.last_BC, strict=True) if last[0] >= 0]
        assert len(seen) == 10 == len(set(seen))
        assert sum(b.pairs_BCC.sum() for b in epoch) == pytest.approx(10.0)
    other = make()
    [next(other) for _ in range(2)]
    resumed = make()
    resumed.restore(json.loads(json.dumps(other.state())))
    assert all((a == b).all() for a, b in zip(next(resumed), batches[2], strict=True))
    with pytest.raises(ConfigError, match="batch_rows"):
        reward_data.PairLoader(rows, batch_rows=2, seed=1, tokenizer_sha256="x").restore(other.state())


def test_long_chats_lose_their_oldest_turns_and_never_the_answer():
    turns = [
        {"role": "user", "content": "aaaa"},
        {"role": "assistant", "content": "bbbb"},
        {"role": "user", "content": "cccc"},
    ]
    whole = reward_data.encode_answer(TOKENIZER, turns, "dddd", "stop", seq_len=99, where="x")
    short = reward_data.encode_answer(TOKENIZER, turns, "dddd", "stop", seq_len=len(whole) - 1, where="x")
    assert short == reward_data.encode_answer(TOKENIZER, turns[2:], "dddd", "stop", seq_len=99, where="x")
    with pytest.raises(DataError, match="seq_len"):
        reward_data.encode_answer(TOKENIZER, turns, "dddd", "stop", seq_len=10, where="x")


def test_an_answer_without_eos_is_refused_unless_it_was_truncated():
    ids = reward_data.encode_answer(TOKENIZER, USER, "ok", "length", seq_len=99, where="x")
    assert ids[-1] != TOKENIZER.eos
    reward_data.check_end(TOKENIZER, ids, "length", "x")
    with pytest.raises(DataError, match="eos"):
        reward_data.check_end(TOKENIZER, ids, "stop", "x")


def test_gradient_of_the_pair_loss_equals_the_closed_form():
    rng = np.random.default_rng(0)
    B, C, c = 3, 4, 0.07
    scores, margins = rng.normal(size=(B, C)).astype(np.float32), rng.random((B, C, C)).astype(np.float32)
    pairs = np.triu(rng.random((B, C, C)), 1).astype(np.float32)
    pairs /= pairs.sum((1, 2), keepdims=True)
    batch = reward_data.RewardBatch(np.zeros((B, C, 5), np.int32), np.full((B, C), 4, np.int32), pairs, margins)
    (total, (weight, _)), got = jax.value_and_grad(
        lambda s: (lambda t, w, a: (t, (w, a)))(*reward.pair_loss(s, batch, centering=c)), has_aux=True
    )(scores)
    want, loss = np.zeros((B, C)), 0.0
    for b in range(B):
        for w in range(C):
            for lo in range(C):
                gap = float(scores[b, w]) - float(scores[b, lo]) - float(margins[b, w, lo])
                total_score = float(scores[b, w]) + float(scores[b, lo])
                n = float(pairs[b, w, lo])
                loss += n * (math.log1p(math.exp(-gap)) + c * total_score**2)
                slope = -1 / (1 + math.exp(gap))  # d(-log sigmoid(x))/dx = -sigmoid(-x)
                want[b, w] += n * (slope + 2 * c * total_score)
                want[b, lo] += n * (-slope + 2 * c * total_score)
    assert np.abs(np.asarray(got) - want).max() < CLOSED_FORM_TOLERANCE
    assert float(total) == pytest.approx(loss, rel=CLOSED_FORM_TOLERANCE)
    assert float(weight) == pytest.approx(B, rel=CLOSED_FORM_TOLERANCE)


def test_rows_and_places_of_padding_change_neither_loss_nor_gradient():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(2, 3)).astype(np.float32)
    pairs = np.zeros((2, 3, 3), np.float32)
    pairs[0, 0, 1] = 1.0  # place 2 of row 0 and all of row 1 are padding
    last = np.array([[3, 3, -1], [-1, -1, -1]], np.int32)
    batch = reward_data.RewardBatch(np.zeros((2, 3, 5), np.int32), last, pairs, np.zeros_like(pairs))

    def loss(s):
        return reward.pair_loss(s, batch, centering=0.1)[0]

    spoiled = scores.copy()
    spoiled[0, 2], spoiled[1] = np.inf, np.nan
    assert float(loss(scores)) == float(loss(spoiled))
    assert (np.asarray(jax.grad(loss)(spoiled)) == np.asarray(jax.grad(loss)(scores))).all()


@pytest.fixture(scope="module")
def scorer():
    weights = born(Reward(world.MODEL, world.COMPUTE), 0)
    extra = {"calibration": {"mean": 0.25, "std": 2.0, "n": 9}, "truncation_penalty": 1.5}
    model = Model(world.MODEL, weights, "reward", TOKENIZER.sha256, 0, "", extra)
    return reward.Scorer(model, TOKENIZER, compute=world.COMPUTE, seq_len=64, rows=4)


def items(n):
    rng = random.Random(0)
    return [(USER, "".join(rng.choices("abc", k=rng.randrange(1, 40))), "stop") for _ in range(n)]


def test_scores_do_not_depend_on_batch_or_order(scorer):
    many = items(23)
    scores = scorer(many)
    order = list(range(23))
    random.Random(1).shuffle(order)
    assert [scores[i] for i in order] == scorer([many[i] for i in order])
    assert scores == [scorer([item])[0] for item in many]


def test_padding_left_or_right_and_packing_change_scores_less_than_the_tolerance(scorer):
    model, weights = Reward(world.MODEL, world.COMPUTE), scorer._weights
    apply = jax.jit(lambda *arrays: model.apply({"params": weights}, *arrays))
    ids = [reward_data.encode_answer(TOKENIZER, *item, seq_len=64, where="x") for item in items(3)]
    want = scorer.raw_ids(ids)
    length = sum(map(len, ids))
    packed, where, segment = (np.zeros((1, length), np.int32) for _ in range(3))
    at = 0
    ends = []
    for n, one in enumerate(ids):
        packed[0, at : at + len(one)], segment[0, at : at + len(one)] = one, n + 1
        where[0, at : at + len(one)] = range(len(one))
        at += len(one)
        ends.append(at - 1)
    got = np.asarray(apply(packed, where, segment))[0, ends]
    assert np.abs(got - want).max() < PADDING_TOLERANCE
    left = np.zeros((1, 64), np.int32)
    left[0, -len(ids[0]) :] = ids[0]
    real = np.arange(64)[None] >= 64 - len(ids[0])
    places = np.where(real, np.arange(64)[None] - (64 - len(ids[0])), 0)
    got = apply(left, jnp.int32(places), jnp.int32(real))[0, -1]
    assert abs(float(got) - want[0]) < PADDING_TOLERANCE


def test_calibrated_scores_are_standard_deviations_and_truncation_costs(scorer):
    whole, cut = (USER, "abc", "stop"), (USER, "abc", "length")
    raw = scorer.raw([whole, cut])
    assert scorer([whole, cut]) == pytest.approx([(raw[0] - 0.25) / 2, (raw[1] - 0.25) / 2 - 1.5])


def test_a_chat_model_or_another_tokenizer_gives_no_scores():
    with pytest.raises(ConfigError, match="kind 'llama'"):
        reward.Scorer(
            Model(world.MODEL, {}, "llama", None, 0, "", {}), TOKENIZER, compute=world.COMPUTE, seq_len=8, rows=1
        )
    with pytest.raises(ConfigError, match="do not belong together"):
        reward.Scorer(
            Model(world.MODEL, {}, "reward", "other", 0, "", {}), TOKENIZER, compute=world.COMPUTE, seq_len=8, rows=1
        )


def planted(n, seed=0, flip=0.0):
    """Answers of letters; the one with more 'a' is better, and nothing else matters."""
    rng = random.Random(seed)
    out = []
    for i in range(n):
        counts = rng.sample(range(7), 3)
        texts = []
        for k in counts:
            letters = list("a" * k + "".join(rng.choices("bcd", k=6 - k)))
            rng.shuffle(letters)
            texts.append("".join(letters))
        better = sorted(range(3), key=lambda j: -counts[j])
        if rng.random() < flip:
            rng.shuffle(better)
        prompt = "".join(rng.choices("xyz", k=6)) + "".join(rng.choices("uvw", k=3))
        out.append(ranked(f"{prompt}", texts, [[f"r{j}"] for j in better], task=("one", "two")[i % 2], lang="en"))
    unique = {r["prompt_id"]: r for r in out}
    return list(unique.values())


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat") / "model"
    weights = born(llama.Llama(world.MODEL, world.COMPUTE), 1)
    save_model(path, weights, world.MODEL, tokenizer_sha256=TOKENIZER.sha256)
    return path


REFERENCE = [
    {"messages": [*USER, {"role": "assistant", "content": text}]} for text in ("aab", "bcd", "aaaa", "dcb", "abca")
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chat):
    """(arguments, run folder, report) of one training run on the planted preference, with checkpoints at 20 and 40."""
    folder = tmp_path_factory.mktemp("trained")
    shared = {"preferences": write(folder, planted(400)), "reference": REFERENCE, "tokenizer": TOKENIZER, "init": chat}
    config = world.run_config(steps=40, every=20)
    return (config, shared), folder / "run", reward.train(config, world.REWARD, run_dir=folder / "run", **shared)


def test_a_planted_preference_is_learned_on_held_out_prompts_and_calibrated(trained):
    got = trained[2]
    assert got.figures["accuracy"] >= 0.95
    assert set(got.figures["by_task"]) == {"one", "two"} and set(got.figures["by_lang"]) == {"en"}
    scorer = reward.load_scorer(got.path, TOKENIZER, compute=world.COMPUTE, seq_len=24, rows=8)
    on_reference = scorer([(e["messages"][:-1], e["messages"][-1]["content"], "stop") for e in REFERENCE])
    assert np.mean(on_reference) == pytest.approx(0, abs=1e-5) and np.std(on_reference) == pytest.approx(1, abs=1e-5)
    assert scorer([(USER, "aaaaaa", "stop")]) > scorer([(USER, "bbbbbb", "stop")])
    assert load_model(got.path).extra["figures"]["accuracy"] == got.figures["accuracy"]


def test_reward_training_cut_off_and_resumed_ends_in_the_same_weights(tmp_path, trained):
    (config, shared), folder, whole = trained
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "40")
    shutil.rmtree(tmp_path / "run" / reward.MODEL_FOLDER)
    resumed = reward.train(config, world.REWARD, run_dir=tmp_path / "run", **shared)
    assert load_model(resumed.path).sha256 == load_model(whole.path).sha256


def test_a_model_below_the_accuracy_limit_is_refused_and_can_be_forced(tmp_path, trained):
    (config, shared), folder, _ = trained
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / reward.MODEL_FOLDER)
    strict = dataclasses.replace(world.REWARD, min_accuracy=1.1)
    with pytest.raises(GateFailed, match="not usable for ranking"):
        reward.train(config, strict, run_dir=tmp_path / "run", **shared)
    assert not (tmp_path / "run" / reward.MODEL_FOLDER).exists()
    assert reward.train(config, strict, run_dir=tmp_path / "run", force=True, **shared).path.is_dir()


def test_nan_scores_and_constant_references_are_refused(scorer):
    assert "NaN" in reward.unusable({"not_finite": 1, "accuracy": 0.9}, min_accuracy=0.55)
    assert "0.540" in reward.unusable({"not_finite": 0, "accuracy": 0.54}, min_accuracy=0.55)
    assert "below" in reward.unusable({"not_finite": 0, "accuracy": float("nan")}, min_accuracy=0.55)
    assert reward.unusable({"not_finite": 0, "accuracy": 0.55}, min_accuracy=0.55) is None
    with pytest.raises(GateFailed, match="cannot calibrate"):
        reward.calibrate(scorer, REFERENCE[:1] * 3)


def test_a_score_that_follows_length_is_warned_of(tmp_path, capsys):
    class ByLength:
        def raw(self, items):
            return np.array([float(len(text)) for _, text, _ in items])

    longer = [ranked("q", ["a", "ab", "abc"], [["r2"], ["r1"], ["r0"]])]
    comparisons, _ = reward_data.read(write(tmp_path, longer))
    figures = reward.evaluate(ByLength(), comparisons, TOKENIZER, max_length_rho=0.5)
    assert figures["accuracy"] == 1.0 and figures["length_rho"] == pytest.approx(1.0)
    assert "correlate by +1.00" in capsys.readouterr().err


def test_reward_weights_start_from_the_chat_model_without_its_head(chat):
    weights = from_llama(load_model(chat).weights, jax.random.key(0))
    assert "head" not in weights and weights["score"].shape == (world.MODEL.model_dim,)
