"""Reads label files, checks every line, and combines the annotators of each prompt.

A file is JSONL with one label per line (see label_lines), or Label Studio's JSON export (see label_studio), which
begins with a bracket. A line may bring its own question: a conversation with its answers, which joins the round. When
an annotator ranked a prompt twice, or edited it twice, the later line counts.

One wrong line and nothing is imported. The error names every wrong line with its file and line number.
"""

import codecs
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.people import label_lines, label_studio
from tigerjax.align.people.agreement import borda
from tigerjax.align.people.gold import Record
from tigerjax.align.people.label_lines import BadLine
from tigerjax.align.people.panel import Counted, Panel, apart, complete
from tigerjax.errors import Blocked, DataError
from tigerjax.files import paths
from tigerjax.files.jsonl import BOM

MOST_NAMED = 3
DOUBTFUL = {
    "unasked_rank": "rankings of prompts that nobody was asked to rank; they are used",
    "unasked_edit": "edits of prompts that nobody was asked to edit; they are used",
    "edit_of_rejected": "edits of an answer that the same annotator rejected; the edit is used, the answer is rejected",
    "best_is_rejected": "rankings whose first answer the same annotator rejected; the rejection counts",
}
"""Labels that are well formed and are taken, and may still be mistakes."""


class Verdict(NamedTuple):
    """People's judgement of one prompt, their labels replaced by candidate ids."""

    ranking: list[list[str]]
    """Groups of equally good candidates, the best group first; empty when nobody ranked the prompt."""
    rejected: list[str]
    """Candidates that at least one annotator rejected."""
    edits: list[dict[str, str]]
    """{annotator, base: the candidate that was edited, text}, the newest last."""
    annotators: list[str]


class Imported(NamedTuple):
    """What all label files together say, by prompt id."""

    verdicts: dict[str, Verdict]
    adjudicate: list[dict[str, Any]]
    """Prompts on which two annotators disagree (Kendall's tau-b below 0)."""
    missing: dict[str, list[str]]
    """{"rank": prompt ids, "edit": prompt ids} that fall back to the reward model's order."""
    counts: dict[str, Any]
    notes: list[str]
    """A line for each kind of label that is taken although it may be a mistake, with its count and first prompts, and
    one for each file of which every task was skipped."""
    conversations: list[dict[str, Any]]
    """The questions that label lines brought themselves, as sampler records: {prompt_id, conversation: True, messages,
    candidates: [{cid, text, finish, score: None}]}. No reward model has scored them."""
    records: dict[str, Record]
    """What each of a team did on gold questions, those of earlier rounds included."""


class Collected(NamedTuple):
    """The lines of label files that count, and what was said of the others."""

    lines: dict[tuple[str, str, str], dict[str, Any]]
    """{(prompt id, "rank" or "edit", annotator): the newest line}, in the order of the lines."""
    brought: dict[str, Mapping[str, Any]]
    """The questions that lines brought themselves, by id."""
    total: int
    """Lines and skipped tasks that were read and taken."""
    left: int
    """Lines that were not taken."""
    skipped: int
    """Tasks that annotators skipped."""
    notes: list[str]


def everything(line: Any) -> bool:
    """Takes every line of a label file."""
    return True


def of_queue(items: Sequence[Mapping[str, Any]]) -> Callable[[Any], bool]:
    """Takes what is about a question of `items`, or brings its own.

    For labels that were delivered and checked: a queue that was made again may have other questions, and those of the
    queue before are then left out.
    """
    batches = {item["prompt_id"]: item["batch_sha256"] for item in items}

    def takes(line: Any) -> bool:
        if not isinstance(line, dict) or label_lines.brings_question(line):
            return True
        return bool(batches.get(line["prompt_id"]) == line["batch_sha256"])

    return takes


def collect(
    items: Sequence[Mapping[str, Any]],
    files: Iterable[str | Path],
    *,
    max_tokens: int,
    count_tokens: Callable[[list[dict[str, str]]], int],
    takes: Callable[[Any], bool] = everything,
) -> Collected:
    """The label lines of files about `items` (of queue.build), each checked; only those that `takes` says yes to.

    `count_tokens(messages)` gives the number of tokens of a chat, and `max_tokens` is the context that a chat with an
    edited answer must fit into. Raises DataError with every wrong line, as "file:line: reason" or "file: task 3,
    annotation 5: reason", and for a file without a label.
    """
    questions = {item["prompt_id"]: item for item in items}
    brought: dict[str, Mapping[str, Any]] = {}
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    errors, total, skipped, left = [], 0, 0, 0
    empty: list[str] = []
    notes: list[str] = []
    given = [paths.of(file) for file in files]
    if absent := [str(path) for path in given if not path.is_file()]:
        raise DataError(f"{', '.join(absent)}: label file does not exist, nothing was imported; give another path")
    for path in given:
        read, before, skipped_before = 0, total, skipped
        for where, line in read_lines(path):
            read += 1
            if not takes(line):
                left += 1
                continue
            total += 1
            if line is None:
                skipped += 1
                continue
            try:
                if isinstance(line, BadLine):
                    raise line
                kind = label_lines.check(line, questions | brought, max_tokens, count_tokens)
            except BadLine as error:
                errors.append(f"{where}: {error}")
                continue
            if label_lines.brings_question(line):
                brought[line["prompt_id"]] = {name: line[name] for name in ("prompt_id", "messages", "candidates")}
            slot = (line["prompt_id"], kind, line["annotator"])
            lines.pop(slot, None)  # so that the newer line also moves to the end: the order of edits is that of `lines`
            lines[slot] = line
        if not read:
            empty.append(str(path))
        elif total > before and total - before == skipped - skipped_before:
            notes.append(f"labels: {path}: 0 labels in it; its {total - before} tasks were all skipped")
    if errors:
        listed = "\n  ".join(errors)
        raise DataError(f"{len(errors)} of {total} label lines are wrong, nothing was imported:\n  {listed}")
    if empty:
        raise DataError(
            f"{', '.join(empty)}: 0 labels in it, nothing was imported; write or export the labels again, or leave the"
            " file out"
        )
    return Collected(lines, brought, total, left, skipped, notes)


def import_labels(
    items: Sequence[Mapping[str, Any]],
    key: Sequence[Mapping[str, Any]],
    files: Iterable[str | Path],
    *,
    max_tokens: int,
    count_tokens: Callable[[list[dict[str, str]]], int],
    allow_partial: bool,
    panel: Panel | None = None,
    takes: Callable[[Any], bool] = everything,
) -> Imported:
    """The verdicts of all label files on the prompts of a queue (`items` and `key` of queue.build or assign.build).

    It takes the files as `collect` does, and raises what that does. `panel` are the rules of a team. Raises Blocked
    when labels are missing and `allow_partial` is false.
    """
    found = collect(items, files, max_tokens=max_tokens, count_tokens=count_tokens, takes=takes)
    questions, notes = {item["prompt_id"]: item for item in items}, list(found.notes)
    counted = Counted(found.lines, [], {}, [], {})
    if panel is not None:
        counted = panel.counted(found.lines, key)
        notes += panel.notes(counted, found.lines)
    lines, golds = counted.lines, {entry["prompt_id"] for entry in key if "right" in entry}
    by_prompt: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for (prompt_id, kind, _), line in lines.items():
        by_prompt[prompt_id].append((kind, line))
    missing = {
        kind: [
            prompt_id
            for prompt_id, q in questions.items()
            if prompt_id not in golds and q[kind] and kind not in {k for k, _ in by_prompt[prompt_id]}
        ]
        for kind in ("rank", "edit")
    }
    waits = missing
    if panel is not None:
        waits = missing | {"edit": [p for p in missing["edit"] if panel.needs_edit(counted, p)]}
    # A file without a label for these questions may still have others, and its writer must see that it was taken.
    former = f", left out, of a former queue: {found.left:,}" if found.left else ""
    here = f" (labels that are imported: {len(found.lines):,}{former})" if found.lines or former else ""
    if any(waits.values()) and not allow_partial:
        wanted = Counter(k for i in items if i["prompt_id"] not in golds for k in ("rank", "edit") if i[k])
        raise Blocked(
            f"labels are missing: {len(waits['rank'])} of {wanted['rank']} rankings and {len(waits['edit'])} of"
            f" {wanted['edit']} edits, such as {(waits['rank'] + waits['edit'])[0]}{here}"
            f"{'' if panel is None else panel.for_whom(counted, found.lines, key)}; import them"
        )
    if panel is not None and not allow_partial:
        panel.refuse_open(found.lines, counted, here)
    conversations = [_record(found.brought[prompt_id]) for prompt_id in sorted(found.brought)]
    cids = {entry["prompt_id"]: entry["labels"] for entry in key}
    cids |= {r["prompt_id"]: _by_label(found.brought[r["prompt_id"]], r) for r in conversations}
    own_id = {entry["prompt_id"]: entry.get("of", entry["prompt_id"]) for entry in key}
    least = 0.0 if panel is None else panel.min_agreement
    verdicts, adjudicate = {}, []
    for prompt_id in sorted(p for p in by_prompt if by_prompt[p]):
        verdict, disagreements = _combine(by_prompt[prompt_id], cids[prompt_id], least)
        verdicts[own_id.get(prompt_id, prompt_id)] = verdict
        adjudicate += [{"prompt_id": own_id.get(prompt_id, prompt_id), **d} for d in disagreements]
    missing = {kind: [own_id[prompt_id] for prompt_id in some] for kind, some in missing.items()}
    kinds, superseded = Counter(kind for _, kind, _ in lines), found.total - found.skipped - len(found.lines)
    counts: dict[str, Any] = {"in": found.total + found.left, "out": len(lines), "dropped": {"superseded": superseded}}
    counts["dropped"] |= {"skipped": found.skipped} if found.skipped else {}
    counts["dropped"] |= {"former_queue": found.left} if found.left else {}
    counts["dropped"] |= counted.dropped
    counts |= {"rankings": kinds["rank"], "edits": kinds["edit"], "disagreements": len(adjudicate)}
    counts |= {"missing_rank": len(missing["rank"]), "missing_edit": len(missing["edit"])}
    if conversations:
        counts["conversations"] = len(conversations)
    doubtful = {kind: found for kind, found in _doubtful(lines, questions).items() if found}
    counts |= {kind: len(found) for kind, found in doubtful.items()}
    notes += [_note(*pair) for pair in doubtful.items()]
    return Imported(verdicts, adjudicate, missing, counts, notes, conversations, counted.records)


def _record(question: Mapping[str, Any]) -> dict[str, Any]:
    """A question that a label line brought, as a sampler record without scores."""
    identity = question["prompt_id"]
    candidates = [
        {"cid": f"{identity}-{c['label']}", "text": c["text"], "finish": c["finish"], "score": None}
        for c in question["candidates"]
    ]
    head = {"prompt_id": identity, "conversation": True, "messages": question["messages"]}
    return head | {"candidates": candidates}


def _by_label(question: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, list[str]]:
    """{label: [candidate id]}, as the key of a queue has it."""
    pairs = zip(question["candidates"], record["candidates"], strict=True)
    return {candidate["label"]: [scored["cid"]] for candidate, scored in pairs}


def _doubtful(
    lines: Mapping[tuple[str, str, str], Mapping[str, Any]], questions: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """By the kinds of DOUBTFUL, the prompts of the labels that are taken and may be mistakes."""
    found: dict[str, list[str]] = {kind: [] for kind in DOUBTFUL}
    for (prompt_id, kind, annotator), line in lines.items():
        if prompt_id in questions and not questions[prompt_id][kind]:
            found[f"unasked_{kind}"].append(prompt_id)
        rejected = lines.get((prompt_id, "rank", annotator), {}).get("reject", [])
        if kind == "edit" and line["base"] in rejected:
            found["edit_of_rejected"].append(prompt_id)
        if kind == "rank":
            best = line["ranking"][:1]
            if best and set(best[0]) & set(rejected):
                found["best_is_rejected"].append(prompt_id)
    return found


def _note(kind: str, prompts: Sequence[str]) -> str:
    first = ", ".join(prompts[:MOST_NAMED])
    return f"labels: {len(prompts)} {DOUBTFUL[kind]}, such as {first}"


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, label line) of each line of a file, in order.

    Instead of the line it gives a BadLine when the line cannot be read, and None for a skipped task of Label Studio.
    """
    raw = path.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # else each line of it is wrong in another way
        yield str(path), BadLine("is UTF-16, as some programs on Windows write; save it as UTF-8")
        return
    if raw.removeprefix(BOM).lstrip()[:1] == b"[":
        yield from ((f"{path}: {where}" if where else str(path), line) for where, line in label_studio.lines(raw))
        return
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", label_lines.parse(line)
            except BadLine as error:
                yield f"{path}:{number}", error


def _combine(
    lines: Sequence[tuple[str, dict[str, Any]]], cids: Mapping[str, list[str]], least: float
) -> tuple[Verdict, list[dict[str, Any]]]:
    """(the verdict of all annotators of a prompt, the pairs of annotators who disagree).

    `lines` are (kind, line). Two disagree whose Kendall's tau is below `least`. Rankings are combined by their Borda
    points, one annotator's reject is enough to reject, and all edits are kept.
    """
    ranks = [line for kind, line in lines if kind == "rank"]
    labels = sorted(cids)
    # A line that only rejects does not order the other answers, so it is no ranking.
    orders = {line["annotator"]: complete(line["ranking"], labels) for line in ranks if line["ranking"]}
    disagreements = [
        {"annotators": list(pair), "kendall_tau": round(tau, 6), "rankings": [orders[name] for name in pair]}
        for pair, tau in apart(orders, least)
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
