"""Reward training and a whole alignment in two real processes, through the command line, against one device."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from child_processes import run
from tiny_project import ROOT, align, config_words

from tigerjax.checkpoint.model import load_model
from tigerjax.command.cli import main

CLOSE = 2e-5  # scores and log-probabilities: sums over split rows of products, in another order
SAME_LOSS = 1e-6  # nats
SAME_SUM = 1e-6  # of a sum of float32 numbers in another order
WEIGHTS_CLOSE = 1e-4  # after some steps of Adam, which divides by small numbers
TIGERJAX = ["-m", "tigerjax"]
WAITS = ["--hosts.barrier-timeout-s", 2000, "--hosts.stall-timeout-s", 2000, "--hosts.start-timeout-s", 2000]
MESH = ["--mesh.fsdp", 4]


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def alike(value, wanted) -> None:
    """The same JSON, but for floats, which are close."""
    if isinstance(wanted, dict):
        assert value.keys() == wanted.keys()
        for key in wanted:
            alike(value[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(value) == len(wanted)
        for one, other in zip(value, wanted, strict=True):
            alike(one, other)
    elif isinstance(wanted, float):
        assert value == pytest.approx(wanted, abs=CLOSE, rel=CLOSE)
    else:
        assert value == wanted


def write_pairs(path: Path) -> None:
    """36 prompts with rankings of two to four answers."""
    lines = []
    for i in range(36):
        texts = ["你好 " * (1 + j) + str(i) for j in range(2 + i % 3)]
        responses = [{"id": str(j), "text": text} for j, text in enumerate(texts)]
        messages = [{"role": "user", "content": f"Say 你好 {i} times"}]
        ranking = [[str(j)] for j in range(len(texts))]
        lines.append({"prompt_id": f"p{i}", "messages": messages, "responses": responses, "ranking": ranking})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_two_processes_train_on_pairs_as_one_does_and_compute_the_reference_together(made, tmp_path):
    write_pairs(tmp_path / "pairs.jsonl")
    words = ["train", ROOT / "configs" / "quickstart_dpo.py", *config_words(made, 4, 4)]
    words += ["--objective.preferences", tmp_path / "pairs.jsonl", "--checkpoint.init-from", made / "chat"]

    def outputs(name: str) -> list[object]:
        return ["--out", tmp_path / name, "--data.cache-dir", tmp_path / f"{name}_cache"]

    assert main([*map(str, [*words, *outputs("alone")])]) == 0
    ended = run([*TIGERJAX, *words, *MESH, *outputs("two"), *WAITS], tmp_path / "two.log", 2)
    assert ended.codes == [0, 0], ended.errors
    one, two = (records(tmp_path / name / "metrics.jsonl") for name in ("alone", "two"))
    assert len(two) == 4
    for name in ("loss_nats", "reward_margin", "chosen_logp_nats", "loss_weight"):
        np.testing.assert_allclose([r[name] for r in two], [r[name] for r in one], atol=WEIGHTS_CLOSE)
    (mine,), (theirs,) = (
        [*(tmp_path / f"{name}_cache/reference").glob("*/log_probs.jsonl")] for name in ("alone", "two")
    )
    assert mine.parent.name == theirs.parent.name
    alike(records(theirs), records(mine))


PPO = """
import dataclasses, sys
sys.path.append({configs!r})
from quickstart_grpo import config as grpo
from tigerjax.config import PpoConfig

def config():
    return dataclasses.replace(grpo(), objective=PpoConfig(prompts=(), rewards=(), kl=0.02))
"""


@pytest.mark.parametrize("kind", ["grpo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_two_processes_draw_the_roll_outs_that_one_draws_and_train_on_them_as_it_does(kind, made, tmp_path):
    """GRPO with adapters; PPO of all weights, which also resumes in the middle of a roll-out."""
    config = ROOT / "configs" / "quickstart_grpo.py"
    if kind == "ppo":
        (config := tmp_path / "ppo.py").write_text(PPO.format(configs=str(ROOT / "configs")))
    words = ["rl", config, *config_words(made, 4, 8), *(["--lora.rank", 2] if kind == "grpo" else [])]
    words += ["--optim.peak-lr", 1e-3]
    words += ["--objective.prompts", made / "sft.jsonl", "--objective.rewards", made / "reward"]
    words += ["--objective.prompts-per-rollout", 4, "--objective.answers", 4, "--objective.max-new-tokens", 8]
    words += ["--objective.decode-rows", 8, "--objective.score-batch-size", 8]
    words += ["--checkpoint.init-from", made / "ends", "--checkpoint.every-steps", 3, "--checkpoint.keep", 3]
    assert main([*map(str, [*words, "--out", tmp_path / "alone"])]) == 0
    two = [*TIGERJAX, *words, *MESH, "--out", tmp_path / "two", *WAITS]
    ended = run(two, tmp_path / "two.log", 2)
    assert ended.codes == [0, 0], ended.errors
    drawn = [records(tmp_path / name / "rollouts/000000.jsonl") for name in ("alone", "two")]
    assert [[a["text"] for a in r["answers"]] for r in drawn[0]] == [
        [a["text"] for a in r["answers"]] for r in drawn[1]
    ]
    one, both = (records(tmp_path / name / "metrics.jsonl") for name in ("alone", "two"))
    assert len(both) == 4 and ("value_loss" in one[0]) == (kind == "ppo")
    for name in ("loss_nats", "reward", "grad_norm", "kl_nats", "entropy_nats", "ratio"):
        np.testing.assert_allclose([m[name] for m in both], [m[name] for m in one], atol=WEIGHTS_CLOSE)
    assert max(m["mismatch_max_nats"] for m in both) < WEIGHTS_CLOSE < max(m["grad_norm"] for m in both)
    shutil.rmtree(tmp_path / "two/checkpoints/4")  # step 3 is in the middle of the second roll-out
    if kind == "ppo":
        assert run(two, tmp_path / "again.log", 2).codes == [0, 0]
        assert [m["loss_nats"] for m in records(tmp_path / "two/metrics.jsonl")] == [m["loss_nats"] for m in both]


def test_two_processes_train_the_reward_model_that_one_trains(made, tmp_path):
    """27 prompts of two to four answers, in batches of eight: the last batch of an epoch has rows without pairs."""
    write_pairs(tmp_path / "pairs.jsonl")
    words = ["reward", "train", ROOT / "configs" / "quickstart_reward.py", *config_words(made, 6, 8), "--force"]
    words += [
        "--preferences",
        tmp_path / "pairs.jsonl",
        "--calibration-set",
        made / "sft.jsonl",
        "--init",
        made / "chat",
    ]
    words += ["--reward.score-batch-size", 8, "--reward.eval-fraction", 0.25]

    def outputs(name: str) -> list[object]:
        return ["--out", tmp_path / name, "--json", tmp_path / f"{name}.json"]

    assert main([*map(str, [*words, *outputs("alone")])]) == 0
    ended = run([*TIGERJAX, *words, *MESH, *outputs("two"), *WAITS], tmp_path / "two.log", 2)
    assert ended.codes == [0, 0], ended.errors

    one, two = (records(tmp_path / name / "metrics.jsonl") for name in ("alone", "two"))
    assert len(two) == 6  # one writer
    for name, relative in (("loss_nats", 0), ("accuracy", 0), ("loss_weight", SAME_SUM)):
        np.testing.assert_allclose([r[name] for r in two], [r[name] for r in one], atol=SAME_LOSS, rtol=relative)
    assert {r["loss_weight"] for r in one} > {8.0}  # a prompt counts once, and a row without pairs not at all

    alone, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "two"))
    for name in ("pairs", "train_prompts", "eval_prompts", "accuracy", "by_task", "length_rho", "not_finite"):
        alike(other[name], alone[name])
    np.testing.assert_allclose(other["calibration"]["mean"], alone["calibration"]["mean"], atol=WEIGHTS_CLOSE)
    model, wanted = load_model(tmp_path / "two" / "model"), load_model(tmp_path / "alone" / "model")
    assert model.kind == "reward" and model.step == 6 and model.extra["calibration"] == other["calibration"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=WEIGHTS_CLOSE), model.weights, wanted.weights)


def test_two_processes_go_through_the_round_that_one_goes_through(made, tmp_path):
    """One process loses its reward model while all score: all end with its line, and the next start goes on."""
    init = ["init", ROOT / "configs" / "quickstart_rejection_sampled.py", *config_words(made, 4, 8)]
    init += ["--sft", made / "sft.jsonl", "--models", made / "ends", "--reward"]
    init += [made / "reward", "--evaluation-set", made / "questions.jsonl", "--n", 4, "--max-new-tokens", 8]
    init += ["--align.allow-partial", "--align.min-win-rate", 0, "--align.rank-fraction", 0.4, "--score-batch-size", 8]
    one, two = tmp_path / "one", tmp_path / "two"
    align(*init, "--out", one)
    align(*init, "--out", two, *MESH)
    align("run", one, "--json", tmp_path / "one.json")

    words = ["align", "run", two, "--json", tmp_path / "two.json", *WAITS]
    ended = run([Path(__file__).with_name("losing.py"), *words], tmp_path / "losing", 2)
    assert ended.codes == [3, 3], ended.errors
    for text in ended.errors:
        assert text.splitlines()[-1] == "tigerjax: host 1 of 2: the reward model is lost" and "Traceback" not in text
    sampled = (two / "rounds/01/sample/candidates.jsonl").read_bytes()
    assert not (two / "rounds/01/score").exists()
    ended = run([*TIGERJAX, *words], tmp_path / "whole", 2)
    assert ended.codes == [0, 0], ended.errors
    assert (two / "rounds/01/sample/candidates.jsonl").read_bytes() == sampled

    for name in ("prompts/prompts.jsonl", "queue/queue.jsonl", "queue/key.jsonl", "queue/queue.md",
                 "labels/verdicts.jsonl", "labels/missing.json"):  # fmt: skip
        assert (two / "rounds/01" / name).read_bytes() == (one / "rounds/01" / name).read_bytes(), name
    for name in ("sample/candidates.jsonl", "score/scored.jsonl", "rank/ranked.jsonl", "mix/sft.jsonl"):
        alike(records(two / "rounds/01" / name), records(one / "rounds/01" / name))
    (done,), (wanted,) = (json.loads((tmp_path / f"{n}.json").read_text())["rounds"] for n in ("two", "one"))
    assert done["gate"] == wanted["gate"] == "accepted" and done["winners"] == wanted["winners"]
    assert done["winners"]["rm"] > 0 and done["counts"] == wanted["counts"]
    losses = [[r["loss_nats"] for r in records(f / "rounds/01/train/run/metrics.jsonl")] for f in (one, two)]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[1], losses[0], atol=SAME_LOSS)
    assert not [*two.rglob("*.partial"), *two.rglob("*.work-*")]


@pytest.mark.slow
def test_two_processes_wait_for_people_go_on_to_the_next_round_and_score_files(made, tmp_path):
    config = [ROOT / "configs" / "quickstart_rejection_sampled.py", *config_words(made, 4, 8), *MESH]
    init = ["init", *config, "--out", tmp_path / "dir", "--sft", made / "sft.jsonl", "--models", made / "ends"]
    init += ["--reward", made / "reward", "--evaluation-set", made / "questions.jsonl", "--n", 4]
    align(*init, "--max-new-tokens", 8, "--align.min-win-rate", 0, "--score-batch-size", 8)
    words = [*TIGERJAX, "align", "run", tmp_path / "dir", "--rounds", 2, *WAITS]
    ended = run(words, tmp_path / "first", 2)
    assert ended.codes == [4, 4], ended.errors
    for text in ended.errors:
        assert text.splitlines()[-1].startswith("tigerjax: host 0 of 2: labels are missing: 1 of 1 rankings")

    (asked,) = records(tmp_path / "dir/rounds/01/queue/queue.jsonl")
    names = [c["label"] for c in asked["candidates"]]
    line = {name: asked[name] for name in ("prompt_id", "batch_sha256")} | {"annotator": "a"}
    labels = [line | {"ranking": [names]}, line | {"base": names[0], "text": "People wrote this."}]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(one) + "\n" for one in labels))
    align("import", tmp_path / "dir", "--labels", tmp_path / "labels.jsonl")
    ended = run(words, tmp_path / "second", 2)
    assert ended.codes == [4, 4], ended.errors
    gate = json.loads((tmp_path / "dir/rounds/01/gate/gate.json").read_text())
    assert gate["accepted"] and (tmp_path / "dir/rounds/02/queue/queue.jsonl").is_file()

    candidates = tmp_path / "dir/rounds/01/sample/candidates.jsonl"
    words = [
        "reward",
        "score",
        *config,
        "--input",
        candidates,
        "--out",
        tmp_path / "scored",
        "--score-batch-size",
        8,
    ]
    ended = run([*TIGERJAX, *words, "--reward", made / "reward", *WAITS], tmp_path / "score", 2)
    assert ended.codes == [0, 0], ended.errors
    alike(records(tmp_path / "scored/scored.jsonl"), records(tmp_path / "dir/rounds/01/score/scored.jsonl"))
