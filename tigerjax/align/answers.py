"""Answers in the form in which the reward model takes them, and sampler records with the scores it gave."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Records = list[dict[str, Any]]


class Answer(NamedTuple):
    """An answer to score, with the conversation that it ends."""

    messages: Sequence[Mapping[str, str]]
    """The conversation before the answer; its last message is the user's."""
    text: str
    finish: str
    """Why the answer ended: "stop" (the model ended it), "length" or "marker"."""


class Existing(Answer):
    """An existing answer, such as that of an SFT example. It is scored whole or not at all: a score of its beginning
    would say that it is worse than it is."""


ScoreFunction = Callable[[Sequence[Answer]], Sequence[float]]


def first_answers(records: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """The first candidate of each sampler record, in their order: the only one where sampling was greedy."""
    return [Answer(r["messages"], r["candidates"][0]["text"], r["candidates"][0]["finish"]) for r in records]


def score_records(records: Sequence[Mapping[str, Any]], score: ScoreFunction) -> tuple[Records, dict[str, int]]:
    """(sampler records with scores, how many were dropped by reason).

    Every candidate gets a `score`, which is None when it is not finite. A record with a `reference` (the existing
    answer) gets a `reference_score`, which is None when the answer is too long for the model to read. A prompt is
    dropped when none of its candidates has a finite score.
    """
    answers: list[Answer] = []
    for record in records:
        answers += [Answer(record["messages"], c["text"], c["finish"]) for c in record["candidates"]]
        if record.get("reference") is not None:
            answers.append(Existing(record["messages"], record["reference"], "stop"))
    scores: Iterator[float] = iter(score(answers))
    out: Records = []
    for record in records:
        candidates = [dict(c) | {"score": finite(next(scores))} for c in record["candidates"]]
        scored = {**record, "candidates": candidates}
        if record.get("reference") is not None:
            scored["reference_score"] = finite(next(scores))
        if any(c["score"] is not None for c in candidates):
            out.append(scored)
    dropped = len(records) - len(out)
    return out, {"no_valid_candidate": dropped} if dropped else {}


def finite(score: float) -> float | None:
    """The score as a float; None for NaN and the infinities, which JSON cannot hold."""
    score = float(score)
    return score if score - score == 0.0 else None
