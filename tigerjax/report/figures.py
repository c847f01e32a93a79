"""Figures of a report that both the HTML page and the table in the terminal show."""

from collections.abc import Mapping
from typing import Any

from tigerjax.pages.numbers import number

STAGES = {
    "base": "base",
    "holistic": "holistic base",
    "sft": "SFT",
    "reward": "reward model",
    "rejection_sampled": "rejection-sampled",
    "control": "control",
}


def stages(of: Mapping[str, Any]) -> list[str]:
    """The keys of `of` in the order of the recipe. Keys that the recipe does not know come last."""
    known = [name for name in STAGES if name in of]
    return known + [name for name in of if name not in STAGES]


def stage_name(key: str) -> str:
    """The name of a stage of the recipe. A name that people gave stays as they wrote it."""
    return STAGES.get(key, key)


def share_of(value: Any) -> float:
    """An accuracy given as a share, or as evaluate.questions gives it: {accuracy, right, n}."""
    return float(value["accuracy"] if isinstance(value, Mapping) else value)


def mean_true_reward_gain(rounds: list[Mapping[str, Any]]) -> str:
    """Text such as `0.12 → 0.31`: the mean true reward before the first round and after the last."""
    return f"{number(rounds[0]['before'])} → {number(rounds[-1]['after'])}"


def export_reader(report: Mapping[str, Any]) -> str:
    """Who read the exported model for comparison: transformers, or the Llama in numpy where it was not installed."""
    return "a Llama in numpy" if report.get("hf_compared_with") == "numpy" else "transformers"
