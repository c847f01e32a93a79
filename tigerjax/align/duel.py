"""The models of a round on the held-out questions: what gate.json holds, and the answers themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tigerjax.align import gate as gate_lib
from tigerjax.align.answers import Answer, AnswerScore, Records, ScoreFunction, fields, finite, first_answers
from tigerjax.align.config import AlignConfig
from tigerjax.errors import DataError
from tigerjax.files import manifest
from tigerjax.files.jsonl import write_jsonl

ANSWERS = "answers.jsonl"


class HeldOutFunctions(Protocol):
    """What answers the held-out questions and judges the answers: a part of `rounds.RoundFunctions`."""

    @property
    def score(self) -> ScoreFunction: ...
    def answers(self, checkpoint: Path, /) -> Records: ...
    def accuracy(self, records: Records, /) -> Mapping[str, Any]: ...


class Judged(NamedTuple):
    """What the gate says, and what it was said of."""

    verdict: dict[str, Any]
    """{accepted, reasons, figures of both models and of the control, held_out}, the contents of gate.json"""
    answers: Records
    """{prompt_id?, messages, before, after}; each of these two is {text, score, parts?, below?}"""


def judge(
    config: AlignConfig, functions: HeldOutFunctions, current: Path, new: Path, control: Path | None = None
) -> Judged:
    """Compares the new model with the current one, and with the control where there is one.

    The control changes nothing in the verdict. Its win rate is that of the new model against it.

    Raises DataError where the held-out answers of the two models are not to the same prompts.
    """
    models = [current, new, *([control] if control is not None else [])]
    records = [functions.answers(model) for model in models]
    accuracies = [functions.accuracy(own) for own in records]
    answers = [first_answers(own) for own in records]
    asked = [[list(a.messages) for a in own] for own in answers]
    if any(own != asked[0] for own in asked):
        raise DataError("held-out answers of the two models are not to the same prompts in the same order")
    scores = [list(functions.score(own)) for own in answers]
    standing = gate_lib.standings(*scores)
    result = gate_lib.gate(
        gate_lib.figures_of(accuracies[0]),
        gate_lib.figures_of(accuracies[1]),
        wins=gate_lib.win_rate(standing[1], standing[0]),
        max_mean_loss_points=config.max_mean_loss_points,
        max_task_loss_points=config.max_task_loss_points,
        min_win_rate=config.min_win_rate,
    )
    figures = result.figures | {
        "reward_before": _mean(scores[0]),
        "reward_after": _mean(scores[1]),
        "accuracy_before": accuracies[0]["overall"],
        "accuracy_after": accuracies[1]["overall"],
    }
    if control is not None:
        figures["control"] = {
            "accuracy": accuracies[2]["overall"],
            "reward": _mean(scores[2]),
            "win_rate": gate_lib.win_rate(standing[1], standing[2]),
        }
    sides = dict(zip(("before", "after"), scores, strict=False))
    if any(score.below for own in sides.values() for score in own):
        figures["below_floor"] = {name: sum(bool(score.below) for score in own) for name, own in sides.items()}
    held_out = {
        name: [_held_out(score, answer) for score, answer in zip(own, texts, strict=True)]
        for name, own, texts in zip(("before", "after"), scores[:2], answers[:2], strict=True)
    }
    verdict = {"accepted": result.accepted, "reasons": result.reasons, "figures": figures, "held_out": held_out}
    before, after = (_with_scores(answers[n], scores[n]) for n in (0, 1))
    heads = [{key: r[key] for key in ("prompt_id", "messages") if key in r} for r in records[0]]
    return Judged(verdict, [h | {"before": b, "after": a} for h, b, a in zip(heads, before, after, strict=True)])


def _with_scores(answers: Sequence[Answer], scores: Sequence[AnswerScore]) -> Records:
    return [{"text": answer.text} | fields(score) for answer, score in zip(answers, scores, strict=True)]


def write(folder: Path, judged: Judged) -> None:
    """Writes gate.json and answers.jsonl."""
    manifest.write_json(folder / "gate.json", judged.verdict)
    write_jsonl(folder / ANSWERS, judged.answers)


def _held_out(score: AnswerScore, answer: Answer) -> list[Any]:
    """[score, number of characters] of an answer. Where it is below the floor of some parts, the names of these
    follow."""
    return [finite(score.total), len(answer.text), *([list(score.below)] if score.below else [])]


def _mean(scores: Sequence[AnswerScore]) -> float:
    return sum(score.total for score in scores) / len(scores)
