"""The figures of a command: shown to people, and written to the file that `--json` names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tigerjax.terminal import show as to_terminal
from tigerjax.terminal import tell

MOST_MEMBERS = 24  # of one figure that are shown; `--json` writes all


def show(figures: dict[str, Any], json: Path | None) -> None:
    """Prints the figures and saves them.

    Each figure is a line. Where all its members have figures of their own, each member is a line.
    """
    for key, value in figures.items():
        has_lines = isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values())
        for name, inner in value.items() if has_lines else [("", value)]:
            to_terminal(f"{f'{key}.{name}'.rstrip('.'):24} {as_text(inner)}".rstrip())
    if figures.get("in") and figures.get("out") == 0:
        tell(f"tigerjax: note: nothing is left of {figures['in']:,} records; the lines above say what dropped them")
    save(figures, json)


def save(figures: dict[str, Any], json: Path | None) -> None:
    """Writes the figures to a file, whose folder is made. Does nothing without a file."""
    from tigerjax.files.manifest import write_json

    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        write_json(json, figures)


def as_text(value: Any) -> str:
    """A figure as people read it: six digits, and no brackets."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else [("", v) for v in value]
        members = [f"{k} {as_text(v)}".strip() for k, v in pairs]
        more = f", … ({len(members)} in all)" if len(members) > MOST_MEMBERS else ""
        return ", ".join(members[:MOST_MEMBERS]) + more or "none"
    return str(value)
