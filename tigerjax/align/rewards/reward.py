"""A reward that is ready for use: its parts opened, and called for answers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.answers import Answer, AnswerScore
from tigerjax.align.rewards import functions, given
from tigerjax.align.rewards.config import JudgeConfig
from tigerjax.align.rewards.given import Given
from tigerjax.align.rewards.judge import Judge
from tigerjax.errors import ConfigError, DataError
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
        self._columns = [_column(of, name, load_model, progress) for name in of.parts]

    def __call__(self, answers: Sequence[Answer]) -> list[AnswerScore]:
        """The score of each answer. In a weighted sum it is NaN where a part with a weight could not score the answer.
        Where a part with a floor could not score it, the answer counts as below that floor."""
        columns = dict(zip(self.given.parts, self._columns, strict=True))
        # Judges first: they may fail, and what they replied is kept, which the scores of other parts are not.
        order = sorted(columns, key=lambda name: self.given.parts[name].judge is None)
        scores = {name: _called(name, columns[name], answers) for name in order}
        rows = zip(*(scores[name] for name in columns), strict=True)
        return [self._score(row) for row in rows] if answers else []

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


def _column(of: Given, name: str, load_model: LoadModel, progress: Progress | None) -> Column:
    part = of.parts[name]
    if part.judge is not None:
        judge, say = _judge(of, name, part.judge), progress if hosts.is_writer() else None
        return lambda answers: judge(answers, say and say(f"judge {name}: scored", "answers"))
    assert part.reward is not None
    with given.naming(of, name):
        if given.is_function(text := part.reward):
            function = functions.imported(text)
            return lambda answers: functions.scores(function, text, answers)
        return load_model(text)


def _judge(of: Given, name: str, config: JudgeConfig, **more: Any) -> Judge:
    """The judge of a part, which has read its template and its key and is not asked yet."""
    with given.naming(of, name):
        return Judge(name, config, **more)


def uses(of: Given) -> Uses:
    """What the scores of a reward depend on. It imports functions, reads templates and loads no model."""
    inputs: list[Path] = []
    settings: dict[str, Any] = {}
    for name, part in of.parts.items():
        what: dict[str, Any] = {"weight": part.weight, "floor": part.floor} if of.summed else {}
        if part.judge is not None:
            what["judge"] = _judge(of, name, part.judge).uses
        elif part.reward is not None and given.is_function(part.reward):
            with given.naming(of, name):
                found = functions.source(part.reward)
            what |= {"function": part.reward, "sha256": found.sha256}
            inputs += found.files
        elif part.reward is not None:
            with given.naming(of, name):
                inputs.append(_folder(of, part.reward))
        if what:
            settings[name] = what
    return Uses(inputs, settings)


def _folder(of: Given, reward: str) -> Path:
    """The folder of a reward model; DataError where a file of rewards names one that is not there."""
    path = paths.of(reward)
    if of.summed and not path.exists():
        raise DataError(f"{path} does not exist; give the folder of a reward model")
    return path


def check(of: Given, check_model: Callable[[str], None], sample: Answer | None, *, ask: bool) -> None:
    """Opens each part: a model by `check_model`, a function by one call for `sample`, a judge by its template and key.

    With `ask` a judge is asked about `sample`. A function is imported and not called where there is no `sample`.
    """
    for name, part in of.parts.items():
        if part.judge is not None:
            judge = _judge(of, name, part.judge, patience_s=0)
            if ask and sample is not None:
                judge([sample])
            continue
        assert part.reward is not None
        with given.naming(of, name):
            if given.is_function(part.reward):
                function = functions.imported(part.reward)
                if sample is not None:
                    functions.scores(function, part.reward, [sample])
            else:
                check_model(part.reward)


def refuse_floors(of: Given, what: str) -> None:
    """ConfigError where a part has a floor: `what` has no winners that it could keep out."""
    if floors := of.floors:
        raise ConfigError(
            f"{of.text}: [{next(iter(floors))}] has a floor, and {what} has no winners that a floor could keep out;"
            " remove the floor, and give the part a weight if it shall count"
        )
