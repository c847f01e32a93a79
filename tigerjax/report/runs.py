"""Training runs by the metrics that they logged: speed, use of the devices, memory, and where the time went."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.errors import DataError
from tigerjax.files import log, paths
from tigerjax.pages.charts import MOST_POINTS, curve, stacked
from tigerjax.pages.numbers import duration, number, percent
from tigerjax.report.figures import stage_name

METRICS = "metrics.jsonl"
DRAWN = {
    "tokens_per_s": ("tokens/s", lambda value: number(round(value))),
    "mfu": ("MFU", percent),
    "goodput": ("goodput", percent),
    "hbm_peak_gb": ("memory, GB", number),
    "grad_norm": ("gradient norm", number),
}
"""The keys of a logged step that are drawn, each with its title and the function that writes its last value."""


def collect(folder: Path) -> dict[str, Any]:
    """{name: {key: [[step, value], …], spent_s}} of the run in `folder`, or of all runs below it.

    A long run is thinned to MOST_POINTS steps. `spent_s` is that of the last step.
    """
    runs = {}
    for path in sorted(folder / name for name in paths.sizes(folder) if Path(name).name == METRICS):
        records = read(path)
        if not records or "checkpoints" in path.relative_to(folder).parts:
            continue
        every = -(-len(records) // MOST_POINTS)
        thinned = records[:-1][::every] + records[-1:]
        name = str(path.parent.relative_to(folder)) if path.parent != folder else paths.resolved(folder).name
        lines = {key: [[r["step"], r[key]] for r in thinned if r.get(key) is not None] for key in DRAWN}
        runs[name] = {key: line for key, line in lines.items() if line} | {"spent_s": records[-1].get("spent_s") or {}}
    return runs


def of_run(folder: Path) -> dict[str, Any]:
    """The report of a single training run."""
    records = read(folder / METRICS)
    if not records:
        raise DataError(f"{folder / METRICS}: no step was logged yet; the run goes on with the same `tigerjax train`")
    name = paths.resolved(folder).name
    report: dict[str, Any] = {"version": tigerjax.__version__, "title": f"Run {name}", "curves": {}}
    report["curves"][name] = [
        [r["step"], float("nan") if r.get("loss_nats") is None else r["loss_nats"]] for r in records
    ]
    if shares := records[-1].get("shares"):
        report["shares"] = {"wanted": {}, "realised": shares}
    return report


def read(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a metrics.jsonl. A last line that a kill cut short is left out."""
    records = log.records(path)
    for line_number, record in enumerate(records, 1):
        if what := _unlike_a_step(record):
            raise DataError(f"{path}:{line_number}: {what}; remove the line, which no run has logged")
    return records


def _unlike_a_step(record: Any) -> str:
    """What keeps a record from being a logged step: a value that the report reads and that is no number."""
    if not isinstance(record, dict) or not _is_number(record.get("step")):
        return "not an object with a number `step`"
    for key in ("loss_nats", *DRAWN):
        if not (record.get(key) is None or _is_number(record[key])):
            return f"{key} is {str(record[key])[:40]!r}, not a number"
    for key in ("spent_s", "shares"):
        inner = record.get(key) or {}
        if not (isinstance(inner, dict) and all(map(_is_number, inner.values()))):
            return f"{key} is {str(inner)[:40]!r}, not an object of numbers"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def speed(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the section: small plots of each run, and a bar of where its time went."""
    runs = []
    for name, lines in (report.get("runs") or {}).items():
        plots = []
        for key, (title, text) in DRAWN.items():
            if line := [(float(x), float(y)) for x, y in lines.get(key) or []]:
                plots.append((title, text(line[-1][1]), curve(line, f"{name}: {title}", name)))
        spent = {k: float(v) for k, v in (lines.get("spent_s") or {}).items() if v > 0}
        total = sum(spent.values())
        texts = {k: f"{duration(v)} ({percent(v / total)})" for k, v in spent.items()}
        bar = stacked(spent, texts) if spent else None
        runs.append({"name": stage_name(name), "plots": plots, "spent": bar, "total": duration(total)})
    return {"runs": runs} if runs else {}
