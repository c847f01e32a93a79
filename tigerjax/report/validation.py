"""Held-out figures of runs beside the loss of training: what is collected of the logged steps, and the section."""

from collections.abc import Mapping, Sequence
from typing import Any

from tigerjax import pages
from tigerjax.pages.charts import MOST_POINTS
from tigerjax.pages.lines import MOST_LINES, lines, plot
from tigerjax.pages.numbers import number, percent
from tigerjax.report.figures import stage_name

TRAINING = "training"
MEASURED = ("loss_nats", "accuracy", "tokens")
TABLES = {"by_lang": "language", "by_source": "source", "by_task": "task"}


def collect(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{train: [[step, loss], …], sets: {name: [[step, loss], …]}, last: figures by set, best: {name: [step, loss]},
    rising: {name: step}} of a run's logged steps; empty where none was validated.

    `train` is the mean loss of training since the validation before. `last` are the figures of the last validation.
    """
    validated = [record for record in records if record.get("validation")]
    if not validated:
        return {}
    last = validated[-1]["validation"]
    of_set = {
        name: [[r["step"], r["validation"][name]["loss_nats"]] for r in validated if _loss(r, name) is not None]
        for name in last
    }
    every = -(-len(validated) // MOST_POINTS)
    train = [[r["step"], r["train_loss_nats"]] for r in validated if r.get("train_loss_nats") is not None]
    return {
        "train": _thinned(train, every),
        "sets": {name: _thinned(line, every) for name, line in of_set.items()},
        "last": last,
        "best": {name: min(line, key=lambda at: at[1]) for name, line in of_set.items() if line},
        "rising": {name: record["step"] for record in validated for name in record.get("rising") or ()},
    }


def _loss(record: Mapping[str, Any], name: str) -> Any:
    return record["validation"].get(name, {}).get("loss_nats")


def _thinned(line: list[Any], every: int) -> list[Any]:
    return line[:-1][::every] + line[-1:]


def unlike_a_validation(record: Mapping[str, Any]) -> str:
    """What keeps the validation in a logged step from being one; empty where it is one, or there is none."""
    found, rising = record.get("validation"), record.get("rising") or []
    if not isinstance(rising, list) or not all(isinstance(name, str) for name in rising):
        return f"rising is {rising!r:.40}, not a list of names"
    if found is None:
        return ""
    if not isinstance(found, dict) or not all(_is_part(part, inner=False) for part in found.values()):
        return f"validation is {found!r:.40}, not figures of held-out sets"
    return ""


def _is_part(part: Any, *, inner: bool) -> bool:
    if not isinstance(part, dict) or not all(_is_figure(part.get(key)) for key in MEASURED):
        return False
    tables = [] if inner else [part[table] for table in TABLES if table in part]
    return all(isinstance(by, dict) and all(_is_part(one, inner=True) for one in by.values()) for by in tables)


def _is_figure(value: Any) -> bool:
    """Also None, for a loss that was not finite."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def validation(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the section: of each run its plots, a table of the last figures, and what was found rising."""
    runs = []
    for name, found in (report.get("validation") or {}).items():
        rising = [f"{of} (step {number(step)})" for of, step in found["rising"].items()]
        runs.append({"name": stage_name(name), "plots": _plots(found), "table": _table(found), "rising": rising})
    return {"runs": runs} if runs else {}


def _plots(found: Mapping[str, Any]) -> list[Any]:
    """Plots of at most MOST_LINES lines, training in each of them."""
    names, plots = [name for name, line in found["sets"].items() if line], []
    for first in range(0, len(names), MOST_LINES - 1):
        shown = {TRAINING: found["train"]} | {n: found["sets"][n] for n in names[first : first + MOST_LINES - 1]}
        plots.append(lines(plot(shown, "step", "nats")))
    return plots


def _table(found: Mapping[str, Any]) -> pages.Table:
    rows = []
    for name, whole in found["last"].items():
        step, best = found["best"].get(name) or (None, None)
        rows.append([name, *_cells(whole), "" if best is None else f"{number(best)} (step {number(step)})"])
        for table, word in TABLES.items():
            rows += [[f"{name}, {word} {inner}", *_cells(part), ""] for inner, part in whole.get(table, {}).items()]
    return pages.Table(["held out", "nats", "right", "tokens", "lowest nats"], rows)


def _cells(part: Mapping[str, Any]) -> list[str]:
    right = "" if part["accuracy"] is None else percent(part["accuracy"])
    if "loss_nats" not in part:  # answers to questions
        return ["", right, f"{number(part['n'])} questions"]
    loss = part["loss_nats"]
    return ["not finite" if loss is None else number(loss), right, number(part["tokens"])]


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows for the terminal: of each run and held-out set the first, the last and the lowest loss."""
    rows = []
    for name, found in (report.get("validation") or {}).items():
        for of, line in found["sets"].items():
            if line:
                step, best = found["best"][of]
                text = f"{number(line[0][1])} → {number(line[-1][1])}, lowest {number(best)} at step {number(step)}"
                rows.append((f"held-out loss of {stage_name(name)} on {of}, nats", text))
        for of, step in found["rising"].items():
            rows.append((f"rising in {stage_name(name)}", f"{of}, at step {number(step)}, while training fell"))
    return rows
