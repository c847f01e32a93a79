"""Adapters trained on preferences and in a reward model: the base is the reference, and what is written is whole."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
import test_preference
import test_reward
import world
from test_preference import DpoConfig, config_of, metrics
from tiny_project import ROOT, align, config_words

from tigerjax.align import inputs, reference, reward, reward_data
from tigerjax.checkpoint.arrays import open_arrays
from tigerjax.checkpoint.files import read_meta
from tigerjax.checkpoint.model import load_model
from tigerjax.checkpoint.partial import base_of
from tigerjax.checkpoint.stored import open_whole
from tigerjax.command import convert
from tigerjax.config import LoraConfig, WeightsConfig
from tigerjax.errors import ConfigError
from tigerjax.model import adapters
from tigerjax.model.weights import get, paths

LORA = LoraConfig(rank=2, alpha=8.0)
chat = test_preference.chat  # a fixture


def test_a_preference_is_learned_by_adapters_and_their_base_is_the_reference(chat, tmp_path, monkeypatch):
    """The losses are the same with the reference cached and computed in the step, by the run's own frozen weights."""
    monkeypatch.setattr(reference, "before_each_step", None)  # no second model is loaded
    losses = []
    for when in ("cached", "each_step"):
        (tmp_path / when).mkdir()
        config = config_of(tmp_path / when, chat, DpoConfig, steps=4, every=4, beta=0.3, reference=when)
        test_preference.trained(dataclasses.replace(config, lora=LORA), tmp_path / when)
        losses.append([m["loss_nats"] for m in metrics(tmp_path / when)])
    np.testing.assert_allclose(*losses, atol=1e-4)  # float32; Adam magnifies last bits
    assert losses[0][0] != losses[0][-1]
    own = open_arrays(tmp_path / "cached/run/checkpoints/4")
    assert set(paths(own)) == set(adapters.paths(LORA))


def test_a_reward_model_trains_its_score_beside_adapters_and_resumes_to_the_same_bits(chat, tmp_path):
    from test_reward import REFERENCE, TOKENIZER, planted

    data = reward_data.RewardData(test_reward.write(tmp_path, planted(40)), REFERENCE)
    config = world.run_config(steps=4, every=2)
    config = dataclasses.replace(config, lora=LORA, weights=WeightsConfig(frozen_dtype="bfloat16"))
    shared = {"data": data, "tokenizer": TOKENIZER, "init": chat, "force": True}
    whole = reward.train(config, world.REWARD, run_dir=tmp_path / "run", **shared)
    step = tmp_path / "run/checkpoints/4"
    assert set(paths(open_arrays(step))) == {*adapters.paths(LORA), "score"}
    made, base = load_model(whole.path), load_model(chat)
    assert made.kind == "reward" and "head" not in made.weights and "score" in made.weights
    np.testing.assert_array_equal(made.weights["embed"], base.weights["embed"])
    convert.to_hf(tmp_path / "run", tmp_path / "adapter", adapter=True, verify=True)
    convert.from_hf(tmp_path / "adapter", tmp_path / "merged", base=chat)
    read = load_model(tmp_path / "merged")
    assert read.kind == "reward" and set(paths(read.weights)) == set(paths(made.weights))
    for name in paths(made.weights):  # RUN/model has what was computed with: frozen weights in bfloat16
        np.testing.assert_allclose(get(read.weights, name), get(made.weights, name), rtol=2**-8, atol=1e-6)
    convert.to_hf(whole.path, tmp_path / "hf")
    for foreign, does in (("adapter", "DIR --base MODEL` merges it"), ("hf", "DIR` imports it")):
        with pytest.raises(ConfigError, match=f"`tigerjax convert from-hf {tmp_path / foreign} {does}, `tiger"):
            inputs.check_reward(str(tmp_path / foreign), TOKENIZER, None, ask_judge=False)
    assert np.abs(made.weights["layers"]["attn"]["q"] - base.weights["layers"]["attn"]["q"]).max() > 0
    shutil.rmtree(step)
    shutil.rmtree(whole.path)
    again = reward.train(config, world.REWARD, run_dir=tmp_path / "run", **shared)
    assert load_model(again.path).sha256 == made.sha256


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_round_trains_adapters_beside_the_model_that_the_round_before_ended_in(rounds, made, tmp_path):
    words = ["init", ROOT / "configs" / "quickstart_rejection_sampled.py", *config_words(made, 2, 8), "--lora.rank", 2]
    words += ["--sft", made / "sft.jsonl", "--models", made / "ends", "--reward", made / "reward"]
    words += ["--evaluation-set", made / "questions.jsonl", "--n", 4, "--max-new-tokens", 8, "--score-batch-size", 8]
    words += [
        "--align.allow-partial",
        "--align.no-beat-reference",
        "--align.min-win-rate",
        0,
        "--optim.peak-lr",
        1e-2,
        "--out",
        tmp_path / "two",
    ]
    align(*words)
    align("run", tmp_path / "two", "--rounds", rounds, "--json", tmp_path / "two.json")
    runs = [tmp_path / f"two/rounds/{number:02d}/train/run" for number in range(1, rounds + 1)]
    bases = []
    for run in runs:
        step = run / "checkpoints/2"
        lora = LoraConfig(rank=2)
        assert set(paths(open_arrays(step))) == set(adapters.paths(lora))
        bases.append(base_of(step, read_meta(step)))
    places = [made / "ends", *runs]  # the gate accepts each round
    assert bases == [open_whole(place).path for place in places[:-1]]
    downs = [load_model(place).weights["layers"]["mlp"]["down"] for place in places]
    assert all(np.abs(after - before).max() > 1e-5 for before, after in itertools.pairwise(downs))
    figures = json.loads((tmp_path / "two.json").read_text())["rounds"]
    assert [one["gate"] for one in figures] == ["accepted"] * rounds
