"""What the cells of `replicate.py` say: claims with their spread and verdict, and docs/REPLICATION.md."""

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import replicate_plots as plots
from replicate_cells import VERDICTS, clock
from replicate_claims import summary

from tigerjax.files import manifest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, KEPT = DOCS / "REPLICATION.md", DOCS / "replication" / "cells.json"
TEXT = Path(__file__).with_name("replicate.md")
DIGITS = 5
NOT_YET = "**Not yet run.** `python benchmarks/studies/replicate.py --seeds 0 1 2 3 4 --only {name}` measures it."
LATER = ("preferences", "reinforcement")
"""They have seeds of their own, and a place on the page before they are measured."""


class Words(NamedTuple):
    """Of one experiment: its title, what was done, and what to make of it, all without figures."""

    title: str
    what: str
    meaning: str


def words() -> tuple[str, dict[str, Words]]:
    """The head of the page, and the words of each experiment, from replicate.md: `## name: title`, what was done, a
    line `---`, and what it means."""
    head, *sections = TEXT.read_text(encoding="utf-8").split("\n## ")
    collected = {}
    for section in sections:
        title, _, body = section.partition("\n")
        name, _, title = title.partition(": ")
        what, _, meaning = body.partition("\n---\n")
        collected[name] = Words(title, what.strip(), meaning.strip())
    return head.strip(), collected


def gather(out: Path) -> list[dict[str, Any]]:
    """The records of all finished cells of a folder, in order of experiment, arm and seed."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("cells/*/*.json"))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _amount(s: dict[str, Any], *, sign: bool = False) -> str:
    mean = ("+" if sign and s["mean"] > 0 else "") + _number(s["mean"])
    return mean if s["sd"] is None else f"{mean} ± {_number(s['sd'])}"


def lines(collected: dict[str, Any]) -> list[str]:
    """The claims for a terminal."""
    out = []
    for name, own in collected.items():
        out.append(f"{name}: {words()[1][name].title}")
        for c in own["claims"]:
            values = "  ".join(("+" if v > 0 else "") + _number(v) for v in c["values"])
            out.append(f"  {c['verdict']:13} {c['claim']:72} {_amount(c, sign=True)} {c['unit']}   {values}")
    return out


def markdown(records: list[dict[str, Any]]) -> str:
    """docs/REPLICATION.md."""
    collected = summary(records)
    seeds = sorted({r["seed"] for r in records if r["experiment"] in collected and r["experiment"] not in LATER})
    commits = " and ".join(sorted({r["commit"] for r in records}))
    total = sum(r["seconds"] for r in records)
    head, texts = words()
    named, minutes = ", ".join(map(str, seeds)), round(total / 60)
    steps: dict[str, int] = next((r["settings"]["steps"] for r in records if r["experiment"] == "holistic"), {})
    out = [head.format(seeds=named, commits=commits, minutes=minutes, cells=len(records), **steps), ""]
    out += ["| word | meaning |", "|---|---|", *(f"| {word} | {meaning} |" for word, meaning in VERDICTS.items()), ""]
    for name, text in texts.items():
        if name not in collected:
            out += [f"## {text.title}", "", text.what, "", NOT_YET.format(name=name), ""]
            continue
        own = collected[name]
        parts = [r for r in records if r["experiment"] in (name, *plots.MADE_FOR.get(name, ()))]
        spent = clock(sum(r["seconds"] for r in parts))
        out += [f"## {text.title}", "", text.what, "", f"![{text.title}](replication/{name}.png)", ""]
        out += ["| claim | verdict | gain, mean ± sd | by seed |", "|---|---|---|---|"]
        for c in own["claims"]:
            values = ", ".join(_number(v) for v in c["values"])
            out.append(f"| {c['claim']} | **{c['verdict']}** | {_amount(c, sign=True)} {c['unit']} | {values} |")
        columns = list(dict.fromkeys(column for cells in own["table"].values() for column in cells))
        out += ["", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for row, cells in own["table"].items():
            shown = (_amount(cells[column]) if column in cells else "" for column in columns)
            out.append(f"| {row} | {' | '.join(shown)} |")
        out += ["", text.meaning, "", f"Time of its {len(parts)} cells, minutes:seconds: {spent}.", ""]
    slowest = statistics.median(r["seconds"] for r in records), max(records, key=lambda r: r["seconds"])
    what = "{experiment} / {arm} / seed {seed}".format(**slowest[1])
    out.append(f"Median of a cell {slowest[0]:.0f} s, the longest ({what}) {slowest[1]['seconds']:.0f} s.")
    return "\n".join(out) + "\n"


def write(records: list[dict[str, Any]]) -> None:
    """The page, its plots, and the cells that all of it is made of. An experiment that was not measured again keeps the
    cells that the page has. SystemExit when none was."""
    fresh = set(summary(records))
    if not fresh:
        names = ", ".join(name for name in words()[1] if name not in LATER)
        raise SystemExit(f"no finished cells of {names}; run the same command without --write first")
    fresh |= {name for of in fresh for name in plots.MADE_FOR.get(of, ())}
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    records = [r for r in kept if r["experiment"] not in fresh] + [r for r in records if r["experiment"] in fresh]
    manifest.write_json(KEPT, short(records))
    records = json.loads(KEPT.read_text(encoding="utf-8"))
    plots.draw(records, KEPT.parent)
    PAGE.write_text(markdown(records), encoding="utf-8")


def short(value: Any) -> Any:
    """Floats to a few significant digits: what is committed must say no more than it can."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: short(own) for key, own in value.items()}
    return [short(own) for own in value] if isinstance(value, list) else value
