"""Rejection sampling on SmolLM2-135M-Instruct with prompts that a rule judges, for `real_model.py`.

Every arm starts from the model as it was published and sees the same prompts of one seed. What differs is the answers:

    sft             the model's own likeliest answers, for as many steps as both rounds together
    demonstrations  right answers that code wrote, for as many steps
    random          answers drawn at random from those that may win (the control of the first round)
    round1, round2  winners by a reward model, 5% of the prompts ranked and 1% edited by people, whom the rules play
    dpo             the first round's candidates: each prompt's best answer above its worst

The reward model learns from the model's own answers to other prompts, right ones above wrong ones. All prompts are
drawn in a round: of eighty, 5 to 10% would be too few to train on. A winner replaces the answer of its prompt.
"""

import dataclasses
import functools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import align_world
import real_model_config as sizes
from checkable import Checkable, by_id, split

from tigerjax.config import DpoConfig, RunConfig
from tigerjax.files.jsonl import read_jsonl, write_jsonl

SYSTEM = {"role": "system", "content": "Be brief."}
CHOICES = Path(__file__).resolve().parents[1] / "data" / "four_choices.jsonl"
EACH, RANKED_EACH, TEST_EACH, DEV_EACH = 8, 25, 24, 20
"""Prompts of each family: of a seed's rounds, of the rankings, of the test, of the gate (two families)."""
N, TEMPERATURE, NEW_TOKENS = 10, 0.8, 40
MOST_LOST = 10.0
OF_A_KIND = 2
"""Right and wrong answers of a prompt that the reward model sees: so many of each at the most."""
REWARD_STEPS, REWARD_ROWS, REWARD_LR = 16, 8, 5e-5
DPO_STEPS, DPO_ROW, DPO_LR = 10, 192, 1e-5
CONFIG = """from real_model_config import config as real_model


def config():
    return real_model({tokenizer!r}, {cache!r}, total_steps={steps})
"""


class Place:
    """The folders of one seed, and those that all seeds share."""

    def __init__(self, out: Path, seed: int, model: Path):
        self.shared, self.out, self.seed, self.tokenizer = (
            out / "work" / "shared",
            out / "work" / str(seed),
            seed,
            model,
        )
        self.start = self.shared / "start"

    def config(self, name: str, **optim: Any) -> RunConfig:
        run = sizes.config(str(self.tokenizer), str(self.out / "cache"), **optim)
        start = dataclasses.replace(run.checkpoint, init_from=str(self.start))
        return dataclasses.replace(run, name=name, seed=self.seed, checkpoint=start)


def messages(one: Checkable) -> list[dict[str, str]]:
    return [SYSTEM, {"role": "user", "content": one.prompt}]


def share(place: Place) -> None:
    """What is the same for every seed: the imported model, and rankings of its answers."""
    if not place.start.is_dir():
        align_world.command("convert", "from-hf", place.tokenizer, place.start)
    rankings = place.shared / "preferences.jsonl"
    if rankings.is_file():
        return
    asked = split("rankings", RANKED_EACH)
    found = []
    for one, record in zip(asked, draw(place, place.start, asked, n=N, temperature=TEMPERATURE, seed=0), strict=True):
        answers = {c["text"]: c["finish"] for c in record["candidates"] if not c["empty"]}
        by = {good: [t for t in answers if one.right(t) is good][:OF_A_KIND] for good in (True, False)}
        if all(by.values()):
            named = [(f"r{i}", text) for i, text in enumerate((*by[True], *by[False]))]
            ids = [name for name, _ in named]
            found.append(
                {
                    "prompt_id": one.prompt_id,
                    "messages": messages(one),
                    "lang": "en",
                    "task": one.family,
                    "responses": [{"id": name, "text": text, "finish": answers[text]} for name, text in named],
                    "ranking": [ids[: len(by[True])], ids[len(by[True]) :]],
                }
            )
    (place.shared / "dev").mkdir(parents=True, exist_ok=True)
    write_jsonl(place.shared / "dev" / "questions.jsonl", _dev())
    write_jsonl(rankings, found)


def _dev() -> list[dict[str, Any]]:
    """The questions of the gate, which judges by the words that an answer contains: those of the families of facts."""
    ends = {"capital": " is ", "sum": " = "}
    return [
        {
            "id": one.prompt_id,
            "lang": "en",
            "task": one.family,
            "prompt": one.prompt,
            "answers": [one.answer.rsplit(ends[one.family])[-1].removesuffix(".")],
        }
        for one in split("dev", DEV_EACH)
        if one.family in ends
    ]


def loaded(place: Place, model: Path) -> Any:
    from tigerjax.checkpoint.loaded import load
    from tigerjax.tokenizer.load import Tokenizer

    return load(model, Tokenizer(place.tokenizer), compute=sizes.COMPUTE)


def draw(place: Place, model: Path, asked: Sequence[Checkable], *, n: int, temperature: float, seed: int) -> list[Any]:
    """The sampler's record of each prompt, in order."""
    from tigerjax.sample.engine import Batching, SamplingConfig, generate

    prompts = [{"prompt_id": one.prompt_id, "messages": messages(one)} for one in asked]
    how = SamplingConfig(n=n, temperature=temperature, max_new_tokens=NEW_TOKENS, context=sizes.ROW, seed=seed)
    found = {
        r["prompt_id"]: r for r in generate(loaded(place, model), prompts, how, batching=Batching(prompts=16, rows=64))
    }
    return [found[one.prompt_id] for one in asked]


def write(place: Place) -> list[Checkable]:
    """The seed's prompts; writes its SFT set of the model's own likeliest answers, and that of right answers."""
    asked = split("train", EACH, start=EACH * place.seed)
    if not (place.out / "demonstrations.jsonl").is_file():
        own = [r["candidates"][0]["text"] for r in draw(place, place.start, asked, n=1, temperature=0.0, seed=0)]
        for name, texts in (("sft", own), ("demonstrations", [one.answer for one in asked])):
            place.out.mkdir(parents=True, exist_ok=True)
            write_jsonl(
                place.out / f"{name}.jsonl", [_example(one, text) for one, text in zip(asked, texts, strict=True)]
            )
    return asked


def _example(one: Checkable, text: str) -> dict[str, Any]:
    turns = [*messages(one), {"role": "assistant", "content": text.strip() or "."}]
    return {"id": one.prompt_id, "task": one.family, "lang": "en", "messages": turns, "source": "real_model"}


def reward(place: Place) -> dict[str, Any]:
    """Trains the seed's reward model; its figures."""
    from tigerjax.align import reward as rewards
    from tigerjax.align import reward_data
    from tigerjax.align.config import RewardConfig
    from tigerjax.quickstart.training import once
    from tigerjax.tokenizer.load import Tokenizer

    share(place)
    write(place)
    data, folder = place.shared / "preferences.jsonl", place.out / "reward"
    run = place.config("reward", peak_lr=REWARD_LR, total_steps=REWARD_STEPS)
    run = dataclasses.replace(run, global_batch_size=REWARD_ROWS)

    def train() -> dict[str, Any]:
        reference = [record for _, record in read_jsonl(place.out / "sft.jsonl")]
        return rewards.train(
            run,
            RewardConfig(eval_fraction=0.15),
            data=reward_data.RewardData([data], reference),
            tokenizer=Tokenizer(place.tokenizer),
            init=place.start,
            run_dir=folder,
            force=True,  # a weak one is what this study may find
        ).figures

    figures = once(run, folder, train, inputs=[data])
    return {
        "accuracy": figures["accuracy"],
        "length_rho": figures["length_rho"],
        "prompts": sum(1 for _ in read_jsonl(data)),
    }


def sft(place: Place, name: str) -> dict[str, Any]:
    """Trains on the seed's file NAME.jsonl, for as many steps as both rounds together."""
    from tigerjax.data import mixture
    from tigerjax.quickstart.training import once
    from tigerjax.train.loop import train_on_mixture

    share(place)
    write(place)
    examples = place.out / f"{name}.jsonl"
    run = place.config(name, total_steps=2 * sizes.STEPS)
    data = dataclasses.replace(run.data, mixture=f"real_model_{name}")
    run = dataclasses.replace(run, data=data)

    def train() -> dict[str, Any]:
        mixture.sft(data.mixture, tokenizer=data.tokenizer, examples=mixture.Source(examples))
        train_on_mixture(run, run_dir=place.out / name)
        return {}

    once(run, place.out / name, train, inputs=[examples])
    return test(place, place.out / name)


def rounds(place: Place, index: int) -> dict[str, Any]:
    """The round of that number through `tigerjax align`: what its model answers, and who chose how well."""
    from tigerjax.align import stand_in

    home = place.out / "align"
    if not (home / "align.json").is_file():
        place.out.mkdir(parents=True, exist_ok=True)
        source = place.out / "align_config.py"
        given = {"tokenizer": str(place.tokenizer), "cache": str(place.out / "cache"), "steps": sizes.STEPS}
        source.write_text(CONFIG.format(**given), encoding="utf-8")
        words = ["align", "init", source, "--out", home, "--sft", place.out / "sft.jsonl", "--models", place.start]
        words += [
            "--reward",
            place.out / "reward" / "model",
            "--evaluation-set",
            place.shared / "dev" / "questions.jsonl",
        ]
        words += ["--n", N, "--temperature", TEMPERATURE, "--max-new-tokens", NEW_TOKENS, "--score-batch-size", 32]
        words += ["--align.seed", place.seed, "--seed", place.seed, "--align.on-conflict", "replace", "--align.control"]
        words += ["--align.max-task-loss-points", MOST_LOST]  # of twenty questions, two
        words += ["--align.prompt-fraction", 1.0, "--align.allow-fraction", "--align.exclude-rounds", 0]
        align_world.command(*words)
    elif index > 1:
        align_world.command("align", "set", home, "--align.no-control")
    run = ("align", "run", home, "--rounds", index, "--json", home / "run.json")
    if align_world.command(*run, accept=(0, 4, 5)) == 4:  # waits for people
        queue, labels, key = home / "rounds" / f"{index:02d}" / "queue", home / "labels.jsonl", home / "key.jsonl"
        write_jsonl(key, (_key(item["prompt_id"]) for _, item in read_jsonl(queue / "queue.jsonl")))
        stand_in.answer(queue, key, labels, right=lambda truth, text: by_id(truth["prompt_id"]).right(text))
        align_world.command("align", "import", home, "--labels", labels)
        align_world.command(*run, accept=(0, 5))
    own = json.loads((home / "run.json").read_text(encoding="utf-8"))["rounds"][-1]
    kept = {name: own[name] for name in ("gate", "reasons", "win_rate", "reward_before", "reward_after")}
    return kept | chosen(home / "rounds" / f"{index:02d}") | test(place, model_of(place, index))


def _key(prompt_id: str) -> dict[str, Any]:
    """What the stand-in for people knows of a prompt."""
    answer = by_id(prompt_id).answer
    return {"prompt_id": prompt_id, "annotator": "rules", "accept": [answer], "edit": answer}


def model_of(place: Place, index: int) -> Path:
    return place.out / "align" / "rounds" / f"{index:02d}" / "train" / "run"


def chosen(folder: Path) -> dict[str, Any]:
    """Of a round: shares of right ones among the candidates and the winners, by who chose, and of prompts with any."""
    drawn = [record for _, record in read_jsonl(folder / "sample" / "candidates.jsonl")]
    rights = [[by_id(r["prompt_id"]).right(c["text"]) for c in r["candidates"]] for r in drawn]
    by: dict[str, list[bool]] = {}
    for _, e in read_jsonl(folder / "mix" / "winners.jsonl"):
        by.setdefault(e["provenance"], []).append(by_id(e["prompt_id"]).right(e["messages"][-1]["content"]))
    return {
        "candidates_right": statistics.mean(sum(own) / len(own) for own in rights),
        "prompts_with_a_right_one": statistics.mean(any(own) for own in rights),
        "winners": {who: len(own) for who, own in sorted(by.items())},
        "winners_right": {who: statistics.mean(own) for who, own in sorted(by.items())},
    }


def control(place: Place) -> dict[str, Any]:
    """What the first round's control answers."""
    return test(place, place.out / "align" / "rounds" / "01" / "gate" / "control")


def dpo(place: Place) -> dict[str, Any]:
    """Trains on the first round's pairs."""
    from tigerjax.quickstart.training import once

    pairs = place.out / "align" / "rounds" / "01" / "rank" / "pairs.jsonl"
    run = place.config("dpo", peak_lr=DPO_LR, total_steps=DPO_STEPS)
    data = dataclasses.replace(run.data, mixture="preferences", seq_len=DPO_ROW)
    run = dataclasses.replace(run, data=data, objective=DpoConfig(preferences=(str(pairs),), beta=0.1))

    def train() -> dict[str, Any]:
        from tigerjax.align.preference import train

        train(run, run_dir=place.out / "dpo")
        return {}

    once(run, place.out / "dpo", train, inputs=[pairs])
    return test(place, place.out / "dpo") | {"pairs": sum(1 for _ in read_jsonl(pairs))}


def start(place: Place) -> dict[str, Any]:
    """What the model answers as it was published."""
    share(place)
    return test(place, place.start)


def test(place: Place, model: Path) -> dict[str, Any]:
    """Shares of rules kept by greedy answers to the test prompts, and of right choices in four_choices.jsonl."""
    asked = split("test", TEST_EACH)
    texts = [r["candidates"][0]["text"] for r in draw(place, model, asked, n=1, temperature=0.0, seed=0)]
    by: dict[str, list[bool]] = {}
    for one, text in zip(asked, texts, strict=True):
        by.setdefault(one.family, []).append(one.right(text))
    right = [good for own in by.values() for good in own]
    return {
        "accuracy": statistics.mean(right),
        "n": len(right),
        "by_family": {name: statistics.mean(own) for name, own in by.items()},
        "words": statistics.mean(len(text.split()) for text in texts),
        "choices": choices(loaded(place, model)),
        "answers": {one.prompt: text for one, text in list(zip(asked, texts, strict=True))[:10]},
    }


def choices(model: Any) -> float:
    """Share of the questions with four choices whose right one is the likeliest per character."""
    from tigerjax.evaluate.branches import Tokens
    from tigerjax.evaluate.loglikelihood import LogLikelihoods

    rows = [json.loads(line) for line in CHOICES.read_text(encoding="utf-8").splitlines()]
    tok, given = model.tokenizer, []
    for row in rows:
        head = tok.encode(f"Question: {row['question']}\nAnswer:")
        given += [Tokens((*head, *tok.encode(f" {text}")), len(head)) for text in row["choices"]]
    scores = dict(LogLikelihoods(model, context=sizes.ROW).score(given))
    right = 0
    for i, row in enumerate(rows):
        each = [scores[4 * i + k].logprob / len(text) for k, text in enumerate(row["choices"])]
        right += each.index(max(each)) == row["answer"]
    return right / len(rows)


ARMS = {
    "start": start,
    "reward": reward,
    "sft": functools.partial(sft, name="sft"),
    "round1": functools.partial(rounds, index=1),
    "random": control,
    "round2": functools.partial(rounds, index=2),
    "dpo": dpo,
    "demonstrations": functools.partial(sft, name="demonstrations"),
}
NEEDS = {"round1": ("reward",), "random": ("round1",), "round2": ("round1",), "dpo": ("round1",)}
