"""Rewards that are Python functions of the user: imported, called on one host, and what they return checked."""

import copy
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tigerjax.align.answers import Answer
from tigerjax.align.rewards.given import FUNCTION
from tigerjax.errors import USERS, DataError, line_in, of_user
from tigerjax.files.foreign import shown
from tigerjax.processes import hosts
from tigerjax.records import fingerprint, user_code
from tigerjax.records.fingerprint import Fingerprint
from tigerjax.terminal import one_line

Function = Callable[[Sequence[Answer]], Sequence[float | None]]
"""Scores of answers, each a finite number; None for one that cannot be scored."""

NO_NUMBERS = ("c", "S", "U", "O")
"""Kinds of arrays that float() takes, and drops the imaginary part or reads the text of."""


def imported(name: str) -> Function:
    """The function that MODULE:FUNCTION names.

    Raises ConfigError where the module cannot be imported or has no such function.
    """
    named = re.fullmatch(FUNCTION, name)
    assert named is not None, name
    module, function = named.groups()
    made: Function = user_code.function(module, function, f"the reward is {name}, and ")
    return made


def source(name: str) -> Fingerprint:
    """What the scores of a function depend on: its code with the user's modules that it uses, and files it names."""
    return fingerprint.of_function(imported(name))


def scores(function: Function, name: str, answers: Sequence[Answer]) -> list[float]:
    """The scores of answers by a function, which one host calls; NaN where it gives None.

    The function gets copies, so that a message that it appends stands in no record. Raises DataError, which names the
    answer and its prompt, for what is no finite number, and for a list of answers whose order the function changed.
    """
    outcome: dict[str, Any] = {}
    if hosts.is_writer():
        copies = [copy.deepcopy(answer) for answer in answers]  # each by itself: those to one prompt share its record
        try:
            outcome = _checked(user_code.results(function, copies), answers)
        except user_code.NotInOrder as error:
            outcome["trouble"] = str(error)
        except USERS as error:
            outcome["trouble"] = f"failed with {': '.join(of_user(error))}{_where(function, error)}"
    outcome = hosts.share(f"scores of {name}", outcome)[0]
    if "trouble" in outcome:
        raise DataError(
            f"reward {name} {outcome['trouble']}; correct the function, which must give a number or None for each"
            " answer"
        )
    return [math.nan if score is None else score for score in outcome["scores"]]


def _where(function: Function, error: BaseException) -> str:
    """Where in the function's file it failed, as the end of a message."""
    file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    return f" ({line_in(error, Path(file))})" if file else ""


def _checked(given: Sequence[Any], answers: Sequence[Answer]) -> dict[str, Any]:
    """{scores: as JSON holds them}, or {trouble} where one is no finite number, or they are not as many as answers."""
    if len(given) != len(answers):
        return {"trouble": f"gave {len(given)} scores for {len(answers)} answers"}
    numbers: list[float | None] = []
    for place, (score, answer) in enumerate(zip(given, answers, strict=True), 1):
        try:
            if isinstance(score, str | bytes) or _kind(score) in NO_NUMBERS:  # which float() may read
                raise TypeError
            number = None if score is None else float(score)
            if number is not None and not math.isfinite(number):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            return {"trouble": f"gave {shown(score)} as a score of {named(answer)} ({place} of {len(answers)})"}
        numbers.append(number)
    return {"scores": numbers}


def _kind(score: Any) -> Any:
    """The kind of an array's dtype, such as "f"; None for what has none."""
    return getattr(getattr(score, "dtype", None), "kind", None)


def named(answer: Answer) -> str:
    """An answer in a message: by its prompt's id where it has one, and by how it begins."""
    prompt = answer.prompt.get("prompt_id")
    asked = f"prompt {one_line(prompt)[:60]!r}" if prompt is not None else "a prompt without an id"
    return f"the answer {one_line(answer.text)[:40]!r} to {asked}"
