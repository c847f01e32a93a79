"""The end of a round with a loss over preferences, in the world of `align_world.py`, for `replicate.py`.

Every arm draws the same prompts and candidates from one seed's SFT model, and the same reward model and people judge
them. `winners` mixes the winners into the SFT set, as rounds do by default. Every other arm trains on pairs instead:
each prompt's best answer above its worst. Sizes and rates were chosen on seed 100 only.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import align_world
from align_world_config import config as on_winners
from align_world_data import World
from replicate_rounds import figures_of

from tigerjax.config import DpoConfig, IpoConfig, KtoConfig, OrpoConfig, RunConfig, SimpoConfig
from tigerjax.files import manifest

LOSSES = {
    "dpo": DpoConfig(preferences=(), beta=0.1),
    "ipo": IpoConfig(preferences=(), tau=0.1),
    "kto": KtoConfig(preferences=(), beta=0.1),
    "orpo": OrpoConfig(preferences=(), odds_weight=0.5),
    "simpo": SimpoConfig(preferences=(), beta=2.0, margin=1.0),
}
ARMS = ("winners", *LOSSES)
STEPS, PEAK_LR, ROWS = 40, 2e-4, 8
SOURCE = """from replicate_preferences import on_pairs


def config():
    return on_pairs({loss!r})
"""


def on_pairs(loss: str) -> RunConfig:
    """The config that `tigerjax align init` gets for an arm with a loss over preferences."""
    run = on_winners()
    optim = dataclasses.replace(run.optim, total_steps=STEPS, peak_lr=PEAK_LR)
    return dataclasses.replace(run, optim=optim, global_batch_size=ROWS, objective=LOSSES[loss])


def settings(arm: str) -> dict[str, Any]:
    """What a cell of the arm depends on."""
    own = {} if arm == "winners" else {"loss": dataclasses.asdict(LOSSES[arm]), "steps": STEPS, "lr": PEAK_LR}
    return {"weight": align_world.WEIGHT, "rows": ROWS} | own


def one_round(made: World, arm: str) -> dict[str, Any]:
    """Figures of the model after one round, of the SFT model before it, and the gate's verdict."""
    place = made.out / f"preferences_{arm}"
    more: dict[str, Any] = {}
    if arm in LOSSES:
        place.mkdir(parents=True, exist_ok=True)
        more["config"] = place.with_suffix(".py")
        more["config"].write_text(SOURCE.format(loss=arm), encoding="utf-8")
    aligned = align_world.align(made, place, reward="truth", people=True, rounds=1, more=("--n", 10), **more)[-1]
    trained = figures_of(align_world.answers(made, place / "rounds" / "01" / "train" / "run"))
    before = figures_of(align_world.answers(made, made.out / "sft"))
    counts = (manifest.read(place / "rounds" / "01" / "rank") or {})["counts"]
    kept = {key: aligned[key] for key in ("gate", "winners", "win_rate")}
    return trained | kept | {"before": before, "pairs": counts["pairs"]}


def gains(arms: dict[str, dict[int, dict[str, Any]]], name: str) -> dict[str, dict[int, float]]:
    """By arm and seed, how much a round raised `name`, "accuracy" in points or "true_reward"."""
    times = 100 if name == "accuracy" else 1
    return {arm: {seed: times * (f[name] - f["before"][name]) for seed, f in own.items()} for arm, own in arms.items()}


def table(arms: dict[str, dict[int, dict[str, Any]]]) -> list[tuple[str, dict[str, Sequence[float]]]]:
    """(row, {column: values over seeds})"""
    first = arms["winners"].values()
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
        own = list(arms[arm].values())
        rows.append((arm, {
            "right": [f["accuracy"] for f in own],
            "true reward": [f["true_reward"] for f in own],
            "pairs": [f["pairs"] for f in own],
            "refused by the gate": [float(f["gate"] == "rejected") for f in own],
        }))  # fmt: skip
    return rows
