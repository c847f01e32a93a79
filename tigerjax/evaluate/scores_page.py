"""The scores of evaluations as tables, for the terminal and for a page: alone, beside published figures, compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax import pages
from tigerjax.evaluate import published
from tigerjax.evaluate.benchmarks import BENCHMARKS
from tigerjax.pages import Table

LANGUAGES = {"en": "English", "zh": "Chinese"}


def score_table(results: dict[str, Any]) -> Table:
    """One row for each benchmark that was asked or is missing, and one for each language's mean."""
    rows = []
    for lang, language in LANGUAGES.items():
        for name, benchmark in BENCHMARKS.items():
            if benchmark.lang != lang:
                continue
            if name in results["tasks"]:
                t = results["tasks"][name]
                rows.append([name, t["metric"], _percent(t["score"]), f"{196 * t['stderr']:.2f}", str(t["n"])])
            elif name in results["missing"]:
                rows.append([name, benchmark.metric, "missing", "", ""])
        count = sum(b.lang == lang and b.counted for b in BENCHMARKS.values())
        mean = results[f"mean_{lang}"]
        rows.append([f"{language}, mean of {count}", "", "incomplete" if mean is None else _percent(mean), "", ""])
    return Table(["benchmark", "metric", "score", "± 95%", "questions"], rows)


def harness_table(figures: dict[str, Any]) -> Table:
    """One row for each figure of lm-evaluation-harness, with its standard error where it has one."""
    rows = []
    for name, task in figures["tasks"].items():
        for key, value in task.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            error = task.get(f"{metric}_stderr,{filtered}")
            written = [f"{v:.4f}" if isinstance(v, float) else "" if v is None else str(v) for v in (value, error)]
            rows.append([name, metric, filtered, *written, str(task.get("sample_len", ""))])
    return Table(["task", "metric", "filter", "value", "standard error", "questions"], rows)


def ratio_table(results: dict[str, Any]) -> Table:
    """Our means in percent of those of each published model of the same kind (chat or base)."""
    rows = []
    for name, theirs in published.MODELS.items():
        if theirs.chat == bool(results.get("chat")):
            row = [name, f"{theirs.mean_en:.2f}", f"{theirs.mean_zh:.2f}"]
            for lang, value in (("en", theirs.mean_en), ("zh", theirs.mean_zh)):
                mean = results[f"mean_{lang}"]
                row.append("incomplete" if mean is None else f"{100 * mean / value:.3f}")
            rows.append(row)
    return Table(["published", "English", "Chinese", "ours / English", "ours / Chinese"], rows)


def comparison_table(compared: dict[str, Any]) -> Table:
    """One row for each benchmark: every score, and each difference to the first model with its 95% interval."""
    models, rows = compared["models"], []
    for name, task in compared["tasks"].items():
        cells = ["missing" if s is None else _percent(s) for s in task["scores"]]
        for d in task["differences"]:
            cells.append(
                "" if d is None else f"{100 * d['difference']:+.2f} [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]"
            )
        rows.append([name, *cells])
    for mean, values in compared["means"].items():
        cells = ["incomplete" if v is None else _percent(v) for v in values]
        first = values[0]
        cells += ["" if v is None or first is None else f"{100 * (v - first):+.2f}" for v in values[1:]]
        rows.append([mean.replace("mean_", "mean, "), *cells])
    return Table(["benchmark", *models, *(f"{m} - {models[0]}" for m in models[1:])], rows)


def write(path: Path, title: str, tables: Sequence[tuple[str, Table]], notes: Sequence[str]) -> None:
    """Writes a page of tables, given as (caption, table), and notes below them. An old page is replaced as a whole."""
    pages.write(path, "evaluate/scores.html", title=title, tables=tables, notes=notes)


def notes(results: dict[str, Any]) -> list[str]:
    """Sentences that a reader must know beside the scores."""
    out = [f"{name} is missing: {why}." for name, why in results["missing"].items()]
    if results.get("limit"):
        out.append(f"Only {results['limit']} questions per group were asked: these are no scores of the benchmarks.")
    return [*out, f"Published figures: {published.SOURCE}.", *published.CAVEATS]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
