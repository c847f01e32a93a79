"""Results as lines for a terminal and as one HTML page: tables, means, ratios to what others published."""

import html
from pathlib import Path
from typing import Any

from tigerjax.evaluate import published
from tigerjax.evaluate.benchmarks import BENCHMARKS
from tigerjax.files import paths
from tigerjax.report.style import CSS

LANGUAGES = {"en": "English", "zh": "Chinese"}
Rows = list[list[str]]


def score_rows(results: dict[str, Any]) -> Rows:
    """A header, then one row a benchmark that was asked or is missing, and one row a mean."""
    rows = [["benchmark", "metric", "score", "± 95%", "questions"]]
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
    return rows


def ratio_rows(results: dict[str, Any]) -> Rows:
    """A header, then our means as shares of each published model's of the same kind (chat or base)."""
    rows = [["published", "English", "Chinese", "ours / English", "ours / Chinese"]]
    for name, theirs in published.MODELS.items():
        if theirs.chat == bool(results.get("chat")):
            row = [name, f"{theirs.mean_en:.2f}", f"{theirs.mean_zh:.2f}"]
            for lang, value in (("en", theirs.mean_en), ("zh", theirs.mean_zh)):
                mean = results[f"mean_{lang}"]
                row.append("incomplete" if mean is None else f"{100 * mean / value:.3f}")
            rows.append(row)
    return rows


def compare_rows(compared: dict[str, Any]) -> Rows:
    """A header, then one row a benchmark: every score, and each difference to the first with its 95% interval."""
    models = compared["models"]
    rows = [["benchmark", *models, *(f"{m} - {models[0]}" for m in models[1:])]]
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
    return rows


def lines(rows: Rows) -> str:
    """The table for a terminal: columns padded, the first to the left and the others to the right."""
    widths = [max(_width(row[c]) for row in rows) for c in range(len(rows[0]))]
    out = []
    for row in rows:
        cells = [
            cell + " " * (w - _width(cell)) if c == 0 else " " * (w - _width(cell)) + cell
            for c, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def write(path: Path, title: str, tables: list[tuple[str, Rows]], notes: list[str]) -> None:
    """One HTML file that needs nothing else, replaced as a whole."""
    parts = []
    for caption, rows in tables:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
        parts.append(
            f'<section><h2>{html.escape(caption)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div></section>"
        )
    said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
        f"<style>{CSS}</style></head>\n<body><main><header><h1>{html.escape(title)}</h1></header>"
        f'{"".join(parts)}<section><h2>Notes</h2><ul class="soft">{said}</ul></section></main></body></html>\n'
    )
    paths.write_text(path, text)


def notes(results: dict[str, Any]) -> list[str]:
    """What a reader must know beside the figures."""
    out = [f"{name} is missing: {why}." for name, why in results["missing"].items()]
    if results.get("limit"):
        out.append(f"Only {results['limit']} questions a group were asked: these are no scores of the benchmarks.")
    return [*out, f"Published figures: {published.SOURCE}.", *published.CAVEATS]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _width(text: str) -> int:
    """Columns on a terminal: CJK characters take two."""
    return sum(2 if "\u2e80" <= c <= "\uffef" else 1 for c in text)
