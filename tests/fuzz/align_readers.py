"""Readers of an alignment: preferences, questions, labels, and what the steps of a round leave for each other."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from ending import run
from model_readers import Scored, made_up, models, words_of_config
from reader import Reader
from text_readers import SFT, lines

from tigerjax.files import manifest

CHAT = [{"role": "user", "content": "Name a colour of the sky."}]
GOOD, BAD = {"role": "assistant", "content": "Blue."}, {"role": "assistant", "content": "Seven."}
PREFERENCES = [
    {"prompt": "Name a colour of the sky.", "chosen": "Blue.", "rejected": "Seven.", "margin": 1, "strength": 0.5},
    {"chosen": [*CHAT, GOOD], "rejected": [*CHAT, BAD]},
    {"messages": CHAT, "chosen": "Blue.", "rejected": "Seven."},
    {"input": {"messages": CHAT}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
    {
        "conversations": [{"from": "human", "value": "A?"}],
        "chosen": {"from": "gpt", "value": "B."},
        "rejected": {"from": "gpt", "value": "C."},
    },
    {"chosen": "\n\nHuman: A?\n\nAssistant: B.", "rejected": "\n\nHuman: A?\n\nAssistant: C."},
    {"instruction": "A?", "input": "", "output": ["B.", "C."], "history": [["D?", "E."]], "system": "F"},
    {"prompt_id": "p1", "messages": CHAT, "responses": [{"id": "a", "text": "Blue."}, {"id": "b", "text": "Seven."}]}
    | {"ranking": [["a"], ["b"]]},
    {
        "instruction": "A?",
        "completions": [{"response": "B.", "overall_score": 9}, {"response": "C.", "overall_score": 2}],
    },
]
QUESTIONS = [
    {"id": "q1", "lang": "en", "task": "say", "prompt": "Say no", "answers": ["no"]},
    {"id": "q2", "lang": "zh", "task": "sum", "prompt": "12 加 5？", "answers": ["17", "十七"]},
]


class Found:
    sha256 = "m"


def sample_to(self: Any, place: Path, path: Path, prompts: Any, sampling: Any) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "candidates.jsonl").write_bytes(lines(made_up(prompt, sampling.n) for prompt in prompts))


@contextlib.contextmanager
def round_of_stand_ins() -> Iterator[None]:
    """A project whose models are made up; all else is real."""
    project = "tigerjax.align.project.Project"
    with (
        mock.patch(f"{project}._sample_to", sample_to),
        mock.patch(f"{project}._scorer", lambda self, path: Scored()),
        mock.patch(f"{project}._model", lambda self, path: Found),
    ):
        yield


def inputs(folder: Path) -> None:
    models(folder)
    (folder / "in").mkdir()
    examples = [{**SFT[n % 3], "id": f"e{n}", "task": "t"} for n in range(6)]
    for name, records in {"sft": examples, "questions": QUESTIONS, "gold": PREFERENCES}.items():
        (folder / "in" / f"{name}.jsonl").write_bytes(lines(records))
    (folder / "in/answers.json").write_text(json.dumps({"en": {"say": ["no", "yes"]}, "zh": {"sum": ["9,500元"]}}))
    (folder / "in/safety.txt").write_text("badword\n不良\n")
    (folder / "in/exclude.txt").write_text("e5\n")


def init(folder: Path) -> list[object]:
    words = ["align", "init", *words_of_config(folder), "--out", folder / "project", "--sft", folder / "in/sft.jsonl"]
    words += ["--models", folder / "chat", "--reward", folder / "reward", "--gold", folder / "in/gold.jsonl"]
    words += [
        "--evaluation-set",
        folder / "in/questions.jsonl",
        "--n",
        3,
        "--max-new-tokens",
        8,
        "--safety",
        folder / "in/safety.txt",
    ]
    words += ["--align.prompt-fraction", 0.8, "--align.rank-fraction", 0.8, "--align.edit-fraction", 0.4]
    return [*words, "--align.allow-fraction", "--align.allow-partial", "--exclude", folder / "in/exclude.txt"]


REWARDS = """[helpful]
reward = "../reward"

[style]
weight = 0.2
floor = 1
[style.judge]
url = "http://127.0.0.1:9/v1"
model = "judge"
template = "judge.md"
lowest = 1
highest = 10
body = {temperature = 0}
"""


def file_of_rewards(folder: Path) -> None:
    inputs(folder)
    (folder / "in/reward.toml").write_text(REWARDS)
    (folder / "in/judge.md").write_text("{{conversation}}\n{{answer}}\n评分：N")


def init_with_file(folder: Path) -> list[object]:
    return [folder / "in/reward.toml" if word == folder / "reward" else word for word in init(folder)]


def step(name: str, *more: str) -> Any:
    return lambda folder: ["align", name, folder / "project", *(folder / m if m[0] != "-" else m for m in more)]


def project(until: str) -> Any:
    """A `make` of a project after a step, with labels that fit it in labels.jsonl and labels.json."""

    def make(folder: Path) -> None:
        inputs(folder)
        for words in (init(folder), *(step(name)(folder) for name in ("prompts", "sample", "score", "queue"))):
            assert (ended := run([str(word) for word in words])).code == 0, ended
        queue = folder / "project/rounds/01/queue"
        asked = [json.loads(line) for line in (queue / "queue.jsonl").read_text(encoding="utf-8").splitlines()]
        (folder / "labels.jsonl").write_bytes(lines(labels(asked)))
        tasks = json.loads((queue / "label_studio.json").read_text(encoding="utf-8"))
        for number, task in enumerate(tasks):
            task |= {"id": number, "annotations": [annotated(number)]}
        (folder / "labels.json").write_text(json.dumps(tasks))
        for name in ("import", "rank", "mix")[: ("queue", "labels", "rank", "gate").index(until)]:
            words = step("import", "--labels", "labels.jsonl") if name == "import" else step(name)
            assert (ended := run([str(word) for word in words(folder)])).code == 0, ended
        if until == "gate":
            judged(folder / "project/rounds/01/gate")

    return make


def judged(gate: Path) -> None:
    """gate/ as a round leaves it whose new model was accepted; no model is trained here."""
    gate.mkdir()
    figures = {"win_rate": 0.75, "reward_before": 0.1, "reward_after": 0.4, "accuracy_before": 0.5}
    answers = {"before": [[0.0, 5], [0.2, 7]], "after": [[0.5, 6], [0.3, 4]]}
    made = {"accepted": True, "reasons": [], "figures": figures | {"accuracy_after": 0.5}, "held_out": answers}
    manifest.write_json(gate / "gate.json", made)
    said = {"before": {"text": "No.", "score": 0.0}, "after": {"text": "no", "score": 0.5}}
    (gate / "answers.jsonl").write_bytes(lines([{"prompt_id": "q1", "messages": CHAT, **said}]))
    outputs = manifest.described(gate, ["answers.jsonl", "gate.json"])
    manifest.write(gate, {"stage": "align gate", "outputs": outputs})


def labels(asked: list[Any]) -> Iterator[dict[str, Any]]:
    for item in asked:
        line = {"prompt_id": item["prompt_id"], "batch_sha256": item["batch_sha256"], "annotator": "ann"}
        yield {**line, "ranking": [["C"], ["A"]], "reject": ["B"], "axes": {"safety": 5}, "note": "clear"}
        if item["edit"]:
            yield {**line, "base": "A", "text": "A better answer.", "reason": "shorter"}
    # Of a conversation that no queue has asked about.
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
    candidates = [{"label": name, "text": f"I am {name}.", "finish": "stop"} for name in "AB"]
    talk = {"prompt_id": "chat-1", "annotator": "ann", "messages": messages, "candidates": candidates}
    yield {**talk, "model_sha": "5" * 64, "ranking": [["B"], ["A"]]}
    yield {**talk, "base": "A", "text": "I am neither."}


def annotated(number: int) -> dict[str, Any]:
    ranking = {
        "from_name": "ranking",
        "to_name": "answers",
        "type": "ranker",
        "value": {"ranker": {"best": ["C", "A"]}},
    }
    said = [ranking, {"from_name": "note", "to_name": "answers", "type": "textarea", "value": {"text": ["clear"]}}]
    return {
        "id": number,
        "completed_by": 1,
        "was_cancelled": False,
        "result": said,
        "created_at": "2026-01-01T00:00:00Z",
    }


STATE = {
    "files": ("project/align.json", "project/rounds/**/*", "project/labels/**/*"),
    "json": ("project/align.json", "project/rounds/**/*.json*", "project/labels/**/*"),
    "may_change": ("project/**/*", "project/*", "project/*/*/*", "project/*/*/*/*"),
    "around": round_of_stand_ins,
}
READERS: dict[str, Reader] = {
    "align init": Reader(make=inputs, words=init, files=("in/*",), json=("in/*.json*",)),
    "align models": Reader(
        make=inputs,
        words=init,
        files=("chat/meta.json", "reward/meta.json", "tok/*"),
        json=("*/meta.json", "tok/*.json"),
    ),
    "rewards": Reader(make=file_of_rewards, words=init_with_file, files=("in/reward.toml", "in/judge.md"), no_end=True),
    "preferences": Reader(
        make=inputs,
        words=lambda f: [
            "reward",
            "train",
            *words_of_config(f),
            "--preferences",
            f / "in/gold.jsonl",
            "--init",
            f / "reward",
            "--calibration-set",
            f / "in/sft.jsonl",
            "--out",
            f / "out",
        ],
        files=("in/gold.jsonl", "in/sft.jsonl"),
        json=("in/gold.jsonl", "in/sft.jsonl"),
        good=2,
    ),
    "labels": Reader(
        make=project("queue"),
        words=step("import", "--labels", "labels.jsonl"),
        files=("labels.jsonl",),
        json=("labels.jsonl",),
        around=round_of_stand_ins,
    ),
    "label studio": Reader(
        make=project("queue"),
        words=step("import", "--labels", "labels.json"),
        files=("labels.json",),
        json=("labels.json",),
        around=round_of_stand_ins,
        good=3,
    ),
    "align status": Reader(make=project("labels"), words=step("status"), **STATE, codes=(4, 5)),
    "align queue": Reader(make=project("queue"), words=step("queue"), **STATE, codes=(4, 5)),
    "align import": Reader(make=project("labels"), words=step("import"), **STATE, codes=(4, 5)),
    "align rank": Reader(make=project("labels"), words=step("rank"), **STATE, codes=(4, 5)),
    "align mix": Reader(make=project("rank"), words=step("mix"), **STATE, codes=(4, 5)),
    "align report": Reader(make=project("gate"), words=lambda f: ["report", f / "project"], **STATE),
}
