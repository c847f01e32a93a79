"""Training by rewards: roll-outs, a run that is cut off, what is learned, and what is refused."""

import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import rl_world
import world
from rl_world import TOKENIZER, config_of, metrics, read, trained

from tigerjax.align.rl import prompts
from tigerjax.align.rl import run as room
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.checkpoint.stored import open_whole, placed_weights
from tigerjax.config import GrpoConfig, MeshConfig, ObjectiveConfig, PpoConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.mesh import run_mesh
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.sample import paging
from tigerjax.sample.in_training import in_training
from tigerjax.train.objective import refuse_rewards

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
        assert again.sha256 == whole.sha256 and again.kind == "llama" and "value" not in whole.weights
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
    trained(config_of(tmp_path, chat, kind, steps=24, every=24), tmp_path)
    rewards = [one["reward"] for one in metrics(tmp_path)]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.08, rewards
    arrays = list((tmp_path / "run/rollouts").glob("*.safetensors"))
    assert len(arrays) <= 3 and len(list((tmp_path / "run/rollouts").glob("*.jsonl"))) == 12
    assert rl_world.REWARD == "rl_world:likes_a"


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshConfig(data=2, fsdp=4), MeshConfig(fsdp=4, sequence=2)], ids=["rows", "cut rows"])
def test_a_roll_out_on_a_mesh_is_that_of_one_device_and_the_sampler_reads_the_run_s_own_arrays(
    chat, tmp_path, capsys, mesh
):
    one = config_of(tmp_path, chat, PpoConfig, steps=4, every=4, kl=0.1)
    eight = dataclasses.replace(one, mesh=mesh)
    for name, config in (("one", one), ("eight", eight)):
        (tmp_path / name).mkdir()
        trained(config, tmp_path / name)
    said = capsys.readouterr().err
    assert "on one CPU the sampler reads a copy cut by layers" in said
    assert "4 of 8 prompts x 4 answers = 16 rows, 2 steps each (2 batches x 1 epochs)" in said
    assert "the sampler reads the run's own weights, without a copy" in said and "reward: 1 x rl_world:likes_a" in said
    texts = [
        [[a["text"] for a in record["answers"]] for record in read(tmp_path / name / "run/rollouts/000000.jsonl")]
        for name in ("one", "eight")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 4
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "eight"), strict=True):
        assert a["loss_nats"] == pytest.approx(b["loss_nats"], abs=1e-4) and a["tokens_per_s"] > 0
    mesh = run_mesh(eight)
    weights = placed_weights(open_whole(chat), mesh, "float32")
    theirs = in_training(eight, weights | {"value": None}, mesh, TOKENIZER).weights
    shards = [[s.data.unsafe_buffer_pointer() for s in w["embed"].addressable_shards] for w in (weights, theirs)]
    assert shards[0] == shards[1] and "value" not in theirs


def test_a_roll_out_from_a_small_cache_is_the_same_and_says_how_many_were_put_back(chat, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paging, "PAGE_SLOTS", 2)
    monkeypatch.setattr(paging, "STRETCH", 1)
    logs = {}
    for name, tokens in (("plain", None), ("pages", 12)):
        (tmp_path / name).mkdir()
        config = config_of(tmp_path / name, chat, steps=3, every=3)
        compute = dataclasses.replace(config.compute, cache_tokens=tokens)
        trained(dataclasses.replace(config, compute=compute), tmp_path / name)
        logs[name] = [[line[key] for key in ("reward", "answer_tokens")] for line in metrics(tmp_path / name)]
        said = capsys.readouterr().err
        assert ("roll-out 0: the cache had no room for" in said) == (tokens is not None)
    assert logs["plain"] == logs["pages"]


def test_several_rewards_are_added_with_their_weights_and_what_has_no_score_is_counted(chat, tmp_path):
    rewards = (rl_world.REWARD, "rl_world:not_of_p0")
    config = config_of(tmp_path, chat, steps=4, every=4, rewards=rewards, reward_weights=(2.0, 0.5), min_spread=None)
    trained(config, tmp_path)
    for one in metrics(tmp_path)[::2]:
        lines = [record for n in range(2) for record in read(tmp_path / f"run/rollouts/{n:06d}.jsonl")]
        assert one["unscored"] in (0, 4) and "reward_2" in one
    answers = [answer for line in lines for answer in line["answers"]]
    for line in lines:
        for answer in line["answers"]:
            first, second = answer["scores"]
            assert (second is None) == (line["prompt_id"] == "p0") == (answer["reward"] is None)
            assert second is None or answer["reward"] == pytest.approx(2 * first + 0.5 * second)
            assert (answer["advantage"] is None) == (second is None)
    assert any(answer["reward"] is None for answer in answers) and len(answers) == 32


def test_groups_whose_answers_are_alike_are_left_out_and_others_are_drawn_in_their_place(chat, tmp_path):
    config = config_of(tmp_path, chat, steps=4, every=4, rewards=("rl_world:only_even",), draws=2)
    trained(config, tmp_path)
    first = metrics(tmp_path)[0]
    lines = read(tmp_path / "run/rollouts/000000.jsonl")
    flat = [line["prompt_id"] for line in lines if len({a["reward"] for a in line["answers"]}) == 1]
    assert first["groups"] == len(lines) == 8 and first["alike_groups"] == len(flat) >= 4
    for line in lines:
        assert all((a["advantage"] is None) == (line["prompt_id"] in flat) for a in line["answers"])


def test_a_roll_out_whose_groups_are_all_alike_is_named(chat, tmp_path, capsys):
    trained(config_of(tmp_path, chat, steps=4, every=4, rewards=("rl_world:all_the_same",)), tmp_path)
    assert (
        "roll-out 0: the rewards tell no answer from the others to its prompt, in any of 4" in capsys.readouterr().err
    )
    assert all(one["alike_groups"] == 4 and one["loss_nats"] == 0 for one in metrics(tmp_path))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"rewards": ()}, ConfigError, r"objective\.rewards is empty; name at least one"),
        ({"rewards": ("nowhere:f",)}, ConfigError, r"nowhere cannot be imported: ModuleNotFoundError"),
        ({"rewards": ("rl_world:f",)}, ConfigError, r"rl_world has no function f; correct the name"),
        ({"rewards": ("rl_world:too_few",)}, DataError, r"too_few gave 1 scores for 16 answers; correct the function"),
        ({"rewards": ("rl_world:a_text",)}, DataError, r"gave 'good' as a score of .*; correct the function"),
        ({"rewards": ("rl_world:number_as_text",)}, DataError, r"gave '0\.5' as a score of .*; correct the function"),
        (
            {"rewards": ("rl_world:broken",)},
            DataError,
            r"broken failed with ZeroDivisionError: .* \(.*rl_world\.py:56\); correct the function",
        ),
        ({"rewards": ("rl_world:two_lines",)}, DataError, r"two_lines failed with ValueError: this and that \("),
        ({"rewards": ("rl_world:ends",)}, DataError, r"ends failed with SystemExit: 0 \("),
        (
            {"rewards": ("rl_world:not_a_number",)},
            DataError,
            r"gave nan as a score of the answer .* to prompt 'p\d'",
        ),
        ({"rewards": ("rl_world:silent",)}, DataError, r"none of 16 answers got a finite score"),
        ({"answers": 3}, ConfigError, r"4 x objective\.answers=3 = 12 rows, which do not split into batches of"),
        ({"draws": 3}, ConfigError, r"prompts_per_rollout=4 x draws=3 prompts, and there are 8; give more prompts"),
        ({"max_new_tokens": 12}, DataError, r"8 of 8 prompts leave less than max_new_tokens=12 of data\.seq_len=16"),
    ],
)
def test_what_a_run_cannot_use_is_named_in_one_line(settings, error, said, chat, tmp_path):
    with pytest.raises(error, match=said) as raised:
        trained(config_of(tmp_path, chat, steps=4, every=4, **settings), tmp_path)
    assert "\n" not in str(raised.value)


def test_other_places_for_such_a_config_and_other_configs_here_are_refused(chat, tmp_path):
    config = config_of(tmp_path, chat, steps=4, every=4)
    with pytest.raises(ConfigError, match="objective is GrpoConfig, which learns from rewards; run `tigerjax rl`"):
        refuse_rewards(config)
    with pytest.raises(ConfigError, match="objective is ObjectiveConfig: `tigerjax rl` trains with GrpoConfig or"):
        room.of(dataclasses.replace(config, objective=ObjectiveConfig()))
    nowhere = dataclasses.replace(config.checkpoint, init_from=None)
    with pytest.raises(ConfigError, match=r"starts from a chat checkpoint; set checkpoint\.init_from"):
        room.of(dataclasses.replace(config, checkpoint=nowhere))


def test_a_lost_roll_out_and_other_prompts_stop_a_run_that_resumes(run, tmp_path):
    config, folder, _ = run
    shutil.copytree(folder, tmp_path / "lost")
    for step in (6, STEPS):
        shutil.rmtree(tmp_path / f"lost/run/checkpoints/{step}")
    shutil.rmtree(tmp_path / "lost/run/rollouts")
    with pytest.raises(DataError, match=r"the roll-out in whose middle the run resumes cannot be read"):
        trained(config, tmp_path / "lost")
    objective = dataclasses.replace(config.objective, prompts_per_rollout=2)
    with pytest.raises(ConfigError, match=r"cannot resume exactly: objective\.prompts_per_rollout was 4 and is 2 now"):
        trained(dataclasses.replace(config, objective=objective), tmp_path / "lost")


def test_a_function_that_cannot_be_called_is_found_before_anything_is_drawn(chat, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "Tokenizer", lambda _: TOKENIZER)
    chats = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "no"}]
    lines = [{"id": f"e{n}", "messages": [{**chats[0], "content": f"ask {'abcd'[n]}"}, chats[1]]} for n in range(4)]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    named = {"prompts": (str(tmp_path / "sft.jsonl"),)}
    room.check(config_of(tmp_path, chat, steps=4, every=4, **named))
    with pytest.raises(DataError, match="broken failed with ZeroDivisionError"):
        room.check(config_of(tmp_path, chat, steps=4, every=4, **named, rewards=("rl_world:broken",)))


def test_prompts_are_those_of_sft_examples_or_of_prompt_files_each_once(chat, tmp_path, capsys):
    chats = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "no"}]
    lines = [{"id": f"e{n}", "messages": [{**chats[0], "content": f"ask {'abcd'[n % 4]}"}, chats[1]]} for n in range(5)]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = config_of(tmp_path, chat, steps=4, every=4)
    files = (str(tmp_path / "sft.jsonl"), *config.objective.prompts)
    settings = dataclasses.replace(config.objective, prompts=files)
    got, counts = prompts.read(config, settings, TOKENIZER)
    assert counts == {"in": 13, "out": 9, "dropped": {"repeated": 4}}  # "ask b", "ask c" and "ask d" are in both
    assert "of 13 prompts 4 repeated are left out" in capsys.readouterr().err
    again = tmp_path / "again.jsonl"
    again.write_text(json.dumps(lines[0] | {"messages": [{**chats[0], "content": "new"}, chats[1]]}))
    clash = dataclasses.replace(settings, prompts=(files[0], str(again)))
    with pytest.raises(
        DataError, match=r"again\.jsonl: prompt 1 repeats prompt_id 'e0' of .*sft\.jsonl: prompt 1; ids"
    ):
        prompts.read(config, clash, TOKENIZER)
    assert got[0].prompt["reference"] == "no" and got[0].messages == [{"role": "user", "content": "ask a"}]
    loader = prompts.PromptLoader(got, config, settings, "")
    epoch = [p.prompt["prompt_id"] for turn in range(2) for p in loader.asked(turn, 0)]
    assert len(set(epoch)) == 8 and epoch != [p.prompt["prompt_id"] for turn in (2, 3) for p in loader.asked(turn, 0)]
