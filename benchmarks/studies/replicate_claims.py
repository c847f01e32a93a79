"""The claims of each experiment of `replicate.py`, with their gains by seed, and its table."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import replicate_preferences as preferences
import replicate_reinforcement as reinforcement
from replicate_cells import by_arm, paired, spread, verdict
from replicate_models import SHARES, STEPS_AFTER, converged, examples_until
from replicate_rounds import ARMS
from replicate_tokens import EMBEDDED_PIECES

COUNTS = [arm for arm in ARMS if ARMS[arm].people and ARMS[arm].kind == "truth"]


class Claim(NamedTuple):
    """A sentence and, by seed, how far it is true: above 0 as claimed, below 0 the other way."""

    text: str
    gains: list[float]
    unit: str

    def shown(self) -> dict[str, Any]:
        return {"claim": self.text, "unit": self.unit, "verdict": verdict(self.gains)} | spread(self.gains)


Table = list[tuple[str, dict[str, Sequence[float]]]]
"""(row, {column: values over seeds})."""


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """By experiment: its claims, each with unit, mean, sd, values and verdict, and its table."""
    collected: dict[str, Any] = {}
    for name, measure in (
        ("tokens", _tokens), ("holistic", _holistic), ("dedup", _dedup), ("rounds", _rounds),
        ("preferences", _preferences), ("reinforcement", _reinforcement), ("extension", _extension),
    ):  # fmt: skip
        claims, table = measure(records)
        if table:
            shown = [claim.shown() for claim in claims if claim.gains]
            rows = {row: {column: spread(v) for column, v in cells.items() if v} for row, cells in table}
            collected[name] = {"claims": shown, "table": rows}
    return collected


def _tokens(records: list[dict[str, Any]]) -> tuple[list[Claim], Table]:
    arms = by_arm(records, "tokens")
    table: Table = []
    claims: list[Claim] = []
    small, large = list(arms.get("embedded", {}).values()), list(arms.get("by-name", {}).values())
    if small:
        table.append(("embedded, 32,000", {"characters per token": [f["before"] for f in small]}))
        for pieces in EMBEDDED_PIECES:
            own = [f[f"+{pieces}"] for f in small]
            ratio = [f[f"+{pieces}"] / f["before"] for f in small]
            table.append((f"embedded, +{pieces:,}", {"characters per token": own, "ratio": ratio}))
        last = f"+{EMBEDDED_PIECES[-1]}"
        claims.append(Claim("Embedded verse: twice the efficiency", [f[last] / f["before"] - 2 for f in small], "x"))
        changed = [f["english_before"] - f["english_after"] for f in small]
        table.append(("English tokens that the extension saves or costs", {"tokens": changed}))
    if large:
        table.append(("by name, 32,000", {"characters per token": [f["before"] for f in large]}))
        ratio = [f["after"] / f["before"] for f in large]
        table.append(("by name, 60,515", {"characters per token": [f["after"] for f in large], "ratio": ratio}))
        for source in sorted(set.intersection(*(set(f["by_source"]) for f in large))):
            pairs = [f["by_source"][source] for f in large]
            cells: dict[str, Sequence[float]] = {
                "characters per token": [after for _, after in pairs],
                "ratio": [b / a for a, b in pairs],
            }
            table.append((f"by name, of it {source.removesuffix('_zh').replace('_', ' ')}", cells))
        claims.append(Claim("By-name text: twice the efficiency", [r - 2 for r in ratio], "x"))
    return claims, table


def _trained(
    name: str, arms: dict[str, dict[int, Any]], level: dict[int, float]
) -> tuple[str, dict[str, Sequence[float]]]:
    """A row of the tables of `holistic` and `dedup`."""
    own = arms[name]
    columns: dict[str, Sequence[float]] = {}
    for when in ("before", "after"):
        columns[f"right {when} SFT"] = [f[when]["accuracy"] for f in own.values()]
        columns[f"nats of right answers {when} SFT"] = [f[when]["answer_nats"] for f in own.values()]
    columns["right before, of right after"] = [_share_before(f) for f in own.values() if f["after"]["accuracy"]]
    for lang in ("zh", "en"):
        columns[f"held-out {lang}, nats"] = [f["before"][f"{lang}_nats"] for f in own.values()]
    columns["SFT examples to 95% of its own fall"] = list(_needed(own).values())
    columns["SFT examples to the level of 0%"] = list(_needed(own, level).values())
    return name, columns


def _needed(own: dict[int, Any], level: dict[int, float] | None = None) -> dict[int, float]:
    """SFT examples by seed until the loss is at `level` (None: 95% of the run's own fall); seeds that never are there
    are absent."""
    collected = {}
    for seed, f in own.items():
        limit = converged(f["sft_losses"]) if level is None else level[seed]
        needed = examples_until(f["sft_losses"], f["examples_per_step"], limit)
        if needed is not None:
            collected[seed] = needed
    return collected


def _compared(after: dict[int, Any], before: dict[int, Any], than: str) -> list[Claim]:
    """What one way of pretraining gains over another, the seeds paired."""

    def of(own: dict[int, Any], when: str, name: str) -> dict[int, float]:
        return {seed: f[when][name] for seed, f in own.items()}

    claims = []
    for when in ("before", "after"):
        right = paired(of(after, when, "accuracy"), of(before, when, "accuracy"))
        nats = paired(of(before, when, "answer_nats"), of(after, when, "answer_nats"))
        claims.append(Claim(f"More questions answered rightly {when} SFT {than}", [100 * v for v in right], "points"))
        claims.append(Claim(f"Right answers are likelier {when} SFT {than}", nats, "nats"))
    for lang in ("zh", "en"):
        nats = paired(of(before, "before", f"{lang}_nats"), of(after, "before", f"{lang}_nats"))
        claims.append(Claim(f"Held-out {lang} loss is lower {than}", nats, "nats"))
    return claims


def _holistic(records: list[dict[str, Any]]) -> tuple[list[Claim], Table]:
    arms = by_arm(records, "holistic")
    if not set(SHARES) <= arms.keys():
        return [], []
    without, full = arms["0%"], arms["10%"]
    level = {seed: converged(f["sft_losses"]) for seed, f in without.items()}
    claims = _compared(full, without, "with 10% than with 0%")
    share = [_share_before(f) - 0.9 for f in full.values() if f["after"]["accuracy"]]
    claims.append(Claim("With 10%, nine tenths of what is right after SFT is right before", share, "share - 0.9"))
    fewer = paired(_needed(without, level), _needed(full, level))
    claims.append(Claim("SFT reaches the level of 0% with fewer examples from 10%", fewer, "examples"))
    own = paired(_needed(without), _needed(full))
    claims.append(Claim("SFT reaches 95% of its own fall with fewer examples from 10%", own, "examples"))
    middle = {seed: f["before"]["answer_nats"] for seed, f in arms["5%"].items()}
    more = paired(middle, {seed: f["before"]["answer_nats"] for seed, f in full.items()})
    claims.append(Claim("10% makes right answers likelier before SFT than 5%", more, "nats"))
    return claims, [_trained(arm, arms, level) for arm in SHARES]


def _share_before(figures: dict[str, Any]) -> float:
    return figures["before"]["accuracy"] / figures["after"]["accuracy"]


def _dedup(records: list[dict[str, Any]]) -> tuple[list[Claim], Table]:
    holistic, repeats = by_arm(records, "holistic"), by_arm(records, "dedup").get("repeats", {})
    if not repeats or not {"0%", "10%"} <= holistic.keys():
        return [], []
    level = {seed: converged(f["sft_losses"]) for seed, f in holistic["0%"].items()}
    arms = {"removed": holistic["10%"], "left in": repeats}
    claims = _compared(arms["removed"], arms["left in"], "with repeats removed than left in")
    return claims, [_trained(arm, arms, level) for arm in arms]


def _rounds(records: list[dict[str, Any]]) -> tuple[list[Claim], Table]:
    arms, before = by_arm(records, "rounds"), by_arm(records, "world").get("world", {})
    if not before or not {"control", *ARMS} <= arms.keys():
        return [], []

    def right(arm: str) -> dict[int, float]:
        return {seed: 100 * f["accuracy"] for seed, f in arms[arm].items()}

    def gain(text: str, after: str, other: str) -> Claim:
        return Claim(text, paired(right(after), right(other)), "points")

    sft = {seed: 100 * f["accuracy"] for seed, f in before.items()}
    claims = [
        Claim("A round with ten candidates raises accuracy over the SFT model", paired(right("n=10"), sft), "points"),
        gain("… and over as many further steps without winners", "n=10", "control"),
        gain("Two candidates are better than one", "n=2", "n=1"),
        gain("Four are better than two", "n=4", "n=2"),
        gain("Ten are better than four", "n=10", "n=4"),
        gain("Sixteen are better than ten", "n=16", "n=10"),
        gain("Ten are better than one", "n=10", "n=1"),
        gain("People's 5% and 1% help a sound reward model", "n=10", "n=10 alone"),
        gain("People's 5% and 1% help a noisy reward model", "n=10 noisy", "n=10 noisy alone"),
    ]
    table: Table = [("SFT model", {"right": [f["accuracy"] for f in before.values()]})]
    table[0][1]["true reward"] = [f["true_reward"] for f in before.values()]
    for arm in ("control", *ARMS):
        own = list(arms[arm].values())
        cells: dict[str, Sequence[float]] = {
            "right": [f["accuracy"] for f in own],
            "true reward": [f["true_reward"] for f in own],
        }
        if arm != "control":
            cells["winners"] = [sum(f["winners"].values()) for f in own]
            cells["winners of the reward model right"] = [f["winners_right"].get("rm", 0.0) for f in own]
            cells["refused by the gate"] = [float(f["gate"] == "rejected") for f in own]
        table.append((arm, cells))
    return claims, table


def _preferences(records: list[dict[str, Any]]) -> tuple[list[Claim], Table]:
    arms = by_arm(records, "preferences")
    if not set(preferences.ARMS) <= arms.keys():
        return [], []
    reward, points = (preferences.gains(arms, name) for name in ("true_reward", "accuracy"))
    claims = []
    for loss in preferences.LOSSES:
        name = loss.upper()
        claims.append(Claim(f"{name} raises true reward over the SFT model", [*reward[loss].values()], ""))
        claims.append(Claim(f"{name} raises accuracy over the SFT model", [*points[loss].values()], "points"))
    more = paired(points["dpo"], points["winners"])
    claims.append(Claim("DPO raises accuracy more than mixing winners in", more, "points"))
    return claims, preferences.table(arms)


def _reinforcement(records: list[dict[str, Any]]) -> tuple[list[Claim], Table]:
    arms = by_arm(records, "reinforcement")
    if not set(reinforcement.ARMS) <= arms.keys():
        return [], []
    reward, points = (preferences.gains(arms, name) for name in ("true_reward", "accuracy"))
    claims = []
    for arm in reinforcement.ARMS:
        name = {"sampling": "Rejection sampling"}.get(arm, arm.upper())
        claims.append(Claim(f"{name} raises true reward over the SFT model", [*reward[arm].values()], ""))
        claims.append(Claim(f"{name} raises accuracy over the SFT model", [*points[arm].values()], "points"))
    for arm in reinforcement.LOSSES:
        more = paired(reward[arm], reward["sampling"])
        claims.append(Claim(f"{arm.upper()} raises true reward more than rejection sampling", more, ""))
    return claims, reinforcement.table(arms)


def _extension(records: list[dict[str, Any]]) -> tuple[list[Claim], Table]:
    arms = by_arm(records, "extension")
    if not {"mean", "random"} <= arms.keys():
        return [], []

    def after(arm: str, k: int, lang: str) -> dict[int, float]:
        return {seed: f["after_steps"][str(k)][f"{lang}_nats"] for seed, f in arms[arm].items()}

    claims: list[Claim] = []
    table: Table = []
    for arm, than, what in (("mean", "random", "Means of sub-tokens"), ("distilled", "mean", "Distilled, over means")):
        for lang in ("zh", "en") if arm in arms else ():
            for k in STEPS_AFTER:
                lower = paired(after(than, k, lang), after(arm, k, lang))
                claims.append(Claim(f"{what}: lower held-out {lang} loss after {k} steps", lower, "nats"))
    for k in STEPS_AFTER:
        cells: dict[str, Sequence[float]] = {
            f"{lang}, {arm}": list(after(arm, k, lang).values()) for lang in ("zh", "en") for arm in arms
        }
        table.append((f"{k} steps", cells))
    return claims, table
