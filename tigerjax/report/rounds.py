"""The section on rounds of rejection sampling: what `align.summary` collected from their folders."""

from collections.abc import Mapping
from typing import Any

from tigerjax.pages import Table
from tigerjax.pages.charts import Dot, histogram, scatter, stacked
from tigerjax.pages.numbers import number, percent

CHOSEN_BY = {"rm": "reward model", "human": "human ranking", "edit": "human edit"}
PLANES = {"characters": "mean characters of an answer", "accuracy": "held-out accuracy"}


def rounds(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the section: a table of the rounds, charts of each round, and all models in two planes."""
    ended = report.get("align_rounds") or []
    if not ended:
        return {}
    return {
        "table": Table(["round", "gate", "win rate", "reward", "characters", "accuracy"], [_row(r) for r in ended]),
        "each": [_charts(r) for r in ended],
        "planes": [(title, scatter(_models(ended, x), shares=x == "accuracy")) for x, title in PLANES.items()],
    }


def _row(r: Mapping[str, Any]) -> list[str]:
    wordings = {"reward": number, "characters": number, "accuracy": percent}
    changes = [f"{text(r['before'][name])} → {text(r['after'][name])}" for name, text in wordings.items()]
    return [str(r["round"]), r["gate"], percent(r["win_rate"]), *changes]


def _charts(r: Mapping[str, Any]) -> dict[str, Any]:
    winners = {CHOSEN_BY.get(k, k): float(v) for k, v in r["winners"].items()}
    total = sum(winners.values())
    texts = {k: f"{number(int(v))} ({percent(v / total)})" for k, v in winners.items()}
    return {
        "number": r["round"],
        "histogram": histogram(r["before"]["scores"], r["after"]["scores"]),
        "refused": "; ".join(r["reasons"]),
        "winners": stacked(winners, texts) if winners else None,
    }


def _models(ended: list[Mapping[str, Any]], x: str) -> list[Dot]:
    """A dot for the model before the first round and for the model of each round, `x` to the right."""
    start = ended[0]["before"]
    dots = [Dot("start", float(start[x]), float(start["reward"]), "start")]
    for r in ended:
        kind = "" if r["gate"] == "accepted" else "refused"
        dots.append(Dot(f"round {r['round']}", float(r["after"][x]), float(r["after"]["reward"]), kind))
    return dots
