"""A stand-in for people, for the quick start and for tests: it labels a queue by an answer key.

It is not human judgement. The key has a line for each prompt:

    {prompt_id, annotator, accept: [strings], edit: text}

Answers that contain one of the accepted strings are ranked first, as equals; the others come last and are rejected. An
edited answer is the text of the key. The labels have the form that people's labels have, and are imported like them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files.jsonl import read_jsonl, write_jsonl


def contains(accept: list[str], text: str) -> bool:
    """Whether the text contains one of the accepted strings in any letter case."""
    return any(string.casefold() in text.casefold() for string in accept)


def answer(
    queue: str | Path,
    key: str | Path,
    out: str | Path,
    *,
    right: Callable[[Mapping[str, Any], str], bool] | None = None,
) -> dict[str, int]:
    """Writes the label lines of a queue (queue.jsonl or its folder) to the file `out`; returns counts.

    `right(key line, text)`, where given, says whether an answer is right instead of `contains`. Prompts that are not in
    the key get no labels. Nor does a prompt get an edit when every candidate has the key's text already. The import
    reports these labels as missing.

    Raises DataError for a line of the key that lacks a field.
    """
    queue = Path(queue) / "queue.jsonl" if Path(queue).is_dir() else Path(queue)
    key_lines: dict[str, dict[str, Any]] = {}
    for number, line in read_jsonl(key):
        if not isinstance(line.get("prompt_id"), str) or not isinstance(line.get("accept"), list):
            raise DataError(f"{key}:{number}: a key line needs prompt_id, annotator, accept and edit")
        key_lines[line["prompt_id"]] = line
    lines: list[dict[str, Any]] = []
    counts = {"asked": 0, "unknown": 0, "rankings": 0, "edits": 0}
    for _, item in read_jsonl(queue):
        counts["asked"] += 1
        truth = key_lines.get(item["prompt_id"])
        if truth is None:
            counts["unknown"] += 1
            continue
        signed = {name: item[name] for name in ("prompt_id", "batch_sha256")} | {"annotator": truth["annotator"]}
        texts = {c["label"]: c["text"] for c in item["candidates"]}
        good = [
            label for label, text in texts.items() if (right(truth, text) if right else contains(truth["accept"], text))
        ]
        bad = [label for label in texts if label not in good]
        if item["rank"]:
            ranking = [group for group in (good, bad) if group]
            lines.append({**signed, "ranking": ranking, "reject": bad})
            counts["rankings"] += 1
        bases = [label for label in (*good, *bad) if texts[label].strip() != truth["edit"].strip()]
        if item["edit"] and bases:
            lines.append({**signed, "base": bases[0], "text": truth["edit"], "reason": "model answer of the key"})
            counts["edits"] += 1
    write_jsonl(out, lines)
    return counts
