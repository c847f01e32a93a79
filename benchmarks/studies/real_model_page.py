"""docs/REAL_MODEL.md, its plot and its cells, from the finished cells of `real_model.py`."""

import json
import statistics
from pathlib import Path
from typing import Any

from replicate_cells import VERDICTS, by_arm, clock, paired, spread, verdict
from replicate_page import gather, short

from tigerjax.files import manifest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, KEPT = DOCS / "REAL_MODEL.md", DOCS / "real_model" / "cells.json"
TEXT = Path(__file__).with_name("real_model.md")
COLOURS = ("#8b8f97", "#3f6fa8", "#c4591c")
SHOWN = {
    "start": "as published",
    "sft": "SFT on its own answers",
    "random": "winners at random",
    "round1": "rejection sampling, round 1",
    "round2": "rejection sampling, round 2",
    "dpo": "DPO",
    "demonstrations": "SFT on right answers",
}
AGAINST = ("start", "sft", "random", "dpo", "demonstrations")
Arms = dict[str, dict[int, dict[str, Any]]]


def write(out: Path) -> None:
    """The page of all finished cells; SystemExit when there are none."""
    records = gather(out)
    if not records:
        raise SystemExit(f"no finished cells in {out}; run the same command without --write first")
    KEPT.parent.mkdir(exist_ok=True)
    manifest.write_json(KEPT, short(records))
    records = json.loads(KEPT.read_text(encoding="utf-8"))
    arms = by_arm(records, "rounds")
    _draw(arms, KEPT.parent / "rounds.png")
    PAGE.write_text(_markdown(records, arms), encoding="utf-8")


def _points(arms: Arms, name: str, figure: str = "accuracy") -> dict[int, float]:
    return {seed: 100 * f[figure] for seed, f in arms.get(name, {}).items()}


def _amount(values: list[float], *, sign: bool = False) -> str:
    s = spread(values)
    mean = f"{s['mean']:+.1f}" if sign else f"{s['mean']:.1f}"
    return mean if s["sd"] is None else f"{mean} ± {s['sd']:.1f}"


def _markdown(records: list[dict[str, Any]], arms: Arms) -> str:
    head, meaning = TEXT.read_text(encoding="utf-8").split("\n---\n")
    seeds = sorted({seed for own in arms.values() for seed in own})
    commits = " and ".join(sorted({r["commit"] for r in records}))
    first = next(iter(arms["start"].values()))
    given = {"seeds": ", ".join(map(str, seeds)), "commits": commits, "cells": len(records), "n": first["n"]}
    given["minutes"] = str(round(sum(r["seconds"] for r in records) / 60))
    out = [head.strip().format(**given), "", "![Rules kept](real_model/rounds.png)", ""]
    out += [
        "| | rules kept, % | over as published | words an answer | questions with four choices, % |",
        "|---" * 5 + "|",
    ]
    for name, label in SHOWN.items():
        if name in arms:
            kept = _points(arms, name)
            gain = _amount(paired(kept, _points(arms, "start")), sign=True) if name != "start" else ""
            words = _amount([f["words"] for f in arms[name].values()])
            other = _amount(list(_points(arms, name, "choices").values()))
            out.append(f"| {label} | {_amount(list(kept.values()))} | {gain} | {words} | {other} |")
    out += ["", "| claim | verdict | gain in points | by seed |", "|---|---|---|---|"]
    for name in ("round1", "round2"):
        for other in AGAINST if name == "round1" else ("round1", *AGAINST):
            gains = paired(_points(arms, name), _points(arms, other))
            values = ", ".join(f"{g:+.1f}" for g in gains)
            out.append(
                f"| {SHOWN[name]} is above {SHOWN[other].lower().replace('dpo', 'DPO').replace('sft', 'SFT')} |"
                f" **{verdict(gains)}** | {_amount(gains, sign=True)} | {values} |"
            )
    out += ["", *(f"*{word}*: {what}." for word, what in VERDICTS.items() if word in " ".join(out)), ""]
    out += ["What a round saw, shares in %:", "", "| | round 1 | round 2 |", "|---|---|---|"]
    rounds = [list(arms[name].values()) for name in ("round1", "round2")]
    for label, figure in (("right candidates", "candidates_right"), ("prompts with any", "prompts_with_a_right_one")):
        out.append(f"| {label} | {' | '.join(_amount([100 * f[figure] for f in own]) for own in rounds)} |")
    for who, label in (("rm", "the reward model"), ("human", "people's ranking"), ("edit", "people's edits")):
        rights = [[100 * f["winners_right"][who] for f in own if who in f["winners_right"]] for own in rounds]
        out.append(f"| right winners of {label} | {' | '.join(_amount(own) if own else '' for own in rights)} |")
    out.append(f"| gate | {' | '.join(', '.join(f['gate'] for f in own) for own in rounds)} |")
    reward = list(arms["reward"].values())
    out += [
        "",
        f"Pairs of held-out prompts in the right order by reward, %: {_amount([100 * f['accuracy'] for f in reward])}.",
        "",
    ]
    names = list(first["by_family"])
    shown = [name for name in SHOWN if name in arms]
    out += [
        "Rules kept by family, %: mean over seeds.",
        "",
        f"| | {' | '.join(SHOWN[name] for name in shown)} |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for family in names:
        means = (statistics.mean(100 * f["by_family"][family] for f in arms[name].values()) for name in shown)
        out.append(f"| {family} | {' | '.join(f'{mean:.0f}' for mean in means)} |")
    out += ["", "## Answers", "", *_answers(arms), meaning.strip(), ""]
    spent = clock(sum(r["seconds"] for r in records))
    out.append(f"Time of the {len(records)} cells on two cores, minutes:seconds: {spent}.")
    return "\n".join(out) + "\n"


def _answers(arms: Arms) -> list[str]:
    """Prompts with the answers as published and after the second round, of the first seed."""
    before, after = (next(iter(arms[name].values()))["answers"] for name in ("start", "round2"))
    rows = ["| prompt | as published | after round 2 |", "|---|---|---|"]
    for prompt in before:
        cells = (" ".join(text.split()).replace("|", "\\|") for text in (prompt, before[prompt], after[prompt]))
        rows.append(f"| {' | '.join(cells)} |")
    return [*rows, ""]


def _draw(arms: Arms, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    shown = [name for name in SHOWN if name in arms][::-1]
    for row, name in enumerate(shown):
        values = list(_points(arms, name).values())
        colour = COLOURS[2 if name.startswith("round") else 0 if name == "start" else 1]
        axes.barh(row, statistics.mean(values), color=colour, alpha=0.6)
        axes.plot(values, [row] * len(values), "k.", markersize=4)
    axes.set_yticks(range(len(shown)), [SHOWN[name] for name in shown])
    axes.set(xlabel="rules kept by greedy answers to new prompts, % (a dot per seed)", xlim=(0, None))
    figure.savefig(path, metadata={"Software": ""})
    plt.close(figure)
