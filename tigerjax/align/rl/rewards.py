"""What rewards an answer: reward models and Python functions, added up with weights."""

import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from tigerjax.align.answers import Answer
from tigerjax.align.reward import Scorer, check_rows
from tigerjax.checkpoint.loaded import load
from tigerjax.config import RlConfig, RunConfig
from tigerjax.errors import USERS, ConfigError, DataError, TigerjaxError, line_in, of_user
from tigerjax.files.foreign import shown
from tigerjax.processes import hosts

FUNCTION = r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)"


class Attempt(NamedTuple):
    """An answer to score. `messages, text = attempt[:2]` is all that most functions need."""

    messages: Sequence[Mapping[str, str]]
    """The conversation before the answer; its last message is the user's."""
    text: str
    finish: str
    """Why the answer ended: "stop" (the model ended it), "length" or "marker"."""
    prompt: Mapping[str, Any]
    """The prompt's record. Of an SFT example it has the existing answer as `reference`, and task and lang."""


Function = Callable[[Sequence[Attempt]], Sequence[float]]
"""Scores of answers, each a finite number; None or NaN for one that cannot be scored."""


class Rewards:
    """The rewards of a run's config. Calling it scores answers by each of them."""

    def __init__(self, run: RunConfig, settings: RlConfig, tokenizer: Any, mesh: Mesh | None):
        """Loads the reward models onto `mesh` (None: one device) and imports the functions.

        Raises ConfigError for no reward, for a function that cannot be imported, and for a model that is no calibrated
        reward model of this tokenizer.
        """
        if not settings.rewards:
            raise ConfigError("objective.rewards names nothing; name a folder of a reward model, or MODULE:FUNCTION")
        check_rows(settings.score_batch_size, mesh)
        self._weights = np.array(settings.weights)
        self._given = [
            function(given)
            or Scorer(
                load(given, tokenizer, compute=run.compute, mesh=mesh, reward=True),
                seq_len=run.data.seq_len,
                rows=settings.score_batch_size,
            )
            for given in settings.rewards
        ]
        self._names = settings.rewards

    def __call__(self, attempts: Sequence[Attempt]) -> tuple[np.ndarray, np.ndarray]:
        """(the weighted sum of the scores, float64 [attempts]; the scores, float64 [attempts, rewards]).

        NaN where one of the rewards gives no finite number. All hosts call it together; functions run on one of them.
        """
        columns = []
        for name, of in zip(self._names, self._given, strict=True):
            hosts.at(f"scoring {len(attempts)} answers by {name}")
            if isinstance(of, Scorer):
                columns.append(of([Answer(one.messages, one.text, one.finish) for one in attempts]))
            else:
                columns.append(_called(of, name, attempts))
        scores = np.array(columns, np.float64).T
        scores[~np.isfinite(scores)] = np.nan
        return scores @ self._weights, scores


def function(given: str) -> Function | None:
    """The function that MODULE:FUNCTION names; None where `given` is no such name, but a path.

    Raises ConfigError where the module cannot be imported or has no such function.
    """
    if (named := re.fullmatch(FUNCTION, given)) is None:
        return None
    module, name = named.groups()
    try:
        found = getattr(importlib.import_module(module), name, None)
    except TigerjaxError:
        raise
    except USERS as error:
        raise ConfigError(
            f"objective.rewards names {given}, and {module} cannot be imported: {': '.join(of_user(error))};"
            " correct the name, or start in the folder that holds it"
        ) from error
    if not callable(found):
        raise ConfigError(f"objective.rewards names {given}, and {module} has no function {name}; correct the name")
    made: Function = found
    return made


def _called(of: Function, name: str, attempts: Sequence[Attempt]) -> list[float]:
    """The scores of a function, which one host calls; NaN where it gives None."""
    told: dict[str, Any] = {}
    if hosts.is_writer():
        try:
            told = _numbers(list(of(attempts)), len(attempts))
        except USERS as error:
            told["trouble"] = f"failed with {': '.join(of_user(error))}{_where(of, error)}"
    told = hosts.share(f"scores of {name}", told)[0]
    if "trouble" in told:
        raise DataError(
            f"reward {name} {told['trouble']}; correct the function, which must give a number or None for each answer"
        )
    return [math.nan if score is None else score for score in told["scores"]]


def _where(of: Function, error: BaseException) -> str:
    """Where in the function's file it failed, as the end of a message."""
    file = getattr(sys.modules.get(getattr(of, "__module__", "")), "__file__", None)
    return f" ({line_in(error, Path(file))})" if file else ""


def _numbers(given: Sequence[Any], count: int) -> dict[str, Any]:
    """{scores: as JSON holds them}, or {trouble} where they are no numbers, or not `count`."""
    if len(given) != count:
        return {"trouble": f"gave {len(given)} scores for {count} answers"}
    numbers: list[float | None] = []
    for score in given:
        try:
            if isinstance(score, str | bytes):  # which float() may read
                raise TypeError
            number = math.nan if score is None else float(score)
        except (TypeError, ValueError):
            return {"trouble": f"gave {shown(score)} as a score"}
        numbers.append(number if math.isfinite(number) else None)
    return {"scores": numbers}
