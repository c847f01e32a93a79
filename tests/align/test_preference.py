"""Training on preferences: rows, the reference, every loss, meshes, and a run that is cut off."""

import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import world
from test_reward import planted
from world import ranked, write

from tigerjax.align import preference, reward_data
from tigerjax.align.preference_rows import to_rows
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.config import DpoConfig, EvalConfig, IpoConfig, KtoConfig, OrpoConfig, SimpoConfig, load
from tigerjax.data.rows import make_row
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.train.metrics import Reporting

TOKENIZER = world.Letters()
SILENT = Reporting(progress=False, echo=lambda line: None)
LOSSES = [DpoConfig, IpoConfig, KtoConfig, OrpoConfig, SimpoConfig]


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    return reward_data.read(write(tmp_path_factory.mktemp("p"), planted(60)))[0]


def pairs_of(batch):
    """(prompt and better answer, prompt and worse answer) of every pair, as tuples of tokens, with its weight."""
    out = []
    for b, p in zip(*np.nonzero(batch.weight_BP), strict=True):
        chats = [
            tuple(batch.rows.tokens_BT[b][batch.rows.segment_ids_BT[b] == 1 + side[b, p]].tolist())
            for side in (batch.winner_BP, batch.loser_BP)
        ]
        out.append((*chats, float(batch.weight_BP[b, p])))
    return sorted(out)


def wanted_pairs(comparisons, seq_len=28):
    out = []
    for one in comparisons:
        chats = [
            tuple(reward_data.encode_answer(TOKENIZER, one.messages, *answer, seq_len=seq_len, where="x").ids)
            for answer in one.answers
        ]
        out += [(chats[p.winner], chats[p.loser], float(np.float32(p.weight))) for p in one.pairs]
    return sorted(out)


@pytest.mark.parametrize("unrelated", [False, True])
def test_rows_hold_every_pair_once_and_are_filled(comparisons, unrelated):
    rows = to_rows(comparisons, TOKENIZER, seq_len=28, chats=2 + unrelated, unrelated=unrelated)
    batch = rows.taken(np.arange(rows.size), rows.size + 2)
    assert pairs_of(batch) == wanted_pairs(comparisons)
    assert rows.rows_B3T.shape[2] == 28 * (2 + unrelated) and rows.figures()["fill"] > 0.8
    assert not batch.rows.segment_ids_BT[rows.size :].any() and not batch.weight_BP[rows.size :].any()
    used = {
        (b, int(side[b, p]))
        for b, p, _ in np.argwhere(batch.weight_BP[..., None])
        for side in (batch.winner_BP, batch.loser_BP)
    }
    strange = {(int(b), int(c)) for b, c in np.argwhere(batch.unrelated_BC)}
    assert not used & strange and bool(strange) == unrelated


def test_only_the_tokens_of_answers_count_and_eos_is_one_of_them(tmp_path):
    records = [ranked("hi", ["abc", "d"], [["r0"], ["r1"]])]
    rows = to_rows(reward_data.read(write(tmp_path, records))[0], TOKENIZER, seq_len=8, chats=2, unrelated=False)
    (tokens,), (targets,), (weights,) = rows.taken(np.array([0]), 1).rows[:3]
    assert tokens.tolist() == [30, 10, 11, 31, 3, 4, 5, 2, 30, 10, 11, 31, 6, 2, 0, 0]
    assert targets[weights > 0].tolist() == [3, 4, 5, 2, 6, 2]


def test_a_ranking_that_is_wider_than_a_row_is_cut_and_keeps_every_pair(tmp_path):
    texts = ["abcdefghijk"[: 3 + i % 5] + "xyzuvw"[i] for i in range(6)]
    records = [ranked("q", texts, [[f"r{i}"] for i in range(6)]), ranked("p", ["a", "b"], [["r0"]])]
    comparisons = reward_data.read(write(tmp_path, records))[0]
    rows = to_rows(comparisons, TOKENIZER, seq_len=13, chats=2, unrelated=False)
    assert pairs_of(rows.taken(np.arange(rows.size), rows.size)) == wanted_pairs(comparisons)
    assert rows.weight_BP.sum() == pytest.approx(2)


def test_an_answer_to_another_prompt_is_cut_to_fit_and_one_prompt_has_none(tmp_path):
    records = [ranked("a long prompt", ["a", "b"], [["r0"]]), ranked("q", ["an answer", "no answer"], [["r0"]])]
    comparisons = reward_data.read(write(tmp_path, records))[0]
    rows = to_rows(comparisons, TOKENIZER, seq_len=17, chats=3, unrelated=True)
    lengths = [(rows.rows_B3T[b, 1] == 1 + c).sum() for b, c in np.argwhere(rows.unrelated_BC)]
    assert sorted(lengths) == [5, 17]
    with pytest.raises(DataError, match="1 prompt with a pair; KTO compares with answers to other prompts"):
        to_rows(comparisons[:1], TOKENIZER, seq_len=17, chats=3, unrelated=True)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat") / "model"
    model = decoder.LanguageModel(world.MODEL, world.COMPUTE)
    weights = jax.jit(lambda key: nn.unbox(init(model, key)))(jax.random.key(1))
    save_model(path, weights, world.MODEL, tokenizer_sha256=TOKENIZER.sha256)
    return path


def config_of(folder, chat, kind, *, steps, every, **settings):
    """A run on 60 planted rankings of three answers; the better one has more of the letter a."""
    files = (
        write(folder, planted(60)) if not (folder / "preferences.jsonl").exists() else [folder / "preferences.jsonl"]
    )
    run = world.run_config(steps=steps, every=every, batch_rows=8, seq_len=28)
    return dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, cache_dir=str(folder / "cache")),
        checkpoint=dataclasses.replace(run.checkpoint, init_from=str(chat)),
        objective=kind(preferences=tuple(map(str, files)), **settings),
        log_every_steps=1,
    )


def trained(config, folder):
    return preference.train(config, run_dir=folder / "run", tokenizer=TOKENIZER, reporting=SILENT)


def metrics(folder):
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def dpo(tmp_path_factory, chat):
    """(config, folder, figures) of twelve steps, with checkpoints at 6 and 12."""
    folder = tmp_path_factory.mktemp("dpo")
    config = config_of(folder, chat, DpoConfig, steps=12, every=6, beta=0.3)
    return config, folder, trained(config, folder)


@pytest.fixture(scope="module", params=LOSSES, ids=lambda kind: kind.__name__)
def run(request, tmp_path_factory, chat):
    """The same of each loss; without DPO six steps, with checkpoints at 3 and 6."""
    if request.param is DpoConfig:
        return request.getfixturevalue("dpo")
    folder = tmp_path_factory.mktemp(request.param.__name__)
    config = config_of(folder, chat, request.param, steps=6, every=3)
    return config, folder, trained(config, folder)


def test_a_run_that_was_cut_off_resumes_and_ends_in_the_same_weights(run, tmp_path):
    config, folder, figures = run
    shutil.copytree(folder, tmp_path / "again")
    shutil.rmtree(tmp_path / f"again/run/checkpoints/{config.optim.total_steps}")
    assert trained(config, tmp_path / "again") == figures
    again, whole = (load_model(place / "run") for place in (tmp_path / "again", folder))
    assert again.sha256 == whole.sha256 and again.kind == whole.kind == "llama"
    assert [m["loss_nats"] for m in metrics(tmp_path / "again")] == [m["loss_nats"] for m in metrics(folder)]


def test_each_loss_logs_rewards_margins_and_accuracy_and_the_margin_grows(run):
    config, folder, figures = run
    logged = metrics(folder)
    names = {"chosen_reward", "rejected_reward", "reward_margin", "reward_accuracy", "chosen_logp_nats"}
    assert names <= logged[0].keys() and ("kl_nats" in logged[0]) == isinstance(config.objective, KtoConfig)
    for one in logged:
        assert one["reward_margin"] == pytest.approx(one["chosen_reward"] - one["rejected_reward"], abs=1e-5)
    assert logged[-1]["reward_margin"] > logged[0]["reward_margin"]
    assert load(folder / "run") == config  # its folder stands for the config, with the settings of its loss
    assert figures["pairs_in_rows"] == figures["out"] and figures["fill"] > 0.8
    if isinstance(config.objective, DpoConfig | KtoConfig | IpoConfig):  # the model still is its reference
        assert logged[0]["chosen_reward"] == pytest.approx(0, abs=1e-5) and logged[0]["reward_accuracy"] != 1.0


def test_a_planted_preference_is_learned_with_the_reference_computed_before_each_step(dpo, chat, tmp_path):
    """The losses are those of the cached reference, whose weights are in no checkpoint."""
    trained(config_of(tmp_path, chat, DpoConfig, steps=12, every=12, beta=0.3, reference="each_step"), tmp_path)
    losses = [[m["loss_nats"] for m in metrics(folder)] for folder in (tmp_path, dpo[1])]
    np.testing.assert_allclose(*losses, atol=1e-4)  # float32; Adam magnifies last bits
    assert np.mean([m["reward_accuracy"] for m in metrics(tmp_path)[-3:]]) > 0.9
    assert not (tmp_path / "cache/reference").exists() and (dpo[1] / "cache/reference").is_dir()
    shapes = [jax.tree.map(np.shape, load_model(place).weights) for place in (chat, tmp_path / "run")]
    assert shapes[0] == shapes[1]


class Held:
    """A held-out set of two rows."""

    name, rows, sha256 = "held", 2, "their hash"
    groups = ((("en", "books", "not given"), 2),)

    def read(self, indices):
        ones = np.ones(28, int)
        return np.stack([make_row(5 + row + np.arange(28) % 9, ones, ones) for row in indices])


def test_held_out_text_is_measured_while_preferences_are_trained(chat, tmp_path, monkeypatch):
    monkeypatch.setattr(preference, "open_sets", lambda *given, **more: [Held()])
    config = config_of(tmp_path, chat, DpoConfig, steps=6, every=3)
    trained(dataclasses.replace(config, eval=EvalConfig(every_steps=3)), tmp_path)
    found = [m["validation"]["held"] for m in metrics(tmp_path) if "validation" in m]
    assert [one["tokens"] for one in found] == [54, 54] and found[0]["loss_nats"] != found[1]["loss_nats"]


def test_the_reference_is_computed_once_for_a_model_and_its_rows(chat, tmp_path, monkeypatch):
    from tigerjax.align import reference

    config, computed, original = config_of(tmp_path, chat, DpoConfig, steps=3, every=3), [], reference._all_rows

    def counted(*args):
        computed.append(args)
        return original(*args)

    monkeypatch.setattr(reference, "_all_rows", counted)
    trained(config, tmp_path)
    shutil.rmtree(tmp_path / "run")
    trained(dataclasses.replace(config, objective=dataclasses.replace(config.objective, beta=0.5)), tmp_path)
    assert len(computed) == 1 and len(list((tmp_path / "cache/reference").iterdir())) == 1
    shutil.rmtree(tmp_path / "run")
    trained(dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=32)), tmp_path)  # other rows
    assert len(computed) == 2


def test_a_dry_run_reads_the_preferences(chat, tmp_path, monkeypatch):
    monkeypatch.setattr(preference, "Tokenizer", lambda _: TOKENIZER)
    config = config_of(tmp_path, chat, DpoConfig, steps=3, every=3)
    preference.check(config)
    for text, line in (
        ("", r"different answers in .*bad\.jsonl \(0 prompts\); give"),
        ("no json", r"bad\.jsonl:1: broken JSON"),
        ('{"text": "a"}', r"bad\.jsonl:1"),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        objective = DpoConfig(preferences=(str(tmp_path / "bad.jsonl"),))
        with pytest.raises(DataError, match=line):
            preference.check(dataclasses.replace(config, objective=objective))


def test_what_training_on_preferences_cannot_use_is_named(chat, tmp_path, capsys):
    config = config_of(tmp_path, chat, DpoConfig, steps=3, every=3)
    nowhere = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, init_from=None))
    with pytest.raises(ConfigError, match=r"starts from a chat checkpoint; set checkpoint\.init_from"):
        trained(nowhere, tmp_path)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, mlp_dim=44))
    with pytest.raises(ConfigError, match="its model is not that of the config: model"):
        trained(other, tmp_path)
    missing = dataclasses.replace(config, objective=DpoConfig(preferences=(str(tmp_path / "none.jsonl"),)))
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        trained(missing, tmp_path)
    with pytest.raises(ConfigError, match=r"objective\.preferences names no file"):
        trained(dataclasses.replace(config, objective=DpoConfig(preferences=())), tmp_path)
    with pytest.raises(ConfigError, match=r"objective\.preferences='p\.jsonl' must be a tuple of files"):
        DpoConfig(preferences="p.jsonl")
    marked = tmp_path / "margins.jsonl"
    pair = {"messages": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b", "margin": 2.0}
    marked.write_text(json.dumps(pair) + "\n")
    preference.read(config, DpoConfig(preferences=(str(marked),)), TOKENIZER)
    assert "1 pairs have a margin, which only `tigerjax reward train` uses" in capsys.readouterr().err
