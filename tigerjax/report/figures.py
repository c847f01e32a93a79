"""How the report words its figures, in HTML and in the terminal alike."""

import math
from collections.abc import Mapping
from typing import Any

STAGES = {
    "base": "base",
    "holistic": "holistic base",
    "sft": "SFT",
    "reward": "reward model",
    "rejection_sampled": "rejection-sampled",
    "control": "control",
}


def stages(of: Mapping[str, Any]) -> list[str]:
    """The keys of `of` in the order of the recipe; keys that the recipe does not know come last."""
    known = [name for name in STAGES if name in of]
    return known + [name for name in of if name not in STAGES]


def stage_name(key: str) -> str:
    return STAGES.get(key, key.replace("_", " "))


def number(value: Any, digits: int = 3) -> str:
    """With thousands separators for whole numbers and `digits` significant ones for others."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"


def points(difference: float) -> str:
    """A difference of two shares, signed, in percentage points."""
    return f"{100 * difference:+.1f} points"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def standard_error(share: float, n: int) -> float:
    """Of a share of n independent right-or-wrong answers: sqrt(p (1 - p) / n)."""
    return math.sqrt(max(0.0, share * (1 - share)) / n) if n else 0.0


def share_of(value: Any) -> float:
    """An accuracy given as a share, or as evaluate.questions gives it: {accuracy, right, n}."""
    return float(value["accuracy"] if isinstance(value, Mapping) else value)


def mean_true_reward_gain(rounds: list[Mapping[str, Any]]) -> str:
    """`0.12 → 0.31` from before the first round to after the last."""
    return f"{number(rounds[0]['before'])} → {number(rounds[-1]['after'])}"
