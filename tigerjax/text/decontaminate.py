"""Finds evaluation questions in training data, by 13-grams, and counts them for each evaluation set."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.stages import scan
from tigerjax.stages.runner import Runner
from tigerjax.text import against, containment, unit_search

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
"""The fields that evaluation sets keep the question in. The first one that a record has is looked for."""


def questions(path: Path, field: str | None = None) -> Iterator[records.Record]:
    """Each question of a set as a document {id: "<task>:<line>", text}. The task is the name of the file."""
    task, number = path.name.split(".")[0], 0
    for number, record in records.read(path):
        names = [field] if field else [name for name in FIELDS if name in record]
        text = record.get(names[0]) if names else None
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{path}:{number}: no question in field {field or 'question'!r}; the record has {sorted(record)},"
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
    """Drops (or cuts, or only reports) documents and SFT examples that hold an evaluation question.

    OUT/hits/hits.jsonl names each of them, and `figures["by_task"]` counts them for each set. Returns the manifest.
    """
    prepare = functools.partial(_prepare, field)
    wanted = unit_search.Wanted("decontaminate", "questions", "eval_id", SEARCH, action)
    return against.find_files(wanted, docs, evaluations, out, shards=shards, runner=runner, prepare=prepare)
