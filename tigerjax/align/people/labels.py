"""Reading what people said: every mistake is named by its place, and one mistake keeps the whole delivery out.

A file is JSONL of label lines (align.label_lines) or Label Studio's JSON export (align.label_studio), which begins with
a bracket. A later line of the same annotator for the same prompt replaces the earlier one, by kind.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.people import label_lines, label_studio
from tigerjax.align.people.agreement import borda, kendall
from tigerjax.align.people.label_lines import BadLine
from tigerjax.errors import Blocked, DataError
from tigerjax.files import paths


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
    Raises DataError with every bad line (file:line: reason, or file: task 3, annotation 5: reason) and imports nothing,
    or Blocked with counts when labels are missing and `allow_partial` is false.
    """
    questions = {item["prompt_id"]: item for item in items}
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    errors, total, skipped = [], 0, 0
    for path in map(paths.of, files):
        if not path.is_file():
            errors.append(f"{path}: label file does not exist")
            continue
        for place, said in _read(path):
            total += 1
            if said is None:
                skipped += 1
                continue
            try:
                if isinstance(said, BadLine):
                    raise said
                kind = label_lines.check(said, questions, max_tokens, count_tokens)
            except BadLine as error:
                errors.append(f"{place}: {error}")
                continue
            slot = (said["prompt_id"], kind, said["annotator"])
            lines.pop(slot, None)  # the newest line wins, and moves to the end
            lines[slot] = said
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
    counts: dict[str, Any] = {"in": total, "out": len(lines), "dropped": {"superseded": total - skipped - len(lines)}}
    if skipped:
        counts["dropped"]["skipped"] = skipped
    counts |= {"rankings": kinds["rank"], "edits": kinds["edit"], "disagreements": len(adjudicate)}
    counts |= {"missing_rank": len(missing["rank"]), "missing_edit": len(missing["edit"])}
    return Imported(verdicts, adjudicate, missing, counts)


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, label line | BadLine | None for a task that its annotator skipped) of a file, in order."""
    raw = path.read_bytes()
    if raw.lstrip()[:1] == b"[":
        yield from ((f"{path}: {place}" if place else str(path), said) for place, said in label_studio.lines(raw))
        return
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", label_lines.parse(line)
            except BadLine as error:
                yield f"{path}:{number}", error


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
