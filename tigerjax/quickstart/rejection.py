"""The quick start's alignment: a reward model from preferences, then one round of rejection sampling with its gate.

The shares are TigerBot's: 10% of the prompts, with 10 answers each. People rank 5% of them and edit 1%; here
tigerjax.align.stand_in does that in their place. The reward model ranks the rest. The weight of a winner is our choice:
it is high because winners are few beside the full SFT set.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax.align.config import AlignConfig, RewardConfig
from tigerjax.files import manifest
from tigerjax.quickstart import training
from tigerjax.quickstart.answers import ANSWER_TOKENS, answers
from tigerjax.quickstart.state import DEV, EXERCISES, Quickstart, read

REWARD = RewardConfig(eval_fraction=0.2, centering=0.01, truncation_penalty=2.0, score_batch_size=64)
ALIGN = AlignConfig(
    prompt_fraction=0.10,
    seed=0,
    min_score=-1.0,
    rm_weight=40.0,
    human_weight=40.0,
    edit_weight=40.0,
    max_mean_loss_points=3.0,  # of the 64 dev questions of a language one is 1.6 points
)
CANDIDATES = 10
OWN_EVERY, OWN_ANSWERS = 3, 4
"""The reward model learns from rankings of OWN_ANSWERS answers of the SFT model to one in OWN_EVERY of the prompts. A
fact is asked in eight wordings one after another, so that one in 3 meets all of them."""


def train_reward(quick: Quickstart) -> dict[str, Any]:
    """Trains OUT/reward from the SFT model on rankings; returns its figures, held-out accuracy too."""
    from tigerjax.align import reward, reward_data
    from tigerjax.tokenizer.load import Tokenizer

    config, run_dir = quick.config("reward"), quick.out / "reward"
    inputs = [rank_own_answers(quick), quick.out / "sft" / manifest.FILE]

    def run() -> dict[str, Any]:
        return reward.train(
            config,
            REWARD,
            data=reward_data.RewardData(inputs[:1], read(quick.out / "instructions" / "sft.jsonl")[::8]),
            tokenizer=Tokenizer(config.data.tokenizer),
            init=quick.out / "sft",
            run_dir=run_dir,
        ).figures

    figures = training.once(config, run_dir, run, inputs=inputs, settings=dataclasses.asdict(REWARD))
    quick.report["curves"]["reward"] = training.curve(run_dir)
    quick.report["reward_model"] = figures
    return figures


def rank_own_answers(quick: Quickstart) -> Path:
    """Rankings of answers of the SFT model by the shipped key, in place of people: right, then evasive, then wrong."""
    from tigerjax.evaluate import questions
    from tigerjax.files.jsonl import write_jsonl

    key, folder = EXERCISES / "labels.jsonl", quick.out / "own_answers"
    examples = quick.out / "instructions" / "sft.jsonl"
    settings = {"every": OWN_EVERY, "answers": OWN_ANSWERS, "seed": quick.seed}
    with manifest.stage(
        folder, name="rank own answers", config=settings, inputs=[key, examples, quick.out / "sft" / manifest.FILE]
    ) as run:
        if run.done:
            return folder / "preferences.jsonl"
        asked = {question.id: question for question in questions.load(key)}
        drawn = read(examples)[quick.seed % OWN_EVERY :: OWN_EVERY]
        prompts = [{"prompt_id": e["id"], "messages": e["messages"][:-1]} for e in drawn]
        rankings = []
        for record in sample(quick, prompts, run.tmp / "sample", n=OWN_ANSWERS, round=0):
            question = asked[record["prompt_id"]]
            texts = list(dict.fromkeys(c["text"] for c in record["candidates"] if c["finish"] == "stop"))
            tiers: dict[float, list[str]] = {}
            for place, text in enumerate(texts):
                tiers.setdefault(questions.true_reward(question, text), []).append(f"r{place}")
            if len(tiers) > 1:
                rankings.append(
                    {name: record[name] for name in ("prompt_id", "messages")}
                    | {"lang": question.lang, "task": question.task}
                    | {"responses": [{"id": f"r{place}", "text": text} for place, text in enumerate(texts)]}
                    | {"ranking": [tiers[reward] for reward in sorted(tiers, reverse=True)]}
                )
        write_jsonl(run.tmp / "preferences.jsonl", rankings)
    return folder / "preferences.jsonl"


def run_round(quick: Quickstart) -> Path:
    """Runs rounds/01 and returns the folder of the model that it trained, whether the gate accepted it or not."""
    from tigerjax.align import rounds
    from tigerjax.align.answers import totals
    from tigerjax.align.reward import Scorer
    from tigerjax.checkpoint.loaded import load
    from tigerjax.evaluate import questions
    from tigerjax.tokenizer.chat import encode_chat
    from tigerjax.tokenizer.load import Tokenizer

    config = quick.config("rejection_sampled")
    tokenizer = Tokenizer(config.data.tokenizer)
    align = dataclasses.replace(ALIGN, seed=quick.seed)
    reward_model = quick.out / "reward" / "model"
    longest = quick.config("reward").data.seq_len
    scorer = Scorer(
        load(reward_model, tokenizer, compute=config.compute, reward=True),
        seq_len=longest,
        rows=REWARD.score_batch_size,
    )

    def train(sft: Path, place: Path) -> None:
        # Not read from `sft` where it is: the mixture was registered for a fixed file below OUT.
        mixed = quick.out / "mixed" / "sft.jsonl"
        mixed.parent.mkdir(exist_ok=True)
        mixed.write_bytes(sft.read_bytes())
        training.train_once(config, place, inputs=[mixed])

    functions = rounds.RoundFunctions(
        sample=lambda prompts, place: sample(quick, prompts, place),
        score=lambda given: totals(scorer(given)),
        labels=lambda queue: stand_in_labels(quick, queue),
        train=train,
        answers=lambda model: answers(quick, model, chat=True, asked=DEV),
        accuracy=lambda records: questions.accuracy(questions.load(DEV), questions.first_texts(records)),
        count_tokens=lambda messages: len(encode_chat(tokenizer, messages)[0]),
        max_tokens=config.data.seq_len,
        settings={"sample": CANDIDATES, "train": quick.signature("rejection_sampled")},
    )
    inputs = rounds.RoundInputs(
        sft=[quick.out / "instructions" / "sft.jsonl"], current=quick.out / "sft", reward=[reward_model]
    )
    result = rounds.run_round(quick.out / "rounds", 1, align, functions, inputs)
    counts = result.figures["counts"]
    quick.report["round"] = {
        "prompts": counts["prompts"]["out"],
        "candidates": counts["sample"]["out"] * CANDIDATES,
        "winners": result.figures["winners"],
        "rm_pair_accuracy": quick.report["reward_model"]["accuracy"],
        "gate": result.figures["gate"],
        "win_rate": result.figures.get("win_rate"),
        "note": result.figures.get("note", ""),
        "reward_before": result.figures["reward_before"],
        "reward_after": result.figures["reward_after"],
    }
    return result.folder / "train" / "run"


def sample(
    quick: Quickstart, prompts: Sequence[dict[str, Any]], place: Path, *, n: int = CANDIDATES, round: int = 1
) -> list[dict[str, Any]]:
    """`n` answers to each prompt from the SFT model. A folder that was interrupted is continued."""
    from tigerjax.checkpoint.loaded import load_for
    from tigerjax.sample.engine import Batching, SamplingConfig
    from tigerjax.sample.folder import sample_prompts

    config = quick.config("rejection_sampled")
    sampling = SamplingConfig(
        n=n, max_new_tokens=ANSWER_TOKENS, context=config.data.seq_len, seed=quick.seed, round=round
    )
    model = load_for(config, quick.out / "sft")
    sample_prompts(model, prompts, place, sampling, batching=Batching(prompts=32, rows=32 * n))
    return [record for record in read(place / "candidates.jsonl") if "skipped" not in record]


def stand_in_labels(quick: Quickstart, queue: Path) -> list[Path]:
    """Labels for the queue of this run, taken from the shipped answer key."""
    from tigerjax.align import stand_in
    from tigerjax.evaluate import questions

    out = quick.out / "labels.jsonl"
    key = EXERCISES / "labels.jsonl"
    asked = {question.id: question for question in questions.load(key)}
    stand_in.answer(queue, key, out, right=lambda line, text: questions.judge(asked[line["prompt_id"]], text))
    return [out]
