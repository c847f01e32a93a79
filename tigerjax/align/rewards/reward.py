"""A reward that is ready for use: its parts opened, and called for answers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.answers import Answer, AnswerScore
from tigerjax.align.rewards import functions, given
from tigerjax.align.rewards.config import PartConfig
from tigerjax.align.rewards.given import Given
from tigerjax.align.rewards.judge import Judge
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.files.progress import Progress
from tigerjax.processes import hosts

Column = Callable[[Sequence[Answer]], Sequence[float]]
"""Scores of answers by one part, NaN for one that it cannot score."""
LoadModel = Callable[[str], Column]
"""The folder of a reward model -> its calibrated scores."""


class Uses(NamedTuple):
    """What the scores of a reward depend on."""

    inputs: list[Path]
    """Reward models, and the files that functions say they read."""
    settings: dict[str, Any]
    """The rest, as JSON: weights, floors, hashes of code and templates. Empty for a reward model alone."""


class Reward:
    """The rewards of answers. All hosts call it together; functions and judges run on one of them."""

    def __init__(self, of: Given, load_model: LoadModel, *, progress: Progress | None = None):
        """Imports the functions and loads the reward models, by `load_model`."""
        self.given = of
        self._columns = [_column(name, part, load_model, progress) for name, part in of.parts.items()]

    def __call__(self, answers: Sequence[Answer]) -> list[AnswerScore]:
        """The score of each answer. In a weighted sum it is NaN where a part with a weight could not score the answer.
        Where a part with a floor could not score it, the answer counts as below that floor."""
        columns = [_called(name, column, answers) for name, column in zip(self.given.parts, self._columns, strict=True)]
        return [self._score(row) for row in zip(*columns, strict=True)] if answers else []

    def _score(self, row: Sequence[float]) -> AnswerScore:
        if not self.given.summed:
            return AnswerScore(row[0])
        parts = dict(zip(self.given.parts, row, strict=True))
        total = sum(part.weight * parts[name] for name, part in self.given.parts.items() if part.weight)
        below = [name for name, floor in self.given.floors.items() if not parts[name] >= floor]
        return AnswerScore(total, parts, below)


def _called(name: str, column: Column, answers: Sequence[Answer]) -> list[float]:
    hosts.at(f"scoring {len(answers)} answers by {name or 'the reward'}")
    scores = [float(score) for score in column(answers)]
    assert len(scores) == len(answers), (name, len(scores), len(answers))
    return scores


def _column(name: str, part: PartConfig, load_model: LoadModel, progress: Progress | None) -> Column:
    if part.judge is not None:
        judge, say = Judge(name, part.judge), progress if hosts.is_writer() else None
        return lambda answers: judge(answers, say and say(f"judge {name}: scored", "answers"))
    assert part.reward is not None
    if given.is_function(text := part.reward):
        function = functions.imported(text)
        return lambda answers: functions.scores(function, text, answers)
    return load_model(text)


def uses(of: Given) -> Uses:
    """What the scores of a reward depend on. It imports functions, reads templates and loads no model."""
    inputs: list[Path] = []
    settings: dict[str, Any] = {}
    for name, part in of.parts.items():
        what: dict[str, Any] = {"weight": part.weight, "floor": part.floor} if of.summed else {}
        if part.judge is not None:
            what["judge"] = Judge(name, part.judge).uses
        elif part.reward is not None and given.is_function(part.reward):
            found = functions.source(part.reward)
            what |= {"function": part.reward, "sha256": found.sha256}
            inputs += found.files
        elif part.reward is not None:
            inputs.append(paths.of(part.reward))
        if what:
            settings[name] = what
    return Uses(inputs, settings)


def check(of: Given, check_model: Callable[[str], None], sample: Answer | None, *, ask: bool) -> None:
    """Opens each part: a model by `check_model`, a function by one call for `sample`, and a judge by one question.

    Without `ask` no judge is asked, and a function is imported and not called where there is no `sample`.
    """
    for name, part in of.parts.items():
        if part.judge is not None:
            judge = Judge(name, part.judge, patience_s=0)
            if ask and sample is not None:
                judge([sample])
        elif part.reward is not None and given.is_function(part.reward):
            function = functions.imported(part.reward)
            if sample is not None:
                functions.scores(function, part.reward, [sample])
        elif part.reward is not None:
            check_model(part.reward)


def refuse_floors(of: Given, what: str) -> None:
    """ConfigError where a part has a floor: `what` has no winners that it could keep out."""
    if floors := of.floors:
        raise ConfigError(
            f"{of.text}: [{next(iter(floors))}] has a floor, and {what} has no winners that a floor could keep out;"
            " remove the floor, and give the part a weight if it shall count"
        )
