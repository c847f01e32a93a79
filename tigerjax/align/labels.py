"""Reading what people said: every mistake is named by line, and one mistake keeps the whole delivery out.

    ranking {prompt_id, batch_sha256, annotator, ranking: [["C"], ["A", "F"], …], reject?: ["B"], axes?: {…}, note?}
    edit    {prompt_id, batch_sha256, annotator, base: "C", text, reason?}

A ranking lists the best first; labels in one group are equal; labels not listed come last, equal. `reject` beats
everything. A later line of the same annotator for the same prompt replaces the earlier one, by kind.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.agreement import borda, kendall
from tigerjax.errors import Blocked, DataError

AXES = ("factuality", "creativity", "richness", "safety", "format")
SHARED_FIELDS = {"prompt_id", "batch_sha256", "annotator"}
RANKING_FIELDS = SHARED_FIELDS | {"ranking", "reject", "axes", "note"}
EDIT_FIELDS = SHARED_FIELDS | {"base", "text", "reason"}
MARKERS = ("### Instruction:", "### Response:", "<pad>")
"""Strings of the chat format; an edited answer that holds one was pasted from a transcript."""


class Verdict(NamedTuple):
    """What people said about one prompt, in candidate ids."""

    ranking: list[list[str]]
    """Best group first; empty when nobody ranked it."""
    rejected: list[str]
    edits: list[dict[str, str]]
    """{annotator, base (a cid), text}, newest last."""
    annotators: list[str]


class Imported(NamedTuple):
    verdicts: dict[str, Verdict]
    adjudicate: list[dict[str, Any]]
    """Prompts on which two annotators disagree (Kendall's tau-b below 0)."""
    missing: dict[str, list[str]]
    """{"rank": prompt ids, "edit": prompt ids} that fall back to the reward model's order."""
    counts: dict[str, Any]


class BadLine(ValueError):
    """Why one label line is refused; collected, never seen outside this file."""


def import_labels(
    items: Sequence[Mapping[str, Any]],
    key: Sequence[Mapping[str, Any]],
    files: Iterable[str | Path],
    *,
    max_tokens: int,
    count_tokens: Callable[[list[dict[str, str]]], int],
    allow_partial: bool,
) -> Imported:
    """Checks all label files against the queue (`items` and `key` of align.queue) and combines their annotators.

    `count_tokens(messages)` is the encoded length of a whole chat, and `max_tokens` the context an edit must fit into.
    Raises DataError with every bad line (file:line: reason) and imports nothing, or Blocked with counts when labels
    are missing and `allow_partial` is false.
    """
    questions = {item["prompt_id"]: item for item in items}
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    errors, total = [], 0
    for path in map(Path, files):
        if not path.is_file():
            errors.append(f"{path}: label file does not exist")
            continue
        for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
            if not raw.strip():
                continue
            total += 1
            try:
                line, kind = _check(raw, questions, max_tokens, count_tokens)
            except BadLine as error:
                errors.append(f"{path}:{number}: {error}")
                continue
            slot = (line["prompt_id"], kind, line["annotator"])
            lines.pop(slot, None)  # the newest line wins, and moves to the end
            lines[slot] = line
    if errors:
        listed = "\n  ".join(errors)
        raise DataError(f"{len(errors)} of {total} label lines are wrong, nothing was imported:\n  {listed}")

    by_prompt: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for (prompt_id, kind, _), line in lines.items():
        by_prompt[prompt_id].append((kind, line))
    missing = {
        kind: [q["prompt_id"] for q in items if q[kind] and kind not in {k for k, _ in by_prompt[q["prompt_id"]]}]
        for kind in ("rank", "edit")
    }
    if any(missing.values()) and not allow_partial:
        wanted = Counter(kind for item in items for kind in ("rank", "edit") if item[kind])
        raise Blocked(
            f"labels are missing: {len(missing['rank'])} of {wanted['rank']} rankings and {len(missing['edit'])} of"
            f" {wanted['edit']} edits, such as {(missing['rank'] + missing['edit'])[0]}; deliver them or allow partial"
        )
    cids = {entry["prompt_id"]: entry["labels"] for entry in key}
    verdicts, adjudicate = {}, []
    for prompt_id in sorted(p for p in by_prompt if by_prompt[p]):
        verdict, disagreements = _combine(by_prompt[prompt_id], cids[prompt_id])
        verdicts[prompt_id] = verdict
        adjudicate += [{"prompt_id": prompt_id, **d} for d in disagreements]
    kinds = Counter(kind for _, kind, _ in lines)
    counts = {"in": total, "out": len(lines), "dropped": {"superseded": total - len(lines)}}
    counts |= {"rankings": kinds["rank"], "edits": kinds["edit"], "disagreements": len(adjudicate)}
    counts |= {"missing_rank": len(missing["rank"]), "missing_edit": len(missing["edit"])}
    return Imported(verdicts, adjudicate, missing, counts)


def _combine(
    lines: Sequence[tuple[str, dict[str, Any]]], cids: Mapping[str, list[str]]
) -> tuple[Verdict, list[dict[str, Any]]]:
    """Borda mean of the rankings; any reject counts; edits stay apart, newest last."""
    ranks = [line for kind, line in lines if kind == "rank"]
    labels = sorted(cids)
    # A line that only rejects says nothing about the order of the rest.
    orders = {line["annotator"]: _complete(line["ranking"], labels) for line in ranks if line["ranking"]}
    disagreements = [
        {"annotators": [a, b], "kendall_tau": round(tau, 6), "rankings": [orders[a], orders[b]]}
        for a, b in combinations(sorted(orders), 2)
        if (tau := kendall(orders[a], orders[b])) < 0
    ]
    merged = borda(list(orders.values())) if orders else []
    rejected = sorted({cid for line in ranks for name in line.get("reject", []) for cid in cids[name]})
    edits = [
        {"annotator": line["annotator"], "base": cids[line["base"]][0], "text": line["text"]}
        for kind, line in lines
        if kind == "edit"
    ]
    groups = [[cid for name in group for cid in cids[name]] for group in merged]
    return Verdict(groups, rejected, edits, sorted({line["annotator"] for _, line in lines})), disagreements


def _complete(ranking: Sequence[Sequence[str]], labels: Sequence[str]) -> list[list[str]]:
    listed = {name for group in ranking for name in group}
    rest = [name for name in labels if name not in listed]
    return [sorted(group) for group in ranking] + ([rest] if rest else [])


def _check(
    raw: bytes,
    questions: Mapping[str, Mapping[str, Any]],
    max_tokens: int,
    count_tokens: Callable[[list[dict[str, str]]], int],
) -> tuple[dict[str, Any], str]:
    line = _parse(raw)
    has_rank, has_edit = bool({"ranking", "reject"} & line.keys()), bool({"base", "text"} & line.keys())
    if has_rank and has_edit:
        raise BadLine("is a ranking and an edit at once; write two lines")
    if not has_rank and not has_edit:
        raise BadLine("has neither `ranking` nor `base` and `text`")
    known = RANKING_FIELDS if has_rank else EDIT_FIELDS
    if unknown := sorted(line.keys() - known):
        raise BadLine(f"unknown field {unknown[0]!r}; a line of this kind has {sorted(known)}")
    for field in sorted(SHARED_FIELDS):
        if not isinstance(line.get(field), str) or not line[field].strip():
            raise BadLine(f"`{field}` is missing, empty or not a string")
    question = questions.get(line["prompt_id"])
    if question is None:
        raise BadLine(f"prompt_id {line['prompt_id']!r} is not in the queue")
    if line["batch_sha256"] != question["batch_sha256"]:
        raise BadLine(
            f"batch_sha256 {line['batch_sha256'][:12]}… is stale; the queue is {question['batch_sha256'][:12]}…"
        )
    texts = {c["label"]: c["text"] for c in question["candidates"]}
    if has_rank:
        _check_ranking(line, texts)
        return line, "rank"
    _check_edit(line, texts, question["messages"], max_tokens, count_tokens)
    return line, "edit"


def _parse(raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
        if twice:
            raise BadLine(f"field {twice[0]!r} is given twice")
        return dict(pairs)

    try:
        line = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise BadLine(f"invalid UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadLine(f"broken JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise BadLine("broken JSON: nested too deep") from error
    if not isinstance(line, dict):
        raise BadLine(f"is a JSON {type(line).__name__}, not an object")
    return line


def _check_ranking(line: dict[str, Any], texts: Mapping[str, str]) -> None:
    ranking, reject = line.setdefault("ranking", []), line.get("reject", [])
    if not isinstance(ranking, list) or not all(isinstance(group, list) for group in ranking):
        raise BadLine('`ranking` must be a list of groups, such as [["C"], ["A", "F"]]')
    if any(not group for group in ranking):
        raise BadLine("`ranking` has an empty group")
    if not isinstance(reject, list):
        raise BadLine('`reject` must be a list of labels, such as ["B"]')
    if not ranking and not reject:
        raise BadLine("`ranking` is empty and nothing is rejected")
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
        raise BadLine("edit without `base`, the label that was edited")
    if not isinstance(base, str) or base not in texts:
        raise BadLine(f"`base` is {base!r}, which this prompt lacks; it has {', '.join(texts)}")
    if text is None:
        raise BadLine("edit without `text`")
    if not isinstance(text, str):
        raise BadLine("`text` of the edit is not a string")
    if not text.strip():
        raise BadLine("`text` of the edit is empty")
    if text.strip() == texts[base].strip():
        raise BadLine(f"`text` of the edit equals its base {base}")
    for marker in MARKERS:
        if marker in text:
            raise BadLine(f"`text` of the edit contains the chat marker {marker!r}")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise BadLine("`text` of the edit holds a lone surrogate")
    if not isinstance(line.get("reason", ""), str):
        raise BadLine("`reason` is not a string")
    length = count_tokens([*messages, {"role": "assistant", "content": text}])
    if length > max_tokens:
        raise BadLine(f"the edit makes a chat of {length} tokens, longer than the context of {max_tokens}")
