"""Numbers as people read them, in pages and in the terminal alike."""

import math
from typing import Any


def number(value: Any, digits: int = 3) -> str:
    """A number as text: 1,234 where it is whole, else `digits` significant digits. What is no number stays as it is."""
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
    """The standard error of a share of n independent right-or-wrong answers: sqrt(p (1 - p) / n)."""
    return math.sqrt(max(0.0, share * (1 - share)) / n) if n else 0.0
