"""Gold questions: the right order of their answers is known, so they show whether a person reads what is asked.

They come from a file of preferences (every form of docs/FORMATS.md), or of questions whose answers a program knows:
then the right answer stands among answers to other questions of the same task.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax import records
from tigerjax.align.people.agreement import Ranking, points
from tigerjax.align.prompts import draw
from tigerjax.errors import DataError
from tigerjax.evaluate import questions
from tigerjax.files import paths

MOST_WRONG = 3  # wrong answers beside the right one of a question
LEAST = 3  # a person is judged by so many gold questions or more


class GoldQuestion(NamedTuple):
    """A conversation, and texts of answers in groups of equals, the best group first."""

    messages: list[dict[str, str]]
    groups: list[list[str]]


class Record(NamedTuple):
    """How a person did on gold questions: the sum of the shares of pairs that were ordered rightly, and of how many
    questions."""

    right: float = 0.0
    questions: int = 0

    @property
    def accuracy(self) -> float | None:
        """The mean share of pairs in the right order; None without a question. Guessing gives 0.5."""
        return self.right / self.questions if self.questions else None

    def with_(self, other: "Record") -> "Record":
        """Both together."""
        return Record(self.right + other.right, self.questions + other.questions)

    def fails(self, least: float) -> bool:
        """Whether the person answered enough questions, and fewer than `least` of their pairs rightly."""
        return self.questions >= LEAST and self.right / self.questions < least


def read(path: str | Path) -> list[GoldQuestion]:
    """The gold questions of a file. Raises DataError for one that is not there, and for a question without an order."""
    path = paths.of(path)
    if not path.is_file():
        raise DataError(f"{path}: gold_questions of the alignment does not exist; correct the path")
    first = next(iter(records.read(path)), (0, {}))[1]
    if "answers" in first and "ranking" not in first:
        found = list(_checkable(questions.load(path)))
        said = f"{path}: no task has two different answers, so no question has a wrong one; add questions"
    else:
        found = [_preference(record, f"{path}:{number}") for number, record in records.read(path)]
        said = f"{path}: no gold question in it; give preferences or questions (docs/FORMATS.md)"
    if not found:
        raise DataError(said)
    return found


def _checkable(given: Sequence[questions.Question]) -> Iterable[GoldQuestion]:
    """The right answer above wrong ones; a question whose task has no other answer is left out, and counted."""
    alone = 0
    for one in given:
        others = sorted({other for other in one.others if not questions.judge(one, other)})
        wrong = sorted(others, key=lambda text: draw(0, "wrong answers", one.id, text))[:MOST_WRONG]
        alone += not wrong
        if wrong:
            yield GoldQuestion([{"role": "user", "content": one.prompt}], [[one.answers[0]], wrong])
    if alone:
        records.note(f"gold questions: {alone} of {len(given)} have no wrong answer in their task; they are left out")


def _preference(record: dict[str, Any], where: str) -> GoldQuestion:
    """A preference as a gold question."""
    preference = records.as_preference(record, where)
    if "chosen" in preference:
        groups = [[preference["chosen"]], [preference["rejected"]]]
    else:
        try:
            texts = {response["id"]: response["text"] for response in preference["responses"]}
            groups = [[texts[name] for name in group] for group in preference["ranking"]]
        except (KeyError, TypeError) as error:
            raise DataError(f"{where}: ranking must list the ids of responses with `id` and `text`") from error
    given = [text for group in groups for text in group]
    if len(groups) < 2 or len(set(given)) < len(given):
        raise DataError(f"{where}: a gold question needs two answers or more, all different, and a better one; give it")
    return GoldQuestion(preference["messages"], groups)


def share_right(given: Ranking, right: Ranking) -> float:
    """The share of pairs of answers of different groups of `right` that `given` orders as it does; a tie is half."""
    own, true = points(given), points(right)
    pairs = [(a, b) if true[a] > true[b] else (b, a) for a, b in combinations(sorted(true), 2) if true[a] != true[b]]
    return sum((own[a] > own[b]) + (own[a] == own[b]) / 2 for a, b in pairs) / len(pairs)


def of_people(orders: Iterable[tuple[str, str, Ranking]], right: Mapping[str, Ranking]) -> dict[str, Record]:
    """The records by person of (prompt id, person, ranking); `right` has the rankings of the gold questions by id."""
    out: dict[str, Record] = {}
    for prompt_id, person, given in orders:
        if prompt_id in right:
            one = Record(share_right(given, right[prompt_id]), 1)
            out[person] = out.get(person, Record()).with_(one)
    return out
