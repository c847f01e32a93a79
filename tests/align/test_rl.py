"""Training by rewards: roll-outs, a run that is cut off, what is learned, and what is refused."""

import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import rl_world
import world
from rl_world import TOKENIZER, config_of, metrics, trained

from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.config import GrpoConfig, PpoConfig
from tigerjax.model import decoder
from tigerjax.model.layers import init

STEPS = 8


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat") / "model"
    model = decoder.LanguageModel(world.MODEL, world.COMPUTE)
    weights = jax.jit(lambda key: nn.unbox(init(model, key)))(jax.random.key(1))
    save_model(path, weights, world.MODEL, tokenizer_sha256=TOKENIZER.sha256)
    return path


ARMS = {
    "grpo": (GrpoConfig, {"kl": 0.01, "min_spread": None}),
    "ppo": (PpoConfig, {"epochs": 2}),
}


@pytest.fixture(scope="module", params=ARMS)
def run(request, tmp_path_factory, chat):
    """(config, folder, counts), with checkpoints at every third step, so in the middle of roll-outs too."""
    folder = tmp_path_factory.mktemp(request.param)
    kind, settings = ARMS[request.param]
    config = config_of(folder, chat, kind, steps=STEPS, every=3, **settings)
    return config, folder, trained(config, folder)


def test_a_run_that_was_cut_off_draws_the_same_answers_and_ends_in_the_same_weights(run, tmp_path):
    config, folder, counts = run
    for left in (3, 6):
        shutil.copytree(folder, tmp_path / f"{left}")
        for step in (6, STEPS):
            if step > left:
                shutil.rmtree(tmp_path / f"{left}/run/checkpoints/{step}")
        assert trained(config, tmp_path / f"{left}") == counts
        again, whole = (load_model(place / "run") for place in (tmp_path / f"{left}", folder))
        assert again.sha256 == whole.sha256 and again.kind == "llama"
        rollouts = [sorted((place / "run/rollouts").glob("*.jsonl")) for place in (tmp_path / f"{left}", folder)]
        assert [p.read_bytes() for p in rollouts[0]] == [p.read_bytes() for p in rollouts[1]]
        same = ("loss_nats", "reward", "mismatch_max_nats", "ratio")
        pairs = zip(metrics(tmp_path / f"{left}"), metrics(folder), strict=True)
        assert all(a[name] == b[name] for a, b in pairs for name in same)


def test_each_step_logs_rewards_and_how_far_sampler_and_trainer_are_apart(run):
    config, folder, _ = run
    logged = metrics(folder)
    names = {"reward", "reward_std", "answer_tokens", "cut_share", "mismatch_mean_nats", "mismatch_max_nats"}
    names |= {"effective_share", "entropy_nats", "clip_share", "ratio", "moved_nats", "distinct_share"}
    assert all(names <= one.keys() for one in logged) and len(logged) == STEPS
    assert max(one["mismatch_max_nats"] for one in logged) < 1e-4  # float32 on both sides
    assert min(one["effective_share"] for one in logged) > 0.999
    per_rollout = config.objective.epochs * 2
    for first in logged[::per_rollout]:  # the weights that drew it
        assert first["ratio"] == pytest.approx(1, abs=1e-5) and first["moved_nats"] == pytest.approx(0, abs=1e-6)
    assert ("kl_nats" in logged[0]) == bool(config.objective.kl)
    assert ("value_loss" in logged[0]) == isinstance(config.objective, PpoConfig)


@pytest.mark.parametrize("kind", [GrpoConfig, PpoConfig])
def test_the_rewarded_letter_is_learned(kind, chat, tmp_path):
    trained(config_of(tmp_path, chat, kind, steps=40, every=40), tmp_path)
    rewards = [one["reward"] for one in metrics(tmp_path)]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.15, rewards
    arrays = list((tmp_path / "run/rollouts").glob("*.safetensors"))
    assert len(arrays) <= 3 and len(list((tmp_path / "run/rollouts").glob("*.jsonl"))) == 20
    assert rl_world.REWARD == "rl_world:likes_a"
