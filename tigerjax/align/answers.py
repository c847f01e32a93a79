"""Answers in the form in which the reward model takes them, and sampler records with the scores it gave."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Records = list[dict[str, Any]]


NOTHING: Mapping[str, Any] = {}


class Answer(NamedTuple):
    """An answer to score, with the conversation that it ends. `messages, text, *_ = answer` is all that most need."""

    messages: Sequence[Mapping[str, str]]
    """The conversation before the answer; its last message is the user's."""
    text: str
    finish: str
    """Why the answer ended: "stop" (the model ended it), "length" or "marker"."""
    prompt: Mapping[str, Any] = NOTHING
    """The prompt's record. Of an SFT example it has prompt_id, the existing answer as `reference`, task and lang."""


class Existing(Answer):
    """An existing answer, such as that of an SFT example. It is scored whole or not at all: a score of its beginning
    would say that it is worse than it is."""


class AnswerScore(NamedTuple):
    """The reward of an answer."""

    total: float
    """NaN where it cannot be scored."""
    parts: Mapping[str, float] = NOTHING
    """Where it is a weighted sum: the score of each part, by name, before it is multiplied."""
    below: Sequence[str] = ()
    """The parts whose floor the answer does not reach. It may not win then."""


ScoreFunction = Callable[[Sequence[Answer]], Sequence[AnswerScore]]
"""Gives the rewards of answers, in their order."""


def totals(scores: Iterable[float]) -> list[AnswerScore]:
    """Scores of a reward that is no sum, such as those of a reward model."""
    return [AnswerScore(float(score)) for score in scores]


def first_answers(records: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """The first candidate of each sampler record, in their order: the only one where sampling was greedy."""
    return [_answer(record, record["candidates"][0]) for record in records]


def _answer(record: Mapping[str, Any], candidate: Mapping[str, Any]) -> Answer:
    return Answer(record["messages"], candidate["text"], candidate["finish"], _prompt(record))


def _prompt(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a sampler record says of its prompt."""
    return {key: record[key] for key in ("prompt_id", "messages", "reference", "task", "lang") if key in record}


def score_records(records: Sequence[Mapping[str, Any]], score: ScoreFunction) -> tuple[Records, dict[str, int]]:
    """(sampler records with scores, how many were dropped by reason).

    Every candidate gets a `score`, which is None when it is not finite. Of a weighted sum it gets `parts` too, the
    scores by name, and where a part is below its floor, `below` with the names. A record with a `reference` (the
    existing answer) gets a `reference_score`, which is None when the answer is too long for the model to read, and a
    `reference_below`. A prompt is dropped when none of its candidates has a finite score.
    """
    answers: list[Answer] = []
    for record in records:
        answers += [_answer(record, candidate) for candidate in record["candidates"]]
        if record.get("reference") is not None:
            answers.append(Existing(record["messages"], record["reference"], "stop", _prompt(record)))
    scores: Iterator[AnswerScore] = iter(score(answers))
    out: Records = []
    for record in records:
        candidates = [dict(c) | fields(next(scores)) for c in record["candidates"]]
        scored = {**record, "candidates": candidates}
        if record.get("reference") is not None:
            scored |= {f"reference_{name}": value for name, value in fields(next(scores)).items()}
        if any(c["score"] is not None for c in candidates):
            out.append(scored)
    dropped = len(records) - len(out)
    return out, {"no_valid_candidate": dropped} if dropped else {}


def fields(score: AnswerScore) -> dict[str, Any]:
    """{score, parts?, below?} of an answer, as JSON holds them."""
    found: dict[str, Any] = {"score": finite(score.total)}
    found |= {"parts": {name: finite(part) for name, part in score.parts.items()}} if score.parts else {}
    return found | ({"below": list(score.below)} if score.below else {})


def finite(score: float) -> float | None:
    """The score as a float; None for NaN and the infinities, which JSON cannot hold."""
    score = float(score)
    return score if score - score == 0.0 else None
