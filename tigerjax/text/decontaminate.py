"""Evaluation questions that stand in training data: the search of `against`, with 13-grams, by task."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.stages import scan
from tigerjax.stages.runner import Runner
from tigerjax.text import against, containment

SEARCH = containment.Search(gram=13)
FIELDS = (
    "question",
    "Question",
    "question_stem",
    "prompt",
    "instruction",
    "goal",
    "ctx",
    "sentence",
    "sentence1",
    "premise",
    "query",
    "text",
)
"""Where evaluation sets keep the question: the first of these that a record has is looked for."""


def questions(path: Path, field: str | None = None) -> Iterator[records.Record]:
    """Each question of a set as a document {id: "<task>:<line>", text}; the task is the file's name."""
    task, number = path.name.split(".")[0], 0
    for number, row in records.read(path):
        names = [field] if field else [name for name in FIELDS if name in row]
        text = row.get(names[0]) if names else None
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{path}:{number}: no question in field {field or 'question'!r}; the record has {sorted(row)},"
                " name the right one with --field"
            )
        yield {"id": f"{task}:{number}", "text": text, "source": "", "lang": ""}
    jsonl.refuse_empty(path, number)


def _prepare(field: str | None, paths: Sequence[Path], folder: Path) -> list[Path]:
    records.distinct_names(paths)
    out = folder / "evaluation.jsonl"
    jsonl.write_jsonl(out, (question for path in paths for question in questions(path, field)))
    return [out]


def decontaminate_files(
    docs: Sequence[str | Path],
    evaluations: Sequence[str | Path],
    out: str | Path,
    *,
    action: containment.Action = "drop",
    field: str | None = None,
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Drops (or cuts, or reports) documents and SFT examples that hold an evaluation question; hits in hits/hits.jsonl.

    `figures["by_task"]` counts the hits of each set. Returns the manifest.
    """
    return against.find_files(
        "decontaminate",
        docs,
        evaluations,
        out,
        search=SEARCH,
        action=action,
        shards=shards,
        runner=runner,
        prepare=functools.partial(_prepare, field),
    )
