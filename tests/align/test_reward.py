"""The pair loss, scores, and a reward model that learns a planted preference."""

import dataclasses
import math
import random
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import world
from world import USER, ranked, write

from tigerjax.align import calibration, reward, reward_data, reward_loss
from tigerjax.align.answers import Answer
from tigerjax.align.prompts import draw, prompt_key
from tigerjax.checkpoint.loaded import Loaded, load
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.config import MeshConfig
from tigerjax.errors import ConfigError, DataError, GateFailed
from tigerjax.files import paths
from tigerjax.mesh import in_mesh, run_mesh
from tigerjax.model import decoder, families
from tigerjax.model.attention import fitting
from tigerjax.model.layers import init
from tigerjax.model.reward import RewardModel, from_language
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state
from tigerjax.train.step import jit_step

CLOSED_FORM_TOLERANCE = 1e-6  # float32 sums of some ten terms of order 1
PADDING_TOLERANCE = 1e-4  # float32: matmuls of other shapes add in another order
TOKENIZER = world.Letters()


def born(model, seed):
    return jax.jit(lambda key: nn.unbox(init(model, key)))(jax.random.key(seed))


def test_gradient_of_the_pair_loss_equals_the_closed_form():
    rng = np.random.default_rng(0)
    B, C, c = 3, 4, 0.07
    scores, margins = rng.normal(size=(B, C)).astype(np.float32), rng.random((B, C, C)).astype(np.float32)
    pairs = np.triu(rng.random((B, C, C)), 1).astype(np.float32)
    pairs /= pairs.sum((1, 2), keepdims=True)
    batch = reward_data.RewardBatch(np.zeros((B, C, 5), np.int32), np.full((B, C), 4, np.int32), pairs, margins)
    (total, (weight, _)), got = jax.value_and_grad(
        lambda s: (lambda t, w, a: (t, (w, a)))(*reward_loss.pair_loss(s, batch, centering=c)), has_aux=True
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
        return reward_loss.pair_loss(s, batch, centering=0.1)[0]

    spoiled = scores.copy()
    spoiled[0, 2], spoiled[1] = np.inf, np.nan
    assert float(loss(scores)) == float(loss(spoiled))
    assert (np.asarray(jax.grad(loss)(spoiled)) == np.asarray(jax.grad(loss)(scores))).all()


def test_a_batch_whose_rows_are_cut_or_whose_copies_compute_alone_has_the_loss_and_gradient_of_one_device():
    """Four shares, and chats that end in each of them."""
    config, rng = world.run_config(steps=9, batch_rows=4, seq_len=64), np.random.default_rng(2)
    last_BC = np.array([[63, 5], [20, 33], [47, 15], [16, -1]], np.int32)
    pairs = np.zeros((4, 2, 2), np.float32)
    pairs[:3, 0, 1] = 1.0
    tokens_BCT = rng.integers(3, 29, (4, 2, 64)).astype(np.int32)
    batch = reward_data.RewardBatch(tokens_BCT, last_BC, pairs, np.zeros_like(pairs))
    weights = born(families.of(config.model).reward_model(config.model, config.compute), 4)

    def computed(degrees):
        run = dataclasses.replace(config, mesh=degrees)
        objective = reward.reward_objective(run, centering=0.1)
        run = in_mesh(run_mesh(run), jax.jit(jax.value_and_grad(lambda w, b: objective.loss(w, b)[0])))
        return jax.device_get(run(weights, batch))

    one, other = computed(MeshConfig()), computed(MeshConfig(fsdp=2, sequence=4))
    assert one[0] > 1.0 and abs(one[0] - other[0]) < PADDING_TOLERANCE
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=PADDING_TOLERANCE), *(t[1] for t in (one, other)))

    def stepped(degrees):
        objective = reward.reward_objective(dataclasses.replace(config, mesh=degrees), centering=0.1)
        tx, mesh = make_optimizer(config.optim), run_mesh(dataclasses.replace(config, mesh=degrees))
        step = in_mesh(mesh, jit_step(objective, tx, config.optim, mesh))
        return jax.device_get(step(init_state(objective, tx, mesh, seed=4), batch)[1])

    metrics, wanted = stepped(MeshConfig(data=2, fsdp=2, sequence=2, data_once=True)), stepped(MeshConfig())
    for name in wanted:
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=PADDING_TOLERANCE, err_msg=name)


@pytest.mark.parametrize(("attention", "sequence", "multiple"), [("reference", 4, 64), ("splash", 2, 1024)])
def test_rows_of_training_have_a_length_that_devices_and_kernel_can_share(attention, sequence, multiple):
    config = world.run_config(steps=9, seq_len=4096)
    compute = dataclasses.replace(config.compute, attention=attention)
    cut = dataclasses.replace(config, compute=compute, mesh=MeshConfig(sequence=sequence))
    assert reward.row_multiple(cut) == multiple
    for length in range(multiple, 4097, multiple):
        assert length % (2 * sequence) == 0
        blocks = fitting(compute, length).splash.blocks() if attention == "splash" else {}
        assert all((length // sequence if "block_q" in name else length) % block == 0 for name, block in blocks.items())


@pytest.fixture(scope="module")
def scorer():
    weights = born(RewardModel(world.MODEL, world.COMPUTE), 0)
    extra = {"calibration": {"mean": 0.25, "std": 2.0, "n": 9}, "truncation_penalty": 1.5}
    model = Loaded(
        config=world.MODEL, weights=weights, tokenizer=TOKENIZER, compute=world.COMPUTE, sha256="", extra=extra
    )
    return reward.Scorer(model, seq_len=64, rows=4)


def items(n):
    rng = random.Random(0)
    return [Answer(USER, "".join(rng.choices("abc", k=rng.randrange(1, 40))), "stop") for _ in range(n)]


def test_scores_do_not_depend_on_batch_or_order(scorer):
    many = items(23)
    scores = scorer(many)
    order = list(range(23))
    random.Random(1).shuffle(order)
    assert [scores[i] for i in order] == scorer([many[i] for i in order])
    assert scores == [scorer([item])[0] for item in many]


def test_a_scorer_tells_how_many_answers_it_has_scored(scorer, monkeypatch):
    progress = []
    monkeypatch.setattr(scorer, "_progress", lambda what, unit: lambda done, total: progress.append((done, total)))
    scorer([Answer(USER, "abc", "stop")] * 10)
    assert progress == [(4, 10), (8, 10), (10, 10)]


def test_padding_left_or_right_and_packing_change_scores_less_than_the_tolerance(scorer):
    model, weights = RewardModel(world.MODEL, world.COMPUTE), scorer._weights
    apply = jax.jit(lambda *arrays: model.apply({"params": weights}, *arrays))
    ids = [reward_data.encode_answer(TOKENIZER, *item[:3], seq_len=64, where="x").ids for item in items(3)]
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
    whole, cut = Answer(USER, "abc", "stop"), Answer(USER, "abc", "length")
    raw = scorer.raw([whole, cut])
    assert scorer([whole, cut]) == pytest.approx([(raw[0] - 0.25) / 2, (raw[1] - 0.25) / 2 - 1.5])


def test_an_answer_whose_text_does_not_fit_is_scored_as_truncated_and_said(scorer, capsys):
    """The text of an answer can have more tokens than were drawn; one of them ended a whole round."""
    long = Answer(USER, "b" * 80, "stop")
    room = 64 - len(reward_data.encode_answer(TOKENIZER, USER, "", "length", seq_len=64, where="x").ids)
    assert scorer([long]) == scorer([Answer(USER, "b" * room, "length")])
    assert capsys.readouterr().err.count("1 of 1 answers do not fit seq_len=64") == 1
    fits = Answer(USER, "b" * (room - 1), "stop")
    assert scorer([fits]) != scorer([fits._replace(finish="length")]) and not capsys.readouterr().err
    with pytest.raises(DataError, match="seq_len is 64; raise it"):
        scorer([Answer([{"role": "user", "content": "q" * 90}], "b", "stop")])


def test_a_chat_model_gives_no_scores(chat):
    with pytest.raises(ConfigError, match="holds a language model; give a reward model"):
        load(chat, TOKENIZER, compute=world.COMPUTE, reward=True)


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
    weights = born(decoder.LanguageModel(world.MODEL, world.COMPUTE), 1)
    save_model(path, weights, world.MODEL, tokenizer_sha256=TOKENIZER.sha256)
    return path


REFERENCE = [
    {"messages": [*USER, {"role": "assistant", "content": text}]} for text in ("aab", "bcd", "aaaa", "dcb", "abca")
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chat):
    """(arguments, run folder, report) of one training run on the planted preference, with checkpoints at 20 and 40."""
    folder = tmp_path_factory.mktemp("trained")
    data = reward_data.RewardData(write(folder, planted(400)), REFERENCE)
    shared = {"data": data, "tokenizer": TOKENIZER, "init": chat}
    config = world.run_config(steps=40, every=20)
    return (config, shared), folder / "run", reward.train(config, world.REWARD, run_dir=folder / "run", **shared)


def test_a_planted_preference_is_learned_on_held_out_prompts_and_calibrated(trained):
    got = trained[2]
    assert got.figures["accuracy"] >= 0.95
    assert set(got.figures["by_task"]) == {"one", "two"} and set(got.figures["by_lang"]) == {"en"}
    scorer = reward.Scorer(load(got.path, TOKENIZER, compute=world.COMPUTE, reward=True), seq_len=24, rows=8)
    on_reference = scorer([Answer(e["messages"][:-1], e["messages"][-1]["content"], "stop") for e in REFERENCE])
    assert np.mean(on_reference) == pytest.approx(0, abs=1e-5) and np.std(on_reference) == pytest.approx(1, abs=1e-5)
    assert scorer([Answer(USER, "aaaaaa", "stop")]) > scorer([Answer(USER, "bbbbbb", "stop")])
    assert load_model(got.path).extra["figures"]["accuracy"] == got.figures["accuracy"]


def test_reward_training_cut_off_and_resumed_ends_in_the_same_weights(tmp_path, trained):
    (config, shared), folder, whole = trained
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "40")
    shutil.rmtree(tmp_path / "run" / calibration.MODEL_FOLDER)
    resumed = reward.train(config, world.REWARD, run_dir=tmp_path / "run", **shared)
    assert load_model(resumed.path).sha256 == load_model(whole.path).sha256


def test_reward_training_goes_on_in_a_bucket_and_ends_in_the_same_weights(trained, chat, cloud):
    (config, shared), folder, whole = trained
    store = paths.of("gs://bucket/reward")
    paths.upload(folder / "checkpoints" / "20", store / "run" / "checkpoints" / "20")
    paths.upload(chat, store / "chat")
    (preferences,) = shared["data"].preferences
    (store / "pairs.jsonl").write_bytes(preferences.read_bytes())
    data = shared["data"]._replace(preferences=[store / "pairs.jsonl"])
    given = shared | {"data": data, "init": store / "chat"}
    resumed = reward.train(config, world.REWARD, run_dir="gs://bucket/reward/run", **given)
    assert str(resumed.path) == "gs://bucket/reward/run/model" and resumed.figures == whole.figures
    assert load_model(resumed.path).sha256 == load_model(whole.path).sha256


def test_a_model_below_the_accuracy_limit_is_refused_and_can_be_forced(tmp_path, trained):
    (config, shared), folder, whole = trained
    others = [r for r in planted(40, seed=1) if draw(config.seed, "reward eval", prompt_key(r["messages"])) < 0.25]
    contrary = write(tmp_path, [r | {"ranking": r["ranking"][::-1]} for r in others])  # held-out prompts alone
    shared = shared | {"data": shared["data"]._replace(preferences=[*shared["data"].preferences, *contrary])}
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / calibration.MODEL_FOLDER)
    strict = dataclasses.replace(world.REWARD, min_accuracy=1.0)
    counted = (
        r"held-out pair accuracy 0\.\d+ on \d+ pairs of \d+ prompts, trained on \d+ pairs of \d+ prompts, is below"
    )
    advice = r" 1\.0; give more or clearer pairs, lower --reward\.min-accuracy, or keep it as it is with --force"
    shown = []
    with pytest.raises(GateFailed, match=f"not usable for ranking: {counted}{advice}"):
        reward.train(
            config, strict, run_dir=tmp_path / "run", **shared, progress=lambda *w: lambda *n: shown.append((w, n))
        )
    assert shown[-1][0] == ("scored", "answers") and shown[-1][1][0] == shown[-1][1][1] > 0
    assert not (tmp_path / "run" / calibration.MODEL_FOLDER).exists()
    forced = reward.train(config, strict, run_dir=tmp_path / "run", force=True, **shared)
    assert forced.path.is_dir() and forced.figures["accuracy"] < 1.0
    assert forced.figures["eval_prompts"] == whole.figures["eval_prompts"] + len(others)


def test_nan_scores_and_constant_references_are_refused(scorer):
    assert "NaN" in reward.unusable({"not_finite": 1, "accuracy": 0.9}, min_accuracy=0.55)
    counts = {"held_out_pairs": 31, "eval_prompts": 12, "train_prompts": 99, "pairs": {"out": 231}}
    told = reward.unusable({"not_finite": 0, "accuracy": 0.4} | counts, min_accuracy=0.55)
    assert "0.400 on 31 pairs of 12 prompts, trained on 200 pairs of 99 prompts, is below 0.55" in told
    assert told.endswith("or keep it as it is with --force")
    assert "0.540" in reward.unusable({"not_finite": 0, "accuracy": 0.54}, min_accuracy=0.55)
    assert "below" in reward.unusable({"not_finite": 0, "accuracy": float("nan")}, min_accuracy=0.55)
    assert reward.unusable({"not_finite": 0, "accuracy": 0.55}, min_accuracy=0.55) is None
    with pytest.raises(GateFailed, match="cannot calibrate"):
        reward.calibrate(scorer, REFERENCE[:1] * 3)


def test_a_score_that_follows_length_is_warned_of(tmp_path, capsys):
    class ByLength:
        def raw(self, items):
            return np.array([float(len(text)) for _, text, *_ in items])

    longer = [ranked("q", ["a", "ab", "abc"], [["r2"], ["r1"], ["r0"]])]
    comparisons, _ = reward_data.read(write(tmp_path, longer))
    figures = reward.evaluate(ByLength(), comparisons, TOKENIZER, max_length_rho=0.5)
    assert figures["accuracy"] == 1.0 and figures["length_rho"] == pytest.approx(1.0)
    assert "correlate by +1.00" in capsys.readouterr().err


def test_reward_weights_start_from_the_chat_model_without_its_head(chat):
    weights = from_language(load_model(chat).weights, jax.random.key(0))
    assert "head" not in weights and weights["score"].shape == (world.MODEL.model_dim,)
