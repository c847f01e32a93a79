"""Reinforcement learning beside rejection sampling, in the world of `align_world.py`, for `replicate.py`.

Every arm starts from one seed's SFT model, draws 2,000 answers, ten to each of 200 prompts or one to each of 2,000, and
has them scored by the same reward model. No people judge. `sampling` is one round of rejection sampling with ten
answers to each prompt. `grpo` and `ppo` draw the same number of answers in roll-outs, from weights that have changed in
between. Sizes and rates were chosen on seed 100 only.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import align_world
from align_world_config import config as on_winners
from align_world_data import World
from replicate_rounds import figures_of

from tigerjax.config import GrpoConfig, PpoConfig, RlConfig, RunConfig
from tigerjax.files import manifest
from tigerjax.files.jsonl import read_jsonl

ASKED, ANSWERS = 200, 10
"""Prompts and answers to each: what a round draws of the 2,000 examples with the default share of 10%."""
ROLLOUTS = 25
ROWS, PEAK_LR = 40, 2e-4
GIVEN: dict[str, Any] = {"prompts": (), "rewards": (), "max_new_tokens": 24, "kl": 0.02, "decode_rows": 80}
LOSSES: dict[str, RlConfig] = {
    "grpo": GrpoConfig(**GIVEN, prompts_per_rollout=ASKED // ROLLOUTS, answers=ANSWERS),
    "ppo": PpoConfig(**GIVEN, prompts_per_rollout=ASKED * ANSWERS // ROLLOUTS, answers=1),
}
ARMS = ("sampling", *LOSSES)
SOURCE = """from replicate_reinforcement import by_rewards


def config():
    return by_rewards({loss!r})
"""


def by_rewards(loss: str) -> RunConfig:
    """The config of `tigerjax rl` for an arm: as many steps as read each answer once."""
    run, settings = on_winners(), LOSSES[loss]
    steps = ROLLOUTS * settings.epochs * settings.rows // ROWS
    optim = dataclasses.replace(run.optim, total_steps=steps, warmup_steps=min(5, steps - 1), peak_lr=PEAK_LR)
    return dataclasses.replace(
        run, name=loss, optim=optim, global_batch_size=ROWS, log_every_steps=1, objective=settings
    )


def settings(arm: str) -> dict[str, Any]:
    """What a cell of the arm depends on."""
    if arm in LOSSES:
        return {"loss": dataclasses.asdict(LOSSES[arm]), "rollouts": ROLLOUTS, "lr": PEAK_LR, "rows": ROWS}
    return {"weight": align_world.WEIGHT, "answers": ANSWERS}


def one_arm(made: World, arm: str) -> dict[str, Any]:
    """Figures of the model that an arm ends in, of the SFT model before it, and how many answers were drawn."""
    place = made.out / f"reinforcement_{arm}"
    before = figures_of(align_world.answers(made, made.out / "sft"))
    if arm not in LOSSES:
        more = ("--n", ANSWERS)
        aligned = align_world.align(made, place, reward="truth", people=False, rounds=1, more=more)[-1]
        trained = place / "rounds" / "01" / "train" / "run"
        counts = (manifest.read(place / "rounds" / "01" / "sample") or {})["counts"]
        figures = {"gate": aligned["gate"], "drawn": counts["out"] * ANSWERS}
    else:
        trained = _trained(made, arm, place)
        logged = [record for _, record in read_jsonl(trained / "metrics.jsonl")]
        figures = {
            "drawn": ROLLOUTS * LOSSES[arm].rows,
            "kl_nats": logged[-1]["kl_nats"],
            "mismatch_max_nats": max(record["mismatch_max_nats"] for record in logged),
            "entropy_nats": [logged[0]["entropy_nats"], logged[-1]["entropy_nats"]],
            "reward": [logged[0]["reward"], logged[-1]["reward"]],
        }
    return figures_of(align_world.answers(made, trained)) | figures | {"before": before}


def _trained(made: World, arm: str, place: Path) -> Path:
    """The run of `tigerjax rl`; an interrupted one resumes."""
    out, source = made.out, place.with_suffix(".py")
    source.write_text(SOURCE.format(loss=arm), encoding="utf-8")
    words = ["rl", source, "--out", place, "--objective.prompts", out / "sft.jsonl"]
    words += ["--objective.rewards", out / "reward_truth" / "model", "--checkpoint.init-from", out / "sft"]
    words += ["--data.tokenizer", out / "tokenizer", "--data.cache-dir", out / "cache", "--seed", made.seed]
    align_world.command(*words)
    return place


def table(arms: dict[str, dict[int, dict[str, Any]]]) -> list[tuple[str, dict[str, Sequence[float]]]]:
    """(row, {column: values over seeds})"""
    first = arms["sampling"].values()
    rows: list[tuple[str, dict[str, Sequence[float]]]] = [
        (
            "SFT model",
            {
                "right": [f["before"]["accuracy"] for f in first],
                "true reward": [f["before"]["true_reward"] for f in first],
            },
        )
    ]
    for arm in ARMS:
        own = list(arms.get(arm, {}).values())
        rows.append((arm, {
            "right": [f["accuracy"] for f in own],
            "true reward": [f["true_reward"] for f in own],
            "answers drawn": [float(f["drawn"]) for f in own],
        }))  # fmt: skip
    return rows
