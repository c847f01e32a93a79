"""Adapters trained by rewards: their base is the reference, a run that is cut off, and what a checkpoint holds."""

import dataclasses
import shutil

import numpy as np
import pytest
import rl_world
import test_rl
from rl_world import config_of, metrics, trained

from tigerjax.checkpoint.arrays import open_arrays
from tigerjax.checkpoint.model import load_model
from tigerjax.config import GrpoConfig, LoraConfig, PpoConfig, WeightsConfig
from tigerjax.model import adapters
from tigerjax.model.weights import paths

LORA = LoraConfig(rank=2, alpha=8.0, targets=("q", "v", "down"))
chat = test_rl.chat  # a fixture
ARMS = {
    "ppo": (PpoConfig, LORA, WeightsConfig()),
    "grpo, int8": (GrpoConfig, LORA, WeightsConfig(frozen_dtype="int8")),
    "grpo, frozen": (GrpoConfig, LoraConfig(), WeightsConfig(frozen=("embed", "layers/mlp/*"))),
}


@pytest.mark.parametrize("arm", ["ppo", *(pytest.param(arm, marks=pytest.mark.slow) for arm in list(ARMS)[1:])])
def test_what_is_trained_alone_is_drawn_with_and_resumes_to_the_same_bits(arm, chat, tmp_path, capsys):
    kind, lora, weights = ARMS[arm]
    (tmp_path / "whole").mkdir()
    config = config_of(tmp_path / "whole", chat, kind, steps=4, every=3, kl=0.05)
    config = dataclasses.replace(config, lora=lora, weights=weights)
    trained(config, tmp_path / "whole")
    said = capsys.readouterr().err
    assert ("a copy with the adapters in it" in said) == bool(lora.rank) and rl_world.REWARD in said

    logged = metrics(tmp_path / "whole")
    exact = weights.frozen_dtype == "float32"  # else the sampler's base is rounded once more, to bfloat16
    assert max(one["mismatch_max_nats"] for one in logged) < (1e-4 if exact else 0.1)
    assert logged[0]["kl_nats"] == pytest.approx(0, abs=1e-6) and logged[-1]["kl_nats"] > 1e-6
    assert ("value_loss" in logged[0]) == (kind is PpoConfig)

    step = tmp_path / "whole/run/checkpoints/4"
    own = set(paths(open_arrays(step)))
    if lora.rank:
        assert own == {*adapters.paths(lora), *(["value"] if kind is PpoConfig else [])}
    made, base = load_model(step), load_model(chat)
    assert "value" not in made.weights
    np.testing.assert_array_equal(made.weights["embed"], base.weights["embed"])
    assert np.abs(made.weights["layers"]["attn"]["q"] - base.weights["layers"]["attn"]["q"]).max() > 0

    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/run/checkpoints/4")
    trained(config, tmp_path / "cut")
    assert load_model(tmp_path / "cut/run").sha256 == made.sha256
    assert [m["loss_nats"] for m in metrics(tmp_path / "cut")] == [m["loss_nats"] for m in logged]
