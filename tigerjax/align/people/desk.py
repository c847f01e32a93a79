"""A team at work on a project: its state, the adjudicator's questions, and who said what."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax.align.config import AlignConfig
from tigerjax.align.people import labels as labels_lib
from tigerjax.align.people import panel as panel_lib
from tigerjax.align.people import quality
from tigerjax.align.people.delivery import asked, delivered
from tigerjax.align.people.folders import write_questions
from tigerjax.align.people.label_lines import BadLine, brings_question
from tigerjax.files import manifest, paths
from tigerjax.files.jsonl import dumped

COLUMNS = "round annotator at prompt_id kind state ranking reject axes base text note".split()
FORMULA = tuple("=+-@\t\r")
"""A cell that begins so is a formula to spreadsheets."""


def _lines(folder: Path, index: int) -> labels_lib.Collected:
    """The labels of a round. They were checked when they came, so lengths are not counted again."""
    items = asked(folder / "rounds" / f"{index:02d}").items
    files, takes = delivered(folder, index), labels_lib.of_queue(items)
    return labels_lib.collect(items, files, max_tokens=0, count_tokens=lambda messages: 0, takes=takes)


def status(folder: Path, config: AlignConfig, index: int) -> dict[str, Any] | None:
    """The state of the team in round `index`; None where it has no queue for a team."""
    place = folder / "rounds" / f"{index:02d}"
    panel = panel_lib.of_round(place, config)
    if panel is None:
        return None
    lines, key = _lines(folder, index).lines, asked(place).key
    counted = panel.counted(lines, key)
    found = quality.figures(panel, lines, key, counted.aside)
    head = {"round": index, "due": panel.due.isoformat(), "overdue": panel.closed}
    head |= {"labels": len(lines), "to_come": sum(one["to_come"] for one in found["people"])}
    head |= {"for_adjudicator": len(panel.for_adjudicator(counted, lines, key)), "dropped": counted.dropped}
    head |= {"all_set_aside": len(panel.all_aside(counted, lines, key))}
    return head | found


def write_adjudicator(folder: Path, config: AlignConfig, index: int) -> Path | None:
    """Writes the questions of the adjudicator of round `index` below DIR/people/; None where none are waiting."""
    place = folder / "rounds" / f"{index:02d}"
    panel = panel_lib.of_round(place, config)
    if panel is None or panel.adjudicator is None:
        return None
    items = adjudicated(folder, config, index)
    out = folder / "people" / f"{index:02d}" / panel.adjudicator
    if items:
        write_questions(out, items, panel.adjudicator)
    return out if items else None


def adjudicated(folder: Path, config: AlignConfig, index: int) -> list[dict[str, Any]]:
    """The questions that wait for the adjudicator in round `index`, as items of its queue."""
    place = folder / "rounds" / f"{index:02d}"
    panel = panel_lib.of_round(place, config)
    if panel is None:
        return []
    questions, lines = asked(place), _lines(folder, index).lines
    wanted = panel.for_adjudicator(panel.counted(lines, questions.key), lines, questions.key)
    return [item | {"edit": False} for item in questions.items if item["prompt_id"] in wanted]


def said(folder: Path, config: AlignConfig, index: int) -> Iterator[dict[str, Any]]:
    """Who said what in a round: every label line that came, with its `state`. Each export of Label Studio repeats the
    labels of earlier ones: a line that has come before stands there once.

    counted, superseded (by a later line of the same person), gold (an answer to a gold question), set_aside,
    adjudicated (the adjudicator's ranking counts instead), or former_queue (the queue was made again, and does not have
    the question any more).
    """
    place = folder / "rounds" / f"{index:02d}"
    questions = asked(place)
    if not (files := delivered(folder, index)):
        return
    panel, found = panel_lib.of_round(place, config), _lines(folder, index).lines
    counted = panel.counted(found, questions.key) if panel else None
    entries = {entry["prompt_id"]: entry for entry in questions.key}
    had: set[bytes] = set()
    for path in files:
        for _, line in labels_lib.read_lines(path):
            if line is None or isinstance(line, BadLine) or (content := manifest.canonical(line)) in had:
                continue
            had.add(content)
            kind = "edit" if "base" in line else "rank"
            slot, entry = (line["prompt_id"], kind, line["annotator"]), entries.get(line["prompt_id"], {})
            state = "counted"
            if kind == "rank":
                line.setdefault("ranking", [])
            if slot not in found:
                state = "former_queue"
            elif found[slot] != line:
                state = "superseded"
            elif "right" in entry:
                state = "gold"
            elif counted is not None and slot not in counted.lines:
                state = "set_aside" if line["annotator"] in counted.aside else "adjudicated"
            answers = line.get("candidates") if brings_question(line) else None
            yield {
                "round": index,
                "annotator": line["annotator"],
                "at": line.get("at"),
                "prompt_id": entry.get("of", line["prompt_id"]),
                "kind": kind,
                "state": state,
                "ranking": _answers(line.get("ranking"), entry),
                "reject": _answers([line.get("reject", [])], entry)[0] if kind == "rank" else None,
                "axes": line.get("axes"),
                "base": (_answers([[line["base"]]], entry)[0][0] if kind == "edit" else None),
                "text": line.get("text"),
                "note": line.get("note", line.get("reason")),
                **({"candidates": answers} if answers else {}),
            }


def _answers(groups: Any, entry: Mapping[str, Any]) -> Any:
    """Labels as the ids of their candidates; of a question that is not of the queue they stay labels."""
    ids = entry.get("labels", {})
    return None if groups is None else [[cid for name in group for cid in ids.get(name, [name])] for group in groups]


def write_said(out: Path, rows: Sequence[dict[str, Any]]) -> int:
    """Writes `said` as JSONL, or as CSV where the name ends so; returns the number of rows.

    In CSV, lists and objects are JSON, and a quotation mark ' stands before what a spreadsheet would run as a formula.
    """
    if out.suffix.lower() != ".csv":
        paths.write_text(out, b"".join(dumped(row) + b"\n" for row in rows).decode())
        return len(rows)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    table.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
    paths.write_text(out, text.getvalue())
    return len(rows)


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(FORMULA) else text
