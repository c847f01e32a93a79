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
CLAIMED = {
    "start": "the model as published",
    "sft": "SFT on its own answers",
    "random": "winners at random",
    "round1": "round 1",
    "dpo": "DPO",
    "demonstrations": "SFT on right answers",
}
TEXT_ARMS = {
    "before": "as published",
    "mix_0": "0% instructions",
    "mix_5": "5% instructions",
    "rows_mean": "10% instructions, rows of means",
    "rows_random": "10%, random rows",
    "rows_distilled": "10%, distilled rows",
}
TO_RUN = "python benchmarks/studies/real_model.py --only text --seeds 0"
Arms = dict[str, dict[int, dict[str, Any]]]


def write(out: Path) -> None:
    """The page of all finished cells; SystemExit when there are none."""
    records = gather(out)
    if not records:
        raise SystemExit(f"no finished cells in {out}; run the same command without --write first")
    KEPT.parent.mkdir(exist_ok=True)
    manifest.write_json(KEPT, short(records))
    records = json.loads(KEPT.read_text(encoding="utf-8"))
    _draw(by_arm(records, "rounds"), KEPT.parent / "rounds.png")
    if text := by_arm(records, "text"):
        _draw_text(text, KEPT.parent / "text.png")
    PAGE.write_text(markdown(records), encoding="utf-8")


def _points(arms: Arms, name: str, figure: str = "accuracy") -> dict[int, float]:
    return {seed: 100 * f[figure] for seed, f in arms.get(name, {}).items()}


def _amount(values: list[float], *, sign: bool = False) -> str:
    s = spread(values)
    mean = f"{s['mean']:+.1f}" if sign else f"{s['mean']:.1f}"
    return mean if s["sd"] is None else f"{mean} ± {s['sd']:.1f}"


def markdown(records: list[dict[str, Any]]) -> str:
    """docs/REAL_MODEL.md."""
    head, meaning, text_head, text_meaning = TEXT.read_text(encoding="utf-8").split("\n---\n")
    arms, text = by_arm(records, "rounds"), by_arm(records, "text")
    own = [r for r in records if r["experiment"] == "rounds"]
    given = {
        "seeds": ", ".join(map(str, sorted({r["seed"] for r in own}))),
        "commits": " and ".join(sorted({r["commit"] for r in records})),
        "cells": len(records),
        "n": next(iter(arms["start"].values()))["n"],
        "minutes": str(round(sum(r["seconds"] for r in records) / 60)),
    }
    out = [
        head.strip().format(**given),
        "",
        *_rounds(arms),
        meaning.strip(),
        "",
        *_answers(arms),
        text_head.strip(),
        "",
    ]
    out += [*_texts(text), text_meaning.strip(), ""] if text else [f"**Not yet run.** `{TO_RUN}` measures it.", ""]
    spent = clock(sum(r["seconds"] for r in records))
    return "\n".join([*out, f"Time of the {len(records)} cells on two cores, minutes:seconds: {spent}."]) + "\n"


def _rounds(arms: Arms) -> list[str]:
    out = ["![Rules kept](real_model/rounds.png)", ""]
    out += ["| | rules kept, % | over as published | words an answer | four choices right, % |", "|---" * 5 + "|"]
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
            if gains := paired(_points(arms, name), _points(arms, other)):
                values = ", ".join(f"{g:+.1f}" for g in gains)
                claim = f"round {name[-1]} is above {CLAIMED[other]}"
                out.append(f"| {claim} | **{verdict(gains)}** | {_amount(gains, sign=True)} | {values} |")
    said = " ".join(out)
    out += ["", " ".join(f"*{word}*: {what}." for word, what in VERDICTS.items() if f"**{word}**" in said), ""]
    out += ["What a round saw, shares in %:", "", "| | round 1 | round 2 |", "|---|---|---|"]
    rounds = [list(arms[name].values()) for name in ("round1", "round2")]
    for label, figure in (("right candidates", "candidates_right"), ("prompts with any", "prompts_with_a_right_one")):
        out.append(f"| {label} | {' | '.join(_amount([100 * f[figure] for f in own]) for own in rounds)} |")
    for who, label in (("rm", "the reward model"), ("human", "people's ranking"), ("edit", "people's edits")):
        rights = [[100 * f["winners_right"][who] for f in own if who in f["winners_right"]] for own in rounds]
        out.append(f"| right winners of {label} | {' | '.join(_amount(own) if own else '' for own in rights)} |")
    out.append(f"| gate | {' | '.join(', '.join(f['gate'] for f in own) for own in rounds)} |")
    right = _amount([100 * f["accuracy"] for f in arms["reward"].values()])
    out += ["", f"Pairs of held-out prompts in the right order by reward: {right}%.", ""]
    shown = [name for name in SHOWN if name in arms]
    out += [f"| rules kept, % | {' | '.join(SHOWN[name] for name in shown)} |", "|---" * (len(shown) + 1) + "|"]
    for family in next(iter(arms["start"].values()))["by_family"]:
        means = (statistics.mean(100 * f["by_family"][family] for f in arms[name].values()) for name in shown)
        out.append(f"| {family} | {' | '.join(f'{mean:.0f}' for mean in means)} |")
    return [*out, ""]


def _texts(arms: Arms) -> list[str]:
    per_token = next(iter(arms["before"].values()))["characters_per_token"]
    grown = ", ".join(
        f"{lang} {own:.3f} to {per_token['after'][lang]:.3f}" for lang, own in per_token["before"].items()
    )
    out = ["![Held-out loss](real_model/text.png)", "", f"Characters per token of held-out text: {grown}.", ""]
    losses = [(lang, each) for lang in ("zh", "en") for each in ("character", "token")]
    names = ("capitals_zh", "capitals_en", "choices")
    heads = [f"{lang}, nats per {each}" for lang, each in losses] + [
        f"{name.replace('_', ', ')} right, %" for name in names
    ]
    out += [f"| arm | steps | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for arm, label in TEXT_ARMS.items():
        seeds = list(arms.get(arm, {}).values())
        for step in seeds[0]["after"] if seeds else ():
            own = [f["after"][step] for f in seeds]
            cells = [f"{statistics.mean(f[f'{lang}_nats_a_{each}'] for f in own):.3f}" for lang, each in losses]
            for name in names:
                rights = [f[f"{name}_right"] for f in own]
                cells.append(
                    f"{100 * statistics.mean(r['share'] for r in rights):.0f} ± {100 * rights[0]['error']:.0f}"
                )
            out.append(f"| {label} | {step} | {' | '.join(cells)} |")
    n = {name: next(iter(arms["before"].values()))["after"]["0"][f"{name}_right"]["n"] for name in names}
    asked = ", ".join(f"{name.replace('_', ', ')} {count}" for name, count in n.items())
    return [*out, "", f"Behind ± stands the standard error over the questions, of which there are: {asked}.", ""]


def _answers(arms: Arms) -> list[str]:
    """Prompts with the answers as published and after the second round, of the first seed."""
    before, after = (next(iter(arms[name].values()))["answers"] for name in ("start", "round2"))
    rows = ["Prompts of the test, and the answers of the first seed:", "", "| prompt | as published | after round 2 |"]
    rows.append("|---|---|---|")
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


def _draw_text(arms: Arms, path: Path) -> None:
    """Held-out loss by character over the steps, a panel for each language; as published, a line across."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axes, (lang, name) in zip(panels, (("zh", "Chinese"), ("en", "English")), strict=True):
        loss = f"{lang}_nats_a_character"
        for arm, label in TEXT_ARMS.items():
            seeds = list(arms.get(arm, {}).values())
            if not seeds:
                continue
            means = {int(step): statistics.mean(f["after"][step][loss] for f in seeds) for step in seeds[0]["after"]}
            if arm == "before":
                axes.axhline(means[0], color=COLOURS[0], linestyle="--", label=label)
                continue
            if 0 not in means:  # a mixture begins with the rows of means
                means = {0: statistics.mean(f["after"]["0"][loss] for f in arms["rows_mean"].values())} | means
            axes.plot(list(means), list(means.values()), marker="o", markersize=4, label=label)
        axes.set(title=name, xlabel="steps", ylabel="held-out nats per character")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": ""})
    plt.close(figure)
