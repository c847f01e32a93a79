"""The form of a label line, which is the same for every kind of label file, and the check of a line.

    ranking {prompt_id, batch_sha256, annotator, ranking: [["C"], ["A", "F"], …], reject?: ["B"], axes?: {…}, note?}
    edit    {prompt_id, batch_sha256, annotator, base: "C", text, reason?}

A line with `messages` and `candidates` in place of `batch_sha256` brings its own question, which no queue has asked: a
conversation that somebody had with the model, as `tigerjax serve --labels` writes it.

    ranking {prompt_id, annotator, messages, candidates: [{label: "A", text, finish}], model_sha?, ranking, …}
    edit    {prompt_id, annotator, messages, candidates, model_sha?, base: "A", text, …}

Every line may have `at`, when it was given: `2026-05-04T09:30:00+00:00`.

A ranking lists the best group first. Labels in one group are equally good. Labels that are not listed come last, as
equals. A rejected answer loses against all others, wherever the ranking lists it.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from tigerjax.files.foreign import loads, refuse_deep
from tigerjax.files.jsonl import BOM, fault
from tigerjax.files.manifest import canonical
from tigerjax.records import blank
from tigerjax.records.dialogue import SYSTEM

AXES = ("factuality", "creativity", "richness", "safety", "format")
NAMES = {"prompt_id", "annotator"}
TIME = {"at"}
OF_QUEUE, OWN_QUESTION = {"batch_sha256"}, {"messages", "candidates", "model_sha"}
RANKING_FIELDS = {"ranking", "reject", "axes", "note"}
EDIT_FIELDS = {"base", "text", "reason"}
SAID = sorted(TIME | RANKING_FIELDS | EDIT_FIELDS)
"""What a line says of its question."""
FINISHES = ("stop", "length", "marker")
MARKERS = ("### Instruction:", "### Response:", "<pad>")
"""Strings of the chat format; an edited answer that holds one was pasted from a transcript."""


class BadLine(ValueError):
    """Why one label line is wrong. `labels.import_labels` collects these into one DataError."""


def parse(raw: bytes) -> Any:
    """The JSON value of UTF-8 bytes; BadLine for anything else, also for a field that is given twice.

    A byte order mark in front of it, as Windows programs write, is no part of the value.
    """
    try:
        value = loads(raw.removeprefix(BOM))
        refuse_deep(value)
        return value
    except UnicodeDecodeError as error:
        raise BadLine(f"invalid UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadLine(f"broken JSON: {fault(error)} at column {error.colno}") from error
    except RecursionError as error:
        raise BadLine("broken JSON: nested too deep") from error
    except ValueError as error:  # a field that is given twice, or a number of too many digits
        raise BadLine(f"broken JSON: {error}") from error


def check(
    line: Any,
    questions: Mapping[str, Mapping[str, Any]],
    max_tokens: int,
    count_tokens: Callable[[list[dict[str, str]]], int],
) -> str:
    """The kind of a line, "rank" or "edit"; BadLine when its form is wrong or it does not fit `questions`.

    `questions` are the items of the queue by prompt id. `count_tokens(messages)` gives the number of tokens of a chat,
    and `max_tokens` is the context that a chat with an edited answer must fit into.
    """
    if not isinstance(line, dict):
        raise BadLine(f"is a JSON {type(line).__name__}, not an object")
    _check_storable(line)
    has_rank, has_edit = bool({"ranking", "reject"} & line.keys()), bool({"base", "text"} & line.keys())
    if has_rank and has_edit:
        raise BadLine("is a ranking and an edit at once; write two lines")
    if not has_rank and not has_edit:
        raise BadLine("has neither `ranking` nor `base` and `text`")
    own = brings_question(line)
    known = NAMES | TIME | (OWN_QUESTION if own else OF_QUEUE) | (RANKING_FIELDS if has_rank else EDIT_FIELDS)
    if unknown := sorted(line.keys() - known):
        raise BadLine(f"unknown field {unknown[0]!r}; a line of this kind has {sorted(known)}")
    for field in sorted(NAMES if own else NAMES | OF_QUEUE):
        if not isinstance(line.get(field), str) or blank(line[field]):
            raise BadLine(f"`{field}` is missing, empty or not a string")
    if "at" in line:
        when(line["at"])
    question = questions.get(line["prompt_id"])
    if own:
        question = _own_question(line, question)
    elif question is None:
        raise BadLine(f"prompt_id {line['prompt_id']!r} is not in the queue; take it from queue.jsonl of this round")
    elif line["batch_sha256"] != question["batch_sha256"]:
        raise BadLine(
            f"batch_sha256 {line['batch_sha256'][:12]!r}… is stale; the queue is {question['batch_sha256'][:12]}…"
        )
    texts = {c["label"]: c["text"] for c in question["candidates"]}
    if has_rank:
        _check_ranking(line, texts)
        return "rank"
    _check_edit(line, texts, question["messages"], max_tokens, count_tokens)
    return "edit"


def when(at: Any) -> datetime:
    """The time `at` of a line; BadLine for what is no time with its zone."""
    try:
        time = datetime.fromisoformat(at)
    except (TypeError, ValueError) as error:
        raise BadLine(f"`at` is {at!r}, not a time such as 2026-05-04T09:30:00+00:00") from error
    if time.tzinfo is None:
        raise BadLine(f"`at` {at!r} names no time zone")
    return time


def brings_question(line: Mapping[str, Any]) -> bool:
    """Whether a line is about a conversation of its own, and not about a prompt of the queue."""
    return bool({"messages", "candidates"} & line.keys())


def _own_question(line: Mapping[str, Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """The question that a line brings; BadLine where its form is wrong, or where its id names another, `known` one."""
    messages, candidates = line.get("messages"), line.get("candidates")
    roles = [m.get("role") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    turns = [role for role in roles if role not in SYSTEM]
    spoken = [("user", "assistant")[place % 2] for place in range(len(turns))]
    whole = isinstance(messages, list) and all(isinstance(m, dict) and set(m) == {"role", "content"} for m in messages)
    if not whole or not all(isinstance(m["content"], str) and m["content"] for m in messages or ()):
        raise BadLine('`messages` must be a list of {"role", "content"}, both text')
    if turns != spoken or len(turns) % 2 == 0 or roles[-1] != "user":
        raise BadLine("`messages` must alternate between user and assistant, and end with the user")
    if not isinstance(candidates, list) or not candidates:
        raise BadLine('`candidates` must be a list of {"label", "text", "finish"}')
    for one in candidates:
        if not isinstance(one, dict) or set(one) != {"label", "text", "finish"}:
            raise BadLine('`candidates` must be a list of {"label", "text", "finish"}')
        if not isinstance(one["label"], str) or not isinstance(one["text"], str) or one["finish"] not in FINISHES:
            raise BadLine(f"a candidate has a label and a text, and its finish is one of {', '.join(FINISHES)}")
    for field in ("label", "text"):
        if twice := [value for value, n in Counter(one[field] for one in candidates).items() if n > 1]:
            raise BadLine(f"`candidates` have the {field} {twice[0][:40]!r} twice")
    question = {"prompt_id": line["prompt_id"], "messages": messages, "candidates": candidates}
    if known is not None and any(known.get(field) != value for field, value in question.items()):
        raise BadLine(f"prompt_id {line['prompt_id']!r} names another question too; give each question its own")
    return question


def _check_storable(line: Mapping[str, Any]) -> None:
    """BadLine for what no file can hold as UTF-8: every later step writes the line, or parts of it."""
    for field, value in line.items():
        try:
            canonical([field, value])
        except UnicodeEncodeError as error:
            name = field.encode("utf-8", "backslashreplace").decode()
            raise BadLine(f"`{name}` holds a lone surrogate (\\ud800-\\udfff), which is no character") from error
        except RecursionError as error:
            raise BadLine(f"{field!r} is nested too deep") from error


def _check_ranking(line: dict[str, Any], texts: Mapping[str, str]) -> None:
    ranking, reject = line.setdefault("ranking", []), line.get("reject", [])
    if not isinstance(ranking, list) or not all(isinstance(group, list) for group in ranking):
        raise BadLine('`ranking` must be a list of groups, such as [["C"], ["A", "F"]]')
    if any(not group for group in ranking):
        raise BadLine("`ranking` has an empty group")
    if not isinstance(reject, list):
        raise BadLine('`reject` must be a list of labels, such as ["B"]')
    if not ranking and not reject:
        raise BadLine("`ranking` is empty and nothing is rejected; rank an answer or reject one")
    for field, labels in (("ranking", [name for group in ranking for name in group]), ("reject", reject)):
        for name in labels:
            if not isinstance(name, str):
                raise BadLine(f"`{field}` holds {name!r}, which is not a label")
            if name not in texts:
                raise BadLine(f"`{field}` names label {name!r}, which this prompt lacks; it has {', '.join(texts)}")
        if twice := [name for name, n in Counter(labels).items() if n > 1]:
            raise BadLine(f"`{field}` names label {twice[0]!r} twice")
    axes = line.get("axes", {})
    if not isinstance(axes, dict):
        raise BadLine("`axes` must be an object of axis: 1-5")
    for axis, mark in axes.items():
        if axis not in AXES:
            raise BadLine(f"unknown axis {axis!r}; there are {', '.join(AXES)}")
        if type(mark) is not int or not 1 <= mark <= 5:
            raise BadLine(f"axis {axis!r} is {mark!r}, not a whole number from 1 to 5")
    if not isinstance(line.get("note", ""), str):
        raise BadLine("`note` is not a string")


def _check_edit(
    line: dict[str, Any],
    texts: Mapping[str, str],
    messages: list[dict[str, str]],
    max_tokens: int,
    count_tokens: Callable[[list[dict[str, str]]], int],
) -> None:
    base, text = line.get("base"), line.get("text")
    if base is None:
        raise BadLine("edit without `base`, the label that was edited; name it")
    if not isinstance(base, str) or base not in texts:
        raise BadLine(f"`base` is {base!r}, which this prompt lacks; it has {', '.join(texts)}")
    if text is None:
        raise BadLine("edit without `text`; write the better answer, or leave the edit out")
    if not isinstance(text, str):
        raise BadLine("`text` of the edit is not a string")
    if blank(text):
        raise BadLine("`text` of the edit is empty; write the better answer, or leave the edit out")
    if text.strip() == texts[base].strip():
        raise BadLine(f"`text` of the edit equals its base {base}; change it, or leave the edit out")
    for marker in MARKERS:
        if marker in text:
            raise BadLine(f"`text` of the edit contains the chat marker {marker!r}; take it out")
    if not isinstance(line.get("reason", ""), str):
        raise BadLine("`reason` is not a string")
    length = count_tokens([*messages, {"role": "assistant", "content": text}])
    if length > max_tokens:
        raise BadLine(f"the edit makes a chat of {length} tokens, longer than the context of {max_tokens}; shorten it")
