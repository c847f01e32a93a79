"""Evaluations beside each other: scores, and the differences to the first one with their confidence."""

import math
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.evaluate.suite import MEANS, read_items, read_results
from tigerjax.files import paths

Z95 = 1.96  # of the normal distribution: 95% of a normal variable is within this many standard deviations


def compare(folders: list[Path]) -> dict[str, Any]:
    """{models: [names], tasks: {task: {scores: […], differences: [{difference, low, high, n} or None, …]}}, means}.

    Differences are to the first folder, question by question. Only questions that the two models answered differently
    count, so the 95% interval is far narrower than that of two separate scores. None where a task is missing in one of
    the two. Raises DataError for fewer than two folders.
    """
    if len(folders) < 2:
        raise DataError(f"{len(folders)} evaluation to compare; give two folders or more")
    results = [read_results(folder) for folder in folders]
    names = list(dict.fromkeys(name for r in results for name in r["tasks"]))
    tasks: dict[str, Any] = {}
    for name in names:
        sides = [
            _rights(folder, name) if name in r["tasks"] else None for folder, r in zip(folders, results, strict=True)
        ]
        first, others = sides[0], sides[1:]
        tasks[name] = {
            "scores": [r["tasks"][name]["score"] if name in r["tasks"] else None for r in results],
            "differences": [None if first is None or other is None else paired(name, first, other) for other in others],
        }
    return {
        "models": _names(folders),
        "tasks": tasks,
        "means": {mean: [r[mean] for r in results] for mean in MEANS},
    }


def paired(name: str, first: dict[str, tuple[str, bool]], other: dict[str, tuple[str, bool]]) -> dict[str, float | int]:
    """The score of `other` minus that of `first`, with its 95% interval. Both answer the same questions, {id: (group,
    right)}, and every group has the same weight.

    Raises DataError where the two were asked different questions.
    """
    if first.keys() != other.keys():
        raise DataError(
            f"{name}: the two evaluations asked {len(first)} and {len(other)} other questions; evaluate again"
        )
    groups: dict[str, list[int]] = {}
    for key, (group, right) in first.items():
        groups.setdefault(group, []).append(int(other[key][1]) - int(right))
    difference = variance = 0.0
    for values in groups.values():
        mean = sum(values) / len(values)
        difference += mean / len(groups)
        spread = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
        variance += spread / len(values) / len(groups) ** 2
    half = Z95 * math.sqrt(variance)
    return {"difference": difference, "low": difference - half, "high": difference + half, "n": len(first)}


def _rights(folder: Path, name: str) -> dict[str, tuple[str, bool]]:
    return {item["id"]: (item["group"], item["right"]) for item in read_items(folder, name)}


def _names(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    parts = [paths.absolute(folder).parts for folder in folders]
    for n in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(p[-n:]) for p in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(folder) for folder in folders]
