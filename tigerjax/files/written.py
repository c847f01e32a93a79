"""JSON that this stack writes of figures and settings. What any program can read it can read, too."""

import json
import math
from collections.abc import Mapping
from typing import Any


def text(value: Any) -> str:
    """A value as JSON of several lines. JSON has no form for NaN and infinity: such a figure becomes null."""
    return json.dumps(finite(value), ensure_ascii=False, indent=1, default=str, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """The value with None in the place of each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
