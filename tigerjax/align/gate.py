"""Whether the model of a round replaces the current one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tigerjax.align.answers import AnswerScore
from tigerjax.errors import DataError, GateFailed

NO_GAIN = "by the reward this is no improvement"


class Gate(NamedTuple):
    """The decision about a new model."""

    accepted: bool
    reasons: list[str]
    """Why it was refused; empty when it was accepted."""
    figures: dict[str, Any]
    """{change_points: {"mean en": points, …}, win_rate}"""


def standings(*sides: Sequence[AnswerScore]) -> list[list[float]]:
    """The scores by which answers are compared: an answer below a floor stands below all that are not, and is equal to
    another one below a floor."""
    known = [score.total for side in sides for score in side if math.isfinite(score.total)]
    bottom = min(known, default=0.0) - 1.0
    return [[bottom if s.below and math.isfinite(s.total) else s.total for s in side] for side in sides]


def win_rate(new: Sequence[float], current: Sequence[float]) -> float:
    """Share of the held-out prompts on which the new model's answer scores higher; a tie counts half.

    Raises DataError where the two have scores of different prompts, or one that is not finite.
    """
    if len(new) != len(current) or not new:
        raise DataError(f"win rate of {len(new)} new and {len(current)} current scores; both need the same prompts")
    if not all(map(math.isfinite, (*new, *current))):
        raise DataError("win rate: a held-out score is NaN or infinite; score every held-out answer")
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(new, current, strict=True)) / len(new)


def gate(
    current: Mapping[str, Mapping[str, float]],
    new: Mapping[str, Mapping[str, float]],
    *,
    wins: float,
    max_mean_loss_points: float,
    max_task_loss_points: float,
    min_win_rate: float,
) -> Gate:
    """Decides from the accuracies of both models, {"mean": {lang: accuracy}, "task": {task: accuracy}} in [0, 1].

    The new model is refused when the mean of a language or one task loses more points (0.01) than its limit, when
    `wins` (see `win_rate`) is below `min_win_rate`, or when it lacks a figure that the current model has.
    """
    reasons, changes = [], {}
    for kind, limit in (("mean", max_mean_loss_points), ("task", max_task_loss_points)):
        for name, before in sorted(current[kind].items()):
            after = new[kind].get(name)
            if after is None or not math.isfinite(after):
                reasons.append(f"{kind} {name}: the new model has no figure")
                continue
            # Rounded so that a loss of exactly the limit passes: 0.80 - 0.79 is 1.0000000000000009 points.
            points = round(100 * (after - before), 9)
            changes[f"{kind} {name}"] = points
            if points < -limit:
                reasons.append(f"{kind} {name} lost {-points:.2f} points, more than {limit}")
    if not wins >= min_win_rate:
        reasons.append(f"win rate {wins:.3f} is below {min_win_rate}")
    return Gate(not reasons, reasons, {"change_points": changes, "win_rate": wins})


def figures_of(accuracy: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The figures of evaluate.questions.accuracy in the form that `gate` takes."""
    return {
        kind: {name: figures["accuracy"] for name, figures in accuracy[source].items()}
        for kind, source in (("mean", "by_lang"), ("task", "by_task"))
    }


class Tally(NamedTuple):
    """On how many held-out prompts the new model's answer scores higher, the same and lower than the current one's."""

    won: int
    equal: int
    lost: int


def tally(new: Sequence[float], current: Sequence[float]) -> Tally:
    pairs = list(zip(new, current, strict=True))
    won, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    return Tally(won, len(pairs) - won - lost, lost)


def remark(wins: float, counted: Tally | None) -> str:
    """What a reader of an accepted round must know when the new model does not win; empty when it does.

    The gate asks that nothing is lost, so a tie passes it. It is still no improvement.
    """
    if wins > 0.5:
        return ""
    if wins < 0.5:
        return "the new model loses more often than it wins; align.min_win_rate lets it pass"
    if counted is not None and counted.won == counted.lost == 0:
        return f"a tie: both models score the same on every held-out prompt ({counted.equal}); {NO_GAIN}"
    return f"a tie: the new model wins as often as it loses; {NO_GAIN}"


def beside(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """{held_out: {won, equal, lost}, note, below_floor} of the contents of gate.json; without what does not apply."""
    out: dict[str, Any] = {}
    sides = [verdict.get("held_out", {}).get(name, []) for name in ("after", "before")]
    scored = all(sides) and all(score is not None for side in sides for score, *_ in side)
    read = [
        [AnswerScore(score, below=below[0] if below else ()) for score, _, *below in side] for side in sides if scored
    ]
    counted = tally(*standings(*read)) if scored else None
    if "below_floor" in verdict["figures"]:
        out["below_floor"] = verdict["figures"]["below_floor"]
    if counted is not None:
        out["held_out"] = counted._asdict()
    note = remark(verdict["figures"]["win_rate"], counted) if verdict["accepted"] else ""
    return out | ({"note": note} if note else {})


def require(result: Gate) -> None:
    """Raises GateFailed with every reason when the new model was refused."""
    if not result.accepted:
        raise GateFailed("the new model is refused, the current one stays: " + "; ".join(result.reasons))
