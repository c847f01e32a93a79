"""The section on rounds of rejection sampling: what `align.summary` collected from their folders."""

import itertools
from collections.abc import Mapping
from typing import Any

from tigerjax.pages import Table
from tigerjax.pages.charts import Dot, histogram, scatter, stacked
from tigerjax.pages.numbers import number, percent
from tigerjax.report.reasons import of_round

CHOSEN_BY = {"rm": "reward model", "human": "human ranking", "edit": "human edit"}
PLANES = {"characters": "characters of an answer", "accuracy": "held-out accuracy"}
HEADS = ["round", "gate", "win rate", "mean reward", "characters of an answer", "held-out accuracy"]
DIVERSITY = {
    "entropy_nats": "entropy of a token",
    "distinct_share": "different answers to a prompt",
    "distinct_winners": "different winners",
    "distinct_pairs": "different pairs of characters in winners",
    "winner_nats": "-log p of a winner's token",
}
REWARD = "mean reward"


def rounds(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the section: a table of the rounds, how different their answers were (None where no round says so),
    charts of each round, and all models in two planes."""
    ended = report.get("align_rounds") or []
    if not ended:
        return {}
    alike = _scored_alike(ended)
    return {
        "rewards_differ": len(alike) < len(ended),
        "table": Table(HEADS, [_row(r) for r in ended]),
        "answers": _answers(ended),
        "each": [_charts(r) for r in ended],
        "planes": [
            (title, scatter(_models(alike, x), title, REWARD, shares=x == "accuracy")) for x, title in PLANES.items()
        ],
    }


def _scored_alike(ended: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last rounds, from the one on after which the reward did not change: their mean rewards have one scale."""
    same = list(itertools.takewhile(lambda r: r.get("scored_by") == ended[-1].get("scored_by"), reversed(ended)))
    return same[::-1]


def cards(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure, what it is of) for the head of the page: the last gate, and the first model beside the last."""
    ended = report.get("align_rounds") or []
    if not ended:
        return []
    last, kept = ended[-1], [r for r in ended if r["gate"] == "accepted"]
    first, now = ended[0]["before"], (kept[-1]["after"] if kept else ended[0]["before"])
    model = f"the start, and the model of round {kept[-1]['round']}" if kept else "the start; no round was accepted"
    alike = _scored_alike(ended)
    scored = (first["reward"], now["reward"], model)
    if len(alike) < len(ended):
        scored = (last["before"]["reward"], last["after"]["reward"], f"round {last['round']}; the reward has changed")
    return [
        (f"gate of round {last['round']}", last["gate"], f"win rate {_win_rate(last)}"),
        ("held-out accuracy", f"{percent(first['accuracy'])} → {percent(now['accuracy'])}", model),
        ("mean reward", f"{number(scored[0])} → {number(scored[1])}", scored[2]),
    ]


def _win_rate(r: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {number(n)}" for name, n in (r.get("held_out") or {}).items())
    return percent(r["win_rate"]) + (f" ({counts})" if counts else "")


def _row(r: Mapping[str, Any]) -> list[str]:
    wordings = {"reward": number, "characters": number, "accuracy": percent}
    changes = [f"{text(r['before'][name])} → {text(r['after'][name])}" for name, text in wordings.items()]
    return [str(r["round"]), r["gate"], _win_rate(r), *changes]


def _answers(ended: list[Mapping[str, Any]]) -> Table | None:
    """The figures of `tigerjax.align.diversity`, a row for each round."""
    named = [name for name in DIVERSITY if any(name in (r.get("diversity") or {}) for r in ended)]
    if not named:
        return None

    def cell(r: Mapping[str, Any], name: str) -> str:
        value = (r.get("diversity") or {}).get(name)
        return "" if value is None else f"{value:.2f} nats" if name.endswith("nats") else percent(value)

    rows = [[str(r["round"]), *(cell(r, name) for name in named)] for r in ended]
    return Table(["round", *(DIVERSITY[name] for name in named)], rows)


def _control(r: Mapping[str, Any]) -> str:
    """What the control of a round was worth; empty without one."""
    if (control := r.get("control")) is None:
        return ""
    figures = f"held-out accuracy {percent(control['accuracy'])}, mean reward {number(control['reward'])}"
    wins = f"The new model wins {percent(control['win_rate'])} of the comparisons with it."
    return f"A control got random winners of the same prompts: {figures}. {wins}"


def _charts(r: Mapping[str, Any]) -> dict[str, Any]:
    winners = {CHOSEN_BY.get(k, k): float(v) for k, v in r["winners"].items()}
    total = sum(winners.values())
    texts = {k: f"{number(int(v))} ({percent(v / total)})" for k, v in winners.items()}
    return {
        "number": r["round"],
        "histogram": histogram(r["before"]["scores"], r["after"]["scores"]),
        "refused": "; ".join(r["reasons"]),
        "note": r.get("note", ""),
        "control": _control(r),
        "why": of_round(r["before"], r["after"]),
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
