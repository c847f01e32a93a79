"""The quick start's alignment: a reward model from preferences, then one round of rejection sampling with its gate.

The shares are TigerBot's: 10% of the prompts, 10 answers each, 5% ranked and 1% edited by people (here the stand-in of
tigerjax.align.stand_in), the rest ranked by the reward model. The weight of a winner is our choice: winners are few
beside the full SFT set.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigerjax.align.config import AlignConfig, RewardConfig
from tigerjax.files import manifest

if TYPE_CHECKING:
    from tigerjax.quickstart.run import Work

REWARD = RewardConfig(eval_fraction=0.2, centering=0.01, truncation_penalty=2.0, score_rows=64)
ALIGN = AlignConfig(prompt_fraction=0.10, seed=0, min_score=0.5, rm_weight=20.0, human_weight=20.0, edit_weight=20.0)
CANDIDATES = 10


def train_reward(work: "Work") -> dict[str, Any]:
    """Trains OUT/reward from the SFT model on the shipped preferences; returns its figures, held-out accuracy too."""
    from tigerjax.align import reward
    from tigerjax.quickstart import training
    from tigerjax.quickstart.run import EMBEDDED, read
    from tigerjax.tokenizer.load import Tokenizer

    config, run_dir = work.config("reward"), work.out / "reward"
    inputs = [EMBEDDED / "preferences.jsonl", work.out / "sft" / manifest.FILE]

    def run() -> dict[str, Any]:
        return reward.train(
            config,
            REWARD,
            preferences=inputs[:1],
            reference=read(work.out / "instructions" / "sft.jsonl")[::8],
            tokenizer=Tokenizer(config.data.tokenizer),
            init=work.out / "sft",
            run_dir=run_dir,
        ).figures

    figures = training.once(config, run_dir, run, inputs=inputs, settings=dataclasses.asdict(REWARD))
    work.report["curves"]["reward"] = training.curve(run_dir)
    work.report["reward_model"] = figures
    return figures


def run_round(work: "Work") -> Path:
    """Runs rounds/01 and returns the folder of the model that it trained, whether the gate accepted it or not."""
    from tigerjax.align import rounds
    from tigerjax.align.reward import Scorer
    from tigerjax.checkpoint.loaded import load
    from tigerjax.quickstart import run, training
    from tigerjax.tokenizer.chat import encode_chat
    from tigerjax.tokenizer.load import Tokenizer

    config = work.config("rejection_sampled")
    tokenizer = Tokenizer(config.data.tokenizer)
    align = dataclasses.replace(ALIGN, seed=work.seed)
    reward_model = work.out / "reward" / "model"
    longest = work.config("reward").data.seq_len
    judge = load(reward_model, tokenizer, compute=config.compute, reward=True)
    scorer = Scorer(judge, seq_len=longest, rows=REWARD.score_rows)

    def train(sft: Path, place: Path) -> None:
        # The mixture reads a fixed place below OUT; the round's own folder is still being written.
        mixed = work.out / "mixed" / "sft.jsonl"
        mixed.parent.mkdir(exist_ok=True)
        mixed.write_bytes(sft.read_bytes())
        training.train_once(config, place, inputs=[mixed])

    result = rounds.run_round(
        work.out / "rounds",
        1,
        align,
        rounds.Work(
            sample=lambda prompts, place: sample(work, prompts, place),
            score=scorer,
            labels=lambda queue: stand_in_labels(work, queue),
            train=train,
            evaluate=lambda model: run.accuracy(work, model, chat=True, asked=run.DEV),
            held_out=lambda model: held_out(work, model),
            count_tokens=lambda messages: len(encode_chat(tokenizer, messages)[0]),
            max_tokens=config.data.seq_len,
            settings={"sample": CANDIDATES, "train": work.signature("rejection_sampled")},
        ),
        sft=work.out / "instructions" / "sft.jsonl",
        current=work.out / "sft",
        reward_model=reward_model,
    )
    counts = result.figures["counts"]
    work.report["round"] = {
        "prompts": counts["prompts"]["out"],
        "candidates": counts["sample"]["out"] * CANDIDATES,
        "winners": result.figures["winners"],
        "rm_pair_accuracy": work.report["reward_model"]["accuracy"],
        "gate": result.figures["gate"],
        "win_rate": result.figures.get("win_rate"),
        "reward_before": result.figures["reward_before"],
        "reward_after": result.figures["reward_after"],
    }
    return result.folder / "train" / "run"


def sample(work: "Work", prompts: Sequence[dict[str, Any]], place: Path) -> list[dict[str, Any]]:
    """Ten answers a prompt from the SFT model; an interrupted folder is continued."""
    from tigerjax.checkpoint.loaded import load_for
    from tigerjax.quickstart.run import ANSWER_TOKENS, read
    from tigerjax.sample.engine import Batching, SamplingConfig
    from tigerjax.sample.folder import sample_prompts

    config = work.config("rejection_sampled")
    sampling = SamplingConfig(
        n=CANDIDATES, max_new_tokens=ANSWER_TOKENS, context=config.data.seq_len, seed=work.seed, round=1
    )
    model = load_for(config, work.out / "sft")
    sample_prompts(model, prompts, place, sampling, batching=Batching(prompts=32, rows=320))
    return [record for record in read(place / "candidates.jsonl") if "skipped" not in record]


def stand_in_labels(work: "Work", queue: Path) -> list[Path]:
    """The label file for this run's queue, from the shipped answer key."""
    from tigerjax.align import stand_in
    from tigerjax.quickstart.run import EMBEDDED

    out = work.out / "labels.jsonl"
    stand_in.answer(queue, EMBEDDED / "labels.jsonl", out)
    return [out]


def held_out(work: "Work", model: Path) -> list[tuple[list[dict[str, str]], str, str]]:
    """(messages, greedy answer, finish) of a model on the dev questions, for the win rate."""
    from tigerjax.quickstart.run import DEV, answers

    return [
        (record["messages"], record["candidates"][0]["text"], record["candidates"][0]["finish"])
        for record in answers(work, model, chat=True, asked=DEV)
    ]
