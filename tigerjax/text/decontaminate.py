"""Finds evaluation questions in training data, and counts them for each evaluation set.

A unit is a question with its options, as an exam prints them. A question without its options is one too when it is
long enough to be told from the stem of another question.
"""

import collections
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
from tigerjax.text.grams import key, keys
from tigerjax.text.short_units import NAME_BELOW

SEARCH = containment.Search()
LETTERS = "ABCDEFGHIJ"
OPTIONS = (
    tuple(LETTERS),
    tuple(f"answer{letter}" for letter in LETTERS),
    tuple(f"option{n}" for n in range(1, 6)),
    tuple(f"sol{n}" for n in range(1, 3)),
    ("choices",),
    ("options",),
    ("endings",),
)
"""The fields that evaluation sets keep the options in. Those of the first line that a record has count."""
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
    "problem",
    "text",
)
"""The fields that evaluation sets keep the question in. The first one that a record has is looked for."""


def options(record: records.Record) -> list[str]:
    """The texts of a question's options, in order; [] for a question without."""
    record = _opened(record)
    for names in OPTIONS:
        given = [record[name] for name in names if record.get(name) not in (None, "")]
        if len(given) == 1 and isinstance(given[0], dict):  # {"text": [...], "label": [...]} or {"A": "..."}
            given = [given[0].get("text", list(given[0].values()))]
        if len(given) == 1 and isinstance(given[0], list):
            given = [option.get("text") if isinstance(option, dict) else option for option in given[0]]
        if len(given) > 1:
            return [str(option) for option in given]
    return []


def _long_enough(stem: str) -> bool:
    batch = keys([stem])
    return len(batch.codes) >= NAME_BELOW["characters" if batch.cjk()[0] else "letters"]


def _handle(text: str) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(key(text).encode("utf-8", "surrogatepass"))


def _opened(record: records.Record) -> records.Record:
    """The record of a question {stem, choices}, as OpenBookQA and ARC are published, with these as its own fields."""
    whole = record.get("question")
    if not isinstance(whole, dict) or not isinstance(whole.get("stem"), str):
        return record
    return record | {"question": whole["stem"]} | {name: whole[name] for name in ("choices",) if name in whole}


def _texts(path: Path, field: str | None, reading: records.Reading) -> Iterator[tuple[int, records.Record, str]]:
    """(number, record, question) of a set."""
    for number, given in records.read(path, reading=reading):
        record = _opened(given)
        names = [field] if field else [name for name in FIELDS if name in record]
        text = record.get(names[0]) if names else None
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{path}:{number}: no question in field {field or 'question'!r}; the record has {sorted(record)},"
                " name the right one with --field"
            )
        yield number, record, text


def questions(
    path: Path, field: str | None = None, reading: records.Reading = records.READING
) -> Iterator[records.Record]:
    """Each question of a set as a document {id: "<task>:<line>", text, …}. The set is the name of the file.

    A stem that several questions of the set have, such as "Which of these is true?", is looked for with options only.
    """
    task, number = path.name.split(".")[0], 0
    often = collections.Counter(_handle(text) for *_, text in _texts(path, field, reading))
    for number, record, text in _texts(path, field, reading):
        given = options(record)
        whole = "\n".join([text, *(f"{letter}. {option}" for letter, option in zip(LETTERS, given, strict=False))])
        stem = text if _long_enough(text) and often[_handle(text)] == 1 else whole
        yield {"id": f"{task}:{number}", "text": whole, "eval_stem": stem, "eval_set": task, "source": "", "lang": ""}
    jsonl.refuse_empty(path, number)


def _prepare(field: str | None, paths: Sequence[Path], folder: Path) -> list[Path]:
    records.distinct_names(paths)
    out = folder / "evaluation.jsonl"
    jsonl.write_jsonl(
        out, (question for path in paths for question in questions(path, field, records.reading_of(paths)))
    )
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
