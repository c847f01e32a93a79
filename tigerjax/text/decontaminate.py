"""Finds evaluation questions in training data, and counts them for each evaluation set.

A unit is a question with its options, as an exam prints them. A question without its options is one too when it is
long enough to be told from the stem of another question.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl, packed
from tigerjax.records import text_files
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
    "turns",
    "messages",
    "conversations",
    "input",
    "text",
)
"""The fields that evaluation sets keep the question in. The first one that a record has is looked for."""
MMLU = ("question", "A", "B", "C", "D", "answer")
"""The columns of a CSV file of MMLU, which has no line of names."""


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


def _question(record: records.Record, name: str) -> str | None:
    """The question in a field: text, the texts of several turns, or what the user says in messages.

    The `input` of an Alpaca record follows its instruction, as in training. None for a field that holds no text.
    """
    value = record.get(name)
    if isinstance(value, list) and value:
        if all(isinstance(turn, dict) for turn in value):
            value = [turn.get("content", turn.get("value")) for turn in value if _role(turn) in ("user", "human")]
        value = "\n".join(value) if all(isinstance(text, str) for text in value) else None
    if name == "instruction" and isinstance(record.get("input"), str) and record["input"].strip():
        value = f"{value}\n{record['input']}" if isinstance(value, str) else None
    return value if isinstance(value, str) and value.strip() else None


def _role(turn: dict[str, Any]) -> Any:
    return turn.get("role", turn.get("from"))


def _as_published(path: Path, reading: records.Reading) -> records.Reading:
    """How a set is read: a CSV file whose first line is a question of MMLU with its answer has no line of names."""
    if not path.name.lower().removesuffix(packed.ending(path)).endswith(".csv"):
        return reading
    numbered = text_files.csv_rows(records.FileBlock(0, path, reading=dataclasses.replace(reading, columns=MMLU)))
    _, first = next(numbered, (0, {}))
    published = None not in first and first.get("answer") in MMLU[1:5] and tuple(first.values()) != MMLU
    named = {str(name).strip().lower() for name in first.values()} & {name.lower() for name in FIELDS}
    return dataclasses.replace(reading, columns=MMLU) if published and not named else reading


def _texts(path: Path, field: str | None, reading: records.Reading) -> Iterator[tuple[int, records.Record, str]]:
    """(number, record, question) of a set."""
    for number, given in records.read(path, reading=_as_published(path, reading)):
        record = _opened(given)
        names = [field] if field else [name for name in FIELDS if name in record]
        text = _question(record, names[0]) if names else None
        if text is None:
            raise DataError(
                f"{path}:{number}: no question in field {names[0] if names else 'question'!r}; the record has"
                f" {sorted(record)}, name the right one with --field"
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
