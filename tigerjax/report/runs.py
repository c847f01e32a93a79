"""Training runs by the metrics that they logged: speed, use of the devices, memory, and where the time went."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.checkpoint import files as checkpoints
from tigerjax.checkpoint import meta
from tigerjax.errors import DataError
from tigerjax.files import log, paths
from tigerjax.pages.charts import MOST_POINTS, curve, stacked
from tigerjax.pages.numbers import duration, number, percent
from tigerjax.report import validation
from tigerjax.report.figures import stage_name

METRICS, CONFIG = "metrics.jsonl", "config.txt"
DRAWN = {
    "tokens_per_s": ("speed", "tokens/s", lambda value: number(round(value))),
    "mfu": ("MFU", "share of the peak", percent),
    "goodput": ("goodput", "share of the time", percent),
    "hbm_peak_gb": ("memory", "GB", number),
    "grad_norm": ("gradient norm", "", number),
    "reward_margin": ("margin of rewards", "", number),
    "reward_accuracy": ("pairs in the right order", "share of the pairs", percent),
    "chosen_reward": ("reward of better answers", "", number),
    "rejected_reward": ("reward of worse answers", "", number),
    "reward": ("reward of the roll-outs", "", number),
    "kl_nats": ("divergence from the reference", "nats", number),
    "entropy_nats": ("entropy of a token", "nats", number),
    "answer_tokens": ("length of an answer", "tokens", number),
    "mismatch_mean_nats": ("sampler against trainer", "nats", number),
}
"""The keys of a logged step that are drawn, each with its title, its unit and the function that writes its last
value."""


def collect(folder: Path) -> dict[str, Any]:
    """{"runs": {name: {key: [[step, value], …], spent_s}}, "validation": {name: what `validation.collect` gives}} of
    the run in `folder`, or of all runs below it.

    A long run is thinned to MOST_POINTS steps. `spent_s` is that of the last step. `validation` has the runs that were
    validated.
    """
    runs, validated = {}, {}
    for path in sorted(folder / name for name in paths.sizes(folder) if Path(name).name == METRICS):
        records = read(path)
        if not records or "checkpoints" in path.relative_to(folder).parts:
            continue
        every = -(-len(records) // MOST_POINTS)
        thinned = records[:-1][::every] + records[-1:]
        name = str(path.parent.relative_to(folder)) if path.parent != folder else paths.resolved(folder).name
        lines = {key: [[r["step"], r[key]] for r in thinned if r.get(key) is not None] for key in DRAWN}
        runs[name] = {key: line for key, line in lines.items() if line} | {"spent_s": records[-1].get("spent_s") or {}}
        if found := validation.collect(records):
            validated[name] = found
    return {"runs": runs, "validation": validated}


def of_run(folder: Path) -> dict[str, Any]:
    """The report of a single training run.

    Raises DataError where no step was logged yet.
    """
    records = read(folder / METRICS)
    if not records:
        raise DataError(f"{folder / METRICS}: no step was logged yet; the same `tigerjax train` resumes the run")
    name, place = _name(folder), paths.resolved(folder).name
    title = f"Run {name}" if name == place else f"Run {name}, in {place}"
    report: dict[str, Any] = {"version": tigerjax.__version__, "title": title, "curves": {}}
    report["curves"][name] = [
        [r["step"], float("nan") if r.get("loss_nats") is None else r["loss_nats"]] for r in records
    ]
    if shares := records[-1].get("shares"):
        report["shares"] = {"wanted": _wanted(folder), "realised": shares}
    return report


def _name(folder: Path) -> str:
    """The name that the run's config gives it, else the name of its folder."""
    path = folder / CONFIG
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    given = [line.removeprefix("name = ") for line in lines if line.startswith("name = ")]
    return str(ast.literal_eval(given[0])) if given else paths.resolved(folder).name


def _wanted(folder: Path) -> dict[str, float]:
    """The token shares that the mixture of a run asks for, as its newest checkpoint has them; empty without one."""
    place = folder / "checkpoints"
    steps = checkpoints.steps(place)
    try:
        position = meta.read(place / str(steps[0]) / meta.META).get("loader") if steps else None
    except DataError:  # a damaged checkpoint is a matter of `tigerjax checkpoint verify`
        return {}
    return dict(position["rates"]) if isinstance(position, dict) and "rates" in position else {}


def read(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a metrics.jsonl. A last line that a kill cut short is left out.

    Raises DataError for any other line that is broken.
    """
    records = log.records(path)
    for line_number, record in enumerate(records, 1):
        if what := _unlike_a_step(record):
            raise DataError(f"{path}:{line_number}: {what}; remove the line, which no run has logged")
    return records


def _unlike_a_step(record: Any) -> str:
    """What keeps a record from being a logged step: a value that the report reads and that is no number."""
    if not isinstance(record, dict) or not _is_number(record.get("step")):
        return "not an object with a number `step`"
    for key in ("loss_nats", "train_loss_nats", *DRAWN):
        if not (record.get(key) is None or _is_number(record[key])):
            return f"{key} is {record[key]!r:.40}, not a number"
    for key in ("spent_s", "shares"):
        inner = record.get(key) or {}
        if not (isinstance(inner, dict) and all(map(_is_number, inner.values()))):
            return f"{key} is {inner!r:.40}, not an object of numbers"
    return validation.unlike_a_validation(record)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def speed(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the section: small plots of each run, and a bar of where its time went."""
    runs = []
    for name, lines in (report.get("runs") or {}).items():
        plots = []
        for key, (title, unit, text) in DRAWN.items():
            if line := [(float(x), float(y)) for x, y in lines.get(key) or []]:
                last = text(line[-1][1]) + (f" {unit}" if key in ("tokens_per_s", "hbm_peak_gb") else "")
                plots.append((title, last, curve(line, f"{name}: {title}", name, unit)))
        spent = {k: float(v) for k, v in (lines.get("spent_s") or {}).items() if v > 0}
        total = sum(spent.values())
        texts = {k: f"{duration(v)} ({percent(v / total)})" for k, v in spent.items()}
        bar = stacked(spent, texts) if spent else None
        runs.append({"name": stage_name(name), "plots": plots, "spent": bar, "total": duration(total)})
    return {"runs": runs} if runs else {}
