"""A stand-in for people, for the quick start and for tests: answers this round's queue from a shipped answer key.

It is not human judgement. For each question the key lists the strings that a right answer contains: answers that hold
one are ranked first, as equals, the others come last and are rejected. An edit is the key's model answer. What it
writes has the schema that people use, goes through the same import, and is signed with the key's annotator.

    key line {prompt_id, annotator, accept: [strings], edit: text}
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files.jsonl import read_jsonl, write_jsonl


def contains(accept: list[str], text: str) -> bool:
    """Whether the text holds one of the accepted strings, letter case aside."""
    return any(string.casefold() in text.casefold() for string in accept)


def answer(
    queue: str | Path,
    key: str | Path,
    out: str | Path,
    *,
    right: Callable[[Mapping[str, Any], str], bool] | None = None,
) -> dict[str, int]:
    """Writes label lines for queue.jsonl (or its folder) to the file `out`; returns counts.

    `right(key line, text)` decides in place of `contains`. Questions that the key lacks stay unlabelled, and so does an
    edit whose text every candidate has already: the import then reports them as missing.
    """
    queue = Path(queue) / "queue.jsonl" if Path(queue).is_dir() else Path(queue)
    known: dict[str, dict[str, Any]] = {}
    for number, line in read_jsonl(key):
        if not isinstance(line.get("prompt_id"), str) or not isinstance(line.get("accept"), list):
            raise DataError(f"{key}:{number}: a key line needs prompt_id, annotator, accept and edit")
        known[line["prompt_id"]] = line
    lines: list[dict[str, Any]] = []
    counts = {"asked": 0, "unknown": 0, "rankings": 0, "edits": 0}
    for _, item in read_jsonl(queue):
        counts["asked"] += 1
        truth = known.get(item["prompt_id"])
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
