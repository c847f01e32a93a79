"""A toy task with known right answers: does rejection sampling help, and do people and the gate stop a bad scorer?

    python benchmarks/studies/align_world.py --seeds 10 11 12 --out runs/align_world --json align_world.json

The task is to repeat a word of the question, in English and Chinese. The SFT set is poor on purpose: each word has its
own share of right demonstrations, from 10 to 90%. The others decline or answer with a nonsense word, some of them at
length. A tiny model learns from that set, and a reward model from rankings. Then `tigerjax align init`, `run`, `import`
and `run` do two rounds, called as a user would call them, with the stand-in for people.

    truth              right rankings
    noise              half of the rankings shuffled
    length             every ranking says that the longer answer is better
    *_without_people   the same reward model, no label is ever delivered

True reward and accuracy are measured on questions that neither training nor the gate has seen. Sizes and rates were
chosen on seed 100 only. Finished seeds are not run again, and interrupted ones go on.
"""

import argparse
import functools
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from align_world_config import PIECES, config
from align_world_data import World

ARMS = ("truth", "noise", "noise_without_people", "length", "length_without_people")
ROUNDS, BASE_PIECES, ZH_PIECES, SFT_STEPS, REWARD_STEPS = 2, 400, 360, 300, 60
WEIGHT = "5"
CONFIG = Path(__file__).resolve().with_name("align_world_config.py")


def prepare(world: World, kinds: tuple[str, ...] = ("truth", "noise", "length")) -> dict[str, Any]:
    """Tokenizer, the SFT model and the reward models; returns the figures of the latter."""
    import dataclasses

    from tigerjax.align import reward, reward_data
    from tigerjax.align.config import RewardConfig
    from tigerjax.data import mixture
    from tigerjax.files.jsonl import read_jsonl
    from tigerjax.quickstart.training import once
    from tigerjax.tokenizer.extend import extend
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.tokenizer.train import train_model
    from tigerjax.train.loop import train_on_mixture

    out = world.out
    train_model([out / "en.txt"], BASE_PIECES, out / "base_tokenizer")
    train_model([out / "zh.txt"], ZH_PIECES, out / "zh_tokenizer")
    extend(base=out / "base_tokenizer", new=out / "zh_tokenizer", size=PIECES, out=out / "tokenizer")
    run = config()
    data = dataclasses.replace(run.data, tokenizer=str(out / "tokenizer"), cache_dir=str(out / "cache"))
    run = dataclasses.replace(run, seed=world.seed, data=data)
    sft = dataclasses.replace(run, optim=dataclasses.replace(run.optim, total_steps=SFT_STEPS))

    def train_sft() -> dict[str, Any]:
        mixture.sft(run.data.mixture, tokenizer=data.tokenizer, examples=mixture.Source(out / "sft.jsonl"))
        train_on_mixture(sft, run_dir=out / "sft")
        return {}

    once(sft, out / "sft", train_sft, inputs=[out / "sft.jsonl", out / "tokenizer"])
    settings = RewardConfig(eval_fraction=0.2)
    reference = [record for _, record in read_jsonl(out / "sft.jsonl")][::8]
    pairs = dataclasses.replace(
        run, global_batch_size=16, optim=dataclasses.replace(run.optim, total_steps=REWARD_STEPS, peak_lr=1e-3)
    )
    figures = {}
    for kind in kinds:
        file, place = out / f"preferences_{kind}.jsonl", out / f"reward_{kind}"

        def train_reward(file: Path = file, place: Path = place) -> dict[str, Any]:
            return reward.train(
                pairs,
                settings,
                data=reward_data.RewardData([file], reference),
                tokenizer=Tokenizer(out / "tokenizer"),
                init=out / "sft",
                run_dir=place,
                force=True,  # a model that the accuracy limit refuses is what is wanted here
            ).figures

        figures[kind] = once(pairs, place, train_reward, inputs=[file, out / "sft" / "manifest.json"])
    return {
        kind: {"accuracy_on_its_own_rankings": f["accuracy"], "length_rho": f["length_rho"]}
        for kind, f in figures.items()
    }


def command(*words: Any, accept: tuple[int, ...] = (0,)) -> int:
    from tigerjax.command.cli import main as tigerjax

    code = tigerjax([str(word) for word in words])
    if code == 130:  # it caught Ctrl-C
        raise KeyboardInterrupt
    if code not in accept:
        raise SystemExit(f"tigerjax {' '.join(map(str, words))} ended with {code}")
    return code


def align(
    world: World,
    place: Path,
    *,
    reward: str,
    people: bool,
    rounds: int = ROUNDS,
    more: tuple[Any, ...] = (),
    config: Path = CONFIG,
) -> list[dict[str, Any]]:
    """Rounds in PLACE through the command line, `more` for `align init`; figures of the model in force after each,
    and before the first."""
    from tigerjax.align import stand_in

    out = world.out
    right = {q["prompt_id"]: q for q in _read(out / "key.jsonl")}
    init = [
        "align",
        "init",
        config,
        "--out",
        place,
        "--sft",
        out / "sft.jsonl",
    ]
    init += ["--models", out / "sft", "--reward", out / f"reward_{reward}" / "model", *more]
    init += ["--evaluation-set", out / "dev" / "questions.jsonl", "--max-new-tokens", "24", "--align.seed", world.seed]
    for kind in ("rm", "human", "edit"):
        init += [f"--align.{kind}-weight", WEIGHT]
    init += [] if people else ["--align.allow-partial"]
    command(*init, "--data.tokenizer", out / "tokenizer", "--data.cache-dir", out / "cache", "--seed", world.seed)
    models: list[dict[str, Any]] = [{"round": 0, "checkpoint": str(out / "sft")}]
    for index in range(1, rounds + 1):
        run = ("align", "run", place, "--rounds", index, "--json", place / "run.json")
        if command(*run, accept=(0, 4, 5)) == 4:  # waits for people
            stand_in.answer(place / "rounds" / f"{index:02d}" / "queue", out / "key.jsonl", place / "labels.jsonl")
            command("align", "import", place, "--labels", place / "labels.jsonl")
            command(*run, accept=(0, 5))
        figures = json.loads((place / "run.json").read_text(encoding="utf-8"))["rounds"][-1]
        names = ("gate", "reasons", "winners", "win_rate", "reward_before", "reward_after", "checkpoint")
        models.append({"round": index} | {name: figures[name] for name in names} | _winners(figures, right))
    for model in models:
        judged = answers(world, Path(model.pop("checkpoint")))
        model |= {"true_reward": judged["mean_true_reward"], "accuracy": judged["overall"]}
    return models


def _winners(figures: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Share of this round's winners that are right, by who chose them."""
    index = figures["round"]
    by: dict[str, list[bool]] = {}
    for e in _read(Path(figures["sft"])):
        if e["id"].startswith(f"rs{index:02d}-"):
            good = right[e["prompt_id"]]["accept"][0] in e["messages"][-1]["content"]
            by.setdefault(e["provenance"], []).append(good)
    return {"winners_right": {who: round(statistics.mean(own), 4) for who, own in sorted(by.items())}}


@functools.cache
def answers(world: World, model: Path) -> dict[str, Any]:
    """Accuracy of greedy answers on the test questions; a model is asked once."""
    from tigerjax.checkpoint.loaded import load
    from tigerjax.config import FLOAT32
    from tigerjax.evaluate import questions
    from tigerjax.sample.engine import SamplingConfig, generate
    from tigerjax.tokenizer.load import Tokenizer

    loaded = load(model, Tokenizer(world.out / "tokenizer"), compute=FLOAT32)
    asked = questions.load(world.out / "test" / "questions.jsonl")
    sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=24, context=64, seed=0)
    records = generate(loaded, questions.prompts(asked), sampling)
    return questions.accuracy(asked, questions.first_texts(records))


def _read(path: Path) -> list[dict[str, Any]]:
    from tigerjax.files.jsonl import read_jsonl

    return [record for _, record in read_jsonl(path)]


def one_seed(out: Path, seed: int, arms: tuple[str, ...]) -> dict[str, Any]:
    """Figures of one seed, from its file when it is finished."""
    done = out / "figures.json"
    figures = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {"seed": seed, "seconds": 0.0}
    if set(arms) <= figures.keys():
        return figures
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    world = World(out, seed)
    for name in ("dev", "test"):
        (out / name).mkdir(exist_ok=True)
    world.write()
    figures["reward_models"] = prepare(world)
    for arm in arms:
        kind, _, without = arm.partition("_")
        figures[arm] = align(world, out / arm, reward=kind, people=not without)
    figures["seconds"] = round(figures["seconds"] + time.monotonic() - started, 1)
    done.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def spread(values: list[float]) -> dict[str, Any]:
    sd = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(statistics.mean(values), 4), "sd": sd, "values": [round(v, 4) for v in values]}


def summary(seeds: list[dict[str, Any]], arms: tuple[str, ...]) -> dict[str, Any]:
    """By arm: both figures after each round and their gains over round 0 and over the round before; what the gate did.

    `beyond_spread` says that the smallest gain of a seed is above 0 and the mean gain above twice its deviation.
    """
    out: dict[str, Any] = {}
    for arm in arms:
        own: dict[str, Any] = {}
        for name in ("true_reward", "accuracy"):
            by = [[s[arm][i][name] for s in seeds] for i in range(ROUNDS + 1)]
            own[name] = {f"round {i}": spread(values) for i, values in enumerate(by)}
            for i in range(1, ROUNDS + 1):
                own[name][f"gain of round {i}"] = spread([b - a for a, b in zip(by[i - 1], by[i], strict=True)])
            gain = spread([b - a for a, b in zip(by[0], by[-1], strict=True)])
            beyond = min(gain["values"]) > 0 and gain["mean"] > 2 * (gain["sd"] or 0.0)
            own[name] |= {"gain": gain, "beyond_spread": beyond}
        rounds = [s[arm][i] for s in seeds for i in range(1, ROUNDS + 1)]
        own["refused_rounds"] = f"{sum(r['gate'] == 'rejected' for r in rounds)} of {len(rounds)}"
        for who in ("rm", "human", "edit"):
            shares = [r["winners_right"][who] for r in rounds if who in r["winners_right"]]
            if shares:
                own[f"winners_right_by_{who}"] = spread(shares) | {"rounds": len(shares)}
        out[arm] = own
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--out", type=Path, default=Path("runs/align_world"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")  # as in the quick start
    arms = tuple(args.arms)
    seeds = [one_seed(args.out.resolve() / str(seed), seed, arms) for seed in args.seeds]
    figures = summary(seeds, arms)
    for arm, own in figures.items():
        print(f"{arm}: {own['refused_rounds']} rounds refused by the gate")
        for name in ("true_reward", "accuracy"):
            steps = " → ".join(f"{own[name][f'round {i}']['mean']:.3f}" for i in range(ROUNDS + 1))
            gain = own[name]["gain"]
            values = "  ".join(f"{v:+.3f}" for v in gain["values"])
            print(f"  {name:12} {steps}   gain {gain['mean']:+.3f}   {values}")
        for who in ("rm", "human", "edit"):
            if (share := own.get(f"winners_right_by_{who}")) is not None:
                print(f"  winners by {who:6} right: {share['mean']:.3f}")
    if args.json:
        args.json.write_text(json.dumps({"summary": figures, "seeds": seeds}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
