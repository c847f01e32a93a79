"""The plots of docs/REPLICATION.md."""

from pathlib import Path
from typing import Any

MADE_FOR: dict[str, tuple[str, ...]] = {}


def draw(records: list[dict[str, Any]], found: dict[str, Any], folder: Path) -> None:
    raise NotImplementedError
