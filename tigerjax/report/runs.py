"""Training runs by their metrics: speed, use of the devices, memory, where the time went."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.report.charts import MOST_POINTS, clean, curve, stacked
from tigerjax.report.figures import duration, number, percent, stage_name
from tigerjax.report.parts import section

METRICS = "metrics.jsonl"
DRAWN = {
    "tokens_per_s": ("tokens/s", lambda value: number(round(value))),
    "mfu": ("MFU", percent),
    "goodput": ("goodput", percent),
    "hbm_peak_gb": ("memory, GB", number),
    "grad_norm": ("gradient norm", number),
}
"""Keys of a record that are drawn, with their title and how their last value is said."""


def collect(folder: Path) -> dict[str, Any]:
    """{name: {key: [[step, value], …], spent_s}} of the run in `folder`, or of those in it, by their last record."""
    found = {}
    for path in sorted(folder / name for name in paths.sizes(folder) if Path(name).name == METRICS):
        records = read(path)
        if not records or "checkpoints" in path.relative_to(folder).parts:
            continue
        every = -(-len(records) // MOST_POINTS)
        kept = records[:-1][::every] + records[-1:]
        name = str(path.parent.relative_to(folder)) if path.parent != folder else paths.resolved(folder).name
        lines = {key: [[r["step"], r[key]] for r in kept if r.get(key) is not None] for key in DRAWN}
        found[name] = {key: line for key, line in lines.items() if line} | {"spent_s": records[-1].get("spent_s") or {}}
    return found


def of_run(folder: Path) -> dict[str, Any]:
    """The report of a single training run."""
    records = read(folder / METRICS)
    if not records:
        raise DataError(f"{folder / METRICS}: no step was logged yet; the run goes on with the same `tigerjax train`")
    name = paths.resolved(folder).name
    report: dict[str, Any] = {"version": tigerjax.__version__, "title": f"Run {name}", "curves": {}}
    report["curves"][name] = [[r["step"], float("nan") if r["loss_nats"] is None else r["loss_nats"]] for r in records]
    if shares := records[-1].get("shares"):
        report["shares"] = {"wanted": {}, "realised": shares}
    return report


def read(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics.jsonl; a last line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for line_number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if line_number < len(lines):
                raise DataError(f"{path}:{line_number}: broken JSON: {error}; remove the line") from error
    return records


def speed(report: Mapping[str, Any]) -> str:
    """The section: a row of small plots a run, and a bar of where its time went."""
    body = ""
    for name, told in (report.get("runs") or {}).items():
        plots = ""
        for key, (title, say) in DRAWN.items():
            if line := [(float(x), float(y)) for x, y in told.get(key) or []]:
                drawn = curve(line, f"{name}: {title}", name)
                plots += f'<div><h4>{title}</h4><span class="note">{say(line[-1][1])} at the end</span>{drawn}</div>'
        spent = {k: float(v) for k, v in (told.get("spent_s") or {}).items() if v > 0}
        body += f'<h3>{clean(stage_name(name))}</h3><div class="curves small">{plots}</div>'
        if spent:
            total = sum(spent.values())
            said = {k: f"{duration(v)} ({percent(v / total)})" for k, v in spent.items()}
            body += f'<p class="note">Where {duration(total)} went</p>' + stacked(spent, said)
    lead = (
        "Goodput is the share of wall time in steps since the run began, restarts included. MFU and memory are there "
        "where the devices tell them, which CPUs do not."
    )
    return section("speed", "Speed and time of the runs", lead, body) if body else ""
