"""One round of rejection sampling in the world of `align_world.py`, whose truth is known, for `replicate.py`.

Every arm starts from one seed's SFT model, draws the same 10% of its prompts and trains for as many steps: only the
number of candidates, the reward model and whether people's labels come differ. `control` trains on the SFT set alone.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import align_world
from align_world_config import config
from align_world_data import World


class Arm(NamedTuple):
    """`candidates` answers per prompt, ranked by a reward model of `kind`, people's 5% and 1% or nobody's."""

    kind: str = "truth"
    candidates: int = 10
    people: bool = True


ARMS = {f"n={n}": Arm(candidates=n) for n in (1, 2, 4, 10, 16)} | {
    "n=10 alone": Arm(people=False),
    "n=10 noisy": Arm(kind="noise"),
    "n=10 noisy alone": Arm(kind="noise", people=False),
}


def world(out: Path, seed: int) -> World:
    made = World(out / "work" / f"world-{seed}", seed)
    for name in ("dev", "test"):
        (made.out / name).mkdir(parents=True, exist_ok=True)
    return made


def prepare(made: World) -> dict[str, Any]:
    """Text, tokenizer, SFT model and two reward models; what the SFT model answers before any round."""
    made.write()
    models = align_world.prepare(made, ("truth", "noise"))
    return {"reward_models": models} | figures_of(align_world.answers(made, made.out / "sft"))


def one_round(made: World, name: str) -> dict[str, Any]:
    arm = ARMS[name]
    place = made.out / name.replace(" ", "_").replace("=", "")
    rounds = align_world.align(made, place, reward=arm.kind, people=arm.people, rounds=1, more=("--n", arm.candidates))
    aligned = rounds[-1]
    trained = figures_of(align_world.answers(made, place / "rounds" / "01" / "train" / "run"))
    return trained | {key: aligned[key] for key in ("gate", "winners", "winners_right", "win_rate")}


def control(made: World) -> dict[str, Any]:
    """As many steps from the SFT model on the SFT set, without winners."""
    from tigerjax.data import mixture
    from tigerjax.quickstart.training import once
    from tigerjax.train.loop import train_on_mixture
    from tigerjax.train.metrics import Reporting

    out, run = made.out, config()
    data = dataclasses.replace(run.data, tokenizer=str(out / "tokenizer"), cache_dir=str(out / "cache"))
    checkpoint = dataclasses.replace(run.checkpoint, init_from=str(out / "sft"))
    run = dataclasses.replace(run, seed=made.seed, data=data, checkpoint=checkpoint)

    def further() -> dict[str, Any]:
        mixture.sft(run.data.mixture, tokenizer=data.tokenizer, examples=mixture.Source(out / "sft.jsonl"))
        train_on_mixture(run, run_dir=out / "control", reporting=Reporting(progress=False))
        return {}

    once(run, out / "control", further, inputs=[out / "sft.jsonl", out / "sft" / "manifest.json"])
    return figures_of(align_world.answers(made, out / "control"))


def figures_of(judged: dict[str, Any]) -> dict[str, Any]:
    """What a cell holds of the answers of a model."""
    return {"accuracy": judged["overall"], "true_reward": judged["mean_true_reward"], "n": judged["n"]}
