"""The section on rounds of rejection sampling: what `align.summary` collected from their folders."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tigerjax.report.charts import clean, stacked, ticks
from tigerjax.report.figures import number, percent
from tigerjax.report.parts import section, table

BINS = 16
CHOSEN_BY = {"rm": "reward model", "human": "human ranking", "edit": "human edit"}


def rounds(report: Mapping[str, Any]) -> str:
    """One part a round, then all models in two planes; empty without rounds."""
    told = report.get("align_rounds") or []
    if not told:
        return ""
    body = table(
        ["round", "gate", "win rate", "reward", "characters", "accuracy"],
        [
            [
                str(r["round"]),
                r["gate"],
                percent(r["win_rate"]),
                *(
                    f"{say(r['before'][name])} → {say(r['after'][name])}"
                    for name, say in (("reward", number), ("characters", number), ("accuracy", percent))
                ),
            ]
            for r in told
        ],
    )
    for r in told:
        body += f"<h3>Round {clean(r['round'])}: scores of the held-out answers</h3>"
        body += histogram(r["before"]["scores"], r["after"]["scores"])
        if r["reasons"]:
            body += f'<p class="note">Refused: {clean("; ".join(r["reasons"]))}.</p>'
        if winners := {CHOSEN_BY.get(k, k): float(v) for k, v in r["winners"].items()}:
            total = sum(winners.values())
            said = {k: f"{number(int(v))} ({percent(v / total)})" for k, v in winners.items()}
            body += f"<h3>Round {clean(r['round'])}: who chose the winners</h3>" + stacked(winners, said)
    models = [{"name": "start", "accepted": True} | told[0]["before"]]
    models += [{"name": f"round {r['round']}", "accepted": r["gate"] == "accepted"} | r["after"] for r in told]
    planes = ""
    for name, title in (("characters", "mean characters of an answer"), ("accuracy", "held-out accuracy")):
        planes += f"<div><h3>Mean reward against {title}</h3>{scatter(models, name)}</div>"
    body += f'<div class="curves">{planes}</div>'
    lead = (
        "Rewards are the reward model's, in standard deviations of its reference answers. A model that gains reward "
        "and length but no accuracy has learnt to please the scorer. A hollow dot was refused by the gate."
    )
    return section("rounds", "Round by round", lead, body)


def histogram(before: Sequence[float], after: Sequence[float]) -> str:
    """Two columns a bin on one scale of equal bins; values that are not finite are left out."""
    sides = {"before": _finite(before), "after": _finite(after)}
    both = [v for values in sides.values() for v in values]
    if not both:
        return '<p class="note">no finite score</p>'
    low, high = min(both), max(both)
    span = (high - low) or 1.0
    shares = {}
    for name, values in sides.items():
        counts = [0] * BINS
        for value in values:
            counts[min(BINS - 1, int(BINS * (value - low) / span))] += 1
        shares[name] = [n / max(len(values), 1) for n in counts]
    top, width, columns = max(max(s) for s in shares.values()), 100 / BINS, ""
    for side, (name, heights) in enumerate(shares.items()):
        for i, share in enumerate(heights):
            tall = 100 * share / top
            x = width * (i + 0.08 + 0.42 * side)
            columns += (
                f'<rect class="{name}" x="{x:.2f}%" y="{100 - tall:.2f}%" width="{0.42 * width:.2f}%"'
                f' height="{tall:.2f}%"/>'
            )
    marks = "".join(
        f'<text class="tick" x="{100 * (t - low) / span:.1f}%" y="100%" dy="18" text-anchor="middle">{t:g}</text>'
        for t in ticks(low, high, most=8)
    )
    said = {name: f"n = {number(len(v))}, mean {number(sum(v) / len(v))}" if v else "none" for name, v in sides.items()}
    legend = "".join(f'<li><i class="k-{name}"></i>{name} <b>{said[name]}</b></li>' for name in sides)
    title = "scores " + ", ".join(f"{name}: {text}" for name, text in said.items())
    return (
        f'<div class="plot columns"><svg role="img" width="100%" height="110"><title>{clean(title)}</title>{columns}'
        f'<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>{marks}</svg></div><ul class="legend">{legend}</ul>'
    )


def scatter(models: Sequence[Mapping[str, Any]], name: str) -> str:
    """A dot a model: `name` to the right, mean reward upwards."""
    points = [(m, float(m[name]), float(m["reward"])) for m in models]
    points = [p for p in points if math.isfinite(p[1]) and math.isfinite(p[2])]
    if not points:
        return '<p class="note">no finite value</p>'
    (left, across), (low, up) = _scale([x for _, x, _ in points]), _scale([y for _, _, y in points])
    marks = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{(y := 100 - 100 * (t - low) / up):.2f}%" y2="{y:.2f}%"/>'
        f'<text class="tick" x="-8" y="{y:.2f}%" dy="4" text-anchor="end">{t:g}</text>'
        for t in ticks(low, low + up)
    )
    say = percent if name == "accuracy" else number
    for t in ticks(left, left + across):
        x = 100 * (t - left) / across
        marks += f'<text class="tick" x="{x:.1f}%" y="100%" dy="18" text-anchor="middle">{say(t)}</text>'
    for model, x, y in points:
        kind = "start" if model["name"] == "start" else "" if model["accepted"] else "refused"
        at_x, at_y = 100 * (x - left) / across, 100 - 100 * (y - low) / up
        anchor, aside = ("end", -9) if at_x > 60 else ("start", 9)
        marks += (
            f'<circle class="dot {kind}" cx="{at_x:.2f}%" cy="{at_y:.2f}%" r="5"/>'
            f'<text class="mark" x="{at_x:.2f}%" y="{at_y:.2f}%" dx="{aside}" dy="-6" text-anchor="{anchor}">'
            f"{clean(model['name'])}</text>"
        )
    title = "; ".join(f"{m['name']}: {say(x)}, reward {number(y)}" for m, x, y in points)
    return (
        f'<div class="plot"><svg role="img" width="100%" height="190"><title>{clean(title)}</title>{marks}'
        '<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/></svg></div>'
    )


def _scale(values: Sequence[float]) -> tuple[float, float]:
    pad = 0.15 * (max(values) - min(values)) or 0.5
    return min(values) - pad, max(values) - min(values) + 2 * pad


def _finite(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]
