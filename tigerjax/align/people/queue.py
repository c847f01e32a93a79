"""The questions that go to people: which prompts are asked, and the files that people read.

A scored record is a sampler record {prompt_id, messages, task?, lang?, candidates: [{cid, text, finish, …}]} whose
candidates have a calibrated `score`. A candidate whose score is None or NaN is invalid and never shown.

    item = {prompt_id, rank: bool, edit: bool, messages, candidates: [{label: "A", text}],
            batch_sha256}                                                                          queue.jsonl
    key  = {prompt_id, labels: {"A": [cid, …]}}                                                    key.jsonl
    a label line (see label_lines) without its answer, for each judgement that is asked            template.jsonl

The order of the labels is a seeded shuffle, and identical texts share one label. People see no score and no candidate
id, so that they judge the text alone.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from tigerjax.align.prompts import draw, stratified
from tigerjax.errors import ConfigError
from tigerjax.files import manifest
from tigerjax.pages.markdown import block, name

HOW_TO_ANSWER = (
    "Copy `template.jsonl`, which lies beside this page, and fill in each line: your name as `annotator`; as `ranking`"
    ' the answers in groups of equals, the best group first, such as `[["B"], ["A", "D"]]`; as `reject` those that are'
    ' unusable, such as `["C"]`. Answers that you leave out come last.',
    "",
    "Where a question says `rewrite the best`, the template has a line for it: `base` is the answer that you start"
    " from, such as `B`, and `text` is your version of it.",
    "",
    "`tigerjax align import DIR --labels FILE` takes the file; DIR is the folder with `align.json`.",
)


class Queue(NamedTuple):
    """The items that people see, the key that turns their labels back into candidate ids, and the number of prompts
    asked for each purpose."""

    items: list[dict[str, Any]]
    key: list[dict[str, Any]]
    counts: dict[str, int]


def share(fraction: float, total: int) -> int:
    """ceil(fraction * total), in exact arithmetic: in floats 0.01 * 700 is 7.000000000000001, which would give 8."""
    return math.ceil(Fraction(str(fraction)) * total)


def is_valid(candidate: Mapping[str, Any]) -> bool:
    """Whether the reward model gave a finite score."""
    score = candidate.get("score")
    return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)


def margin(record: Mapping[str, Any]) -> float:
    """The gap between the two best scores of different texts; infinite when there is only one text."""
    best: dict[str, float] = {}
    for candidate in record["candidates"]:
        if is_valid(candidate):
            best[candidate["text"]] = max(candidate["score"], best.get(candidate["text"], -math.inf))
    top = sorted(best.values(), reverse=True)[:2]
    return top[0] - top[1] if len(top) == 2 else math.inf


def build(
    records: Sequence[dict[str, Any]],
    *,
    rank_fraction: float,
    edit_fraction: float,
    edit_within_ranked: bool,
    seed: int,
    round_index: int,
) -> Queue:
    """Picks ceil(rank_fraction * P) of the P prompts for ranking and ceil(edit_fraction * P) for editing.

    Half of the prompts to rank (rounded up) are those with the smallest margin between their two best answers. The
    other half is drawn at random from the rest, in proportion to task and language. The prompts to edit are those whose
    best score is lowest, among the ranked prompts or, when `edit_within_ranked` is false, among the others. Prompts
    without two different valid answers are picked only when nothing else is left. Raises ConfigError for a prompt that
    occurs twice, and for more edits than rankings where edits lie within these.
    """
    if len({r["prompt_id"] for r in records}) != len(records):
        raise ConfigError("records hold a prompt_id twice; the queue needs one line per prompt")
    total = len(records)
    ranked_n, edit_n = share(rank_fraction, total), share(edit_fraction, total)
    if edit_n > ranked_n and edit_within_ranked:
        raise ConfigError(f"edit_fraction={edit_fraction} exceeds rank_fraction={rank_fraction}; lower it")
    if not edit_within_ranked:
        ranked_n = min(ranked_n, total)
        edit_n = min(edit_n, total - ranked_n)

    by_margin = sorted(records, key=lambda r: (margin(r), r["prompt_id"]))
    close, others = by_margin[: (ranked_n + 1) // 2], by_margin[(ranked_n + 1) // 2 :]
    usable = [r for r in others if math.isfinite(margin(r))]
    rest_n = ranked_n - len(close)
    spread = stratified(usable, min(rest_n, len(usable)), seed, f"queue {round_index}")
    spread += [r for r in others if not math.isfinite(margin(r))][: rest_n - len(spread)]
    ranked = close + spread
    ranked_ids = {r["prompt_id"] for r in ranked}
    pool = ranked if edit_within_ranked else [r for r in records if r["prompt_id"] not in ranked_ids]
    edits = sorted(pool, key=lambda r: (_top_score(r), r["prompt_id"]))[:edit_n]
    edit_ids = {r["prompt_id"] for r in edits}
    shown = sorted((*ranked, *(r for r in edits if r["prompt_id"] not in ranked_ids)), key=lambda r: r["prompt_id"])

    items, key = [], []
    for record in shown:
        candidates, labels = _blind(record, seed, round_index)
        identity = record["prompt_id"]
        purpose = {"rank": identity in ranked_ids, "edit": identity in edit_ids}
        items.append({"prompt_id": identity, **purpose, "messages": record["messages"], "candidates": candidates})
        key.append({"prompt_id": identity, "labels": labels})
    batch = hashlib.sha256(manifest.canonical(items)).hexdigest()
    counts = {"prompts": total, "rank": len(ranked), "edit": len(edits), "shown": len(items)}
    return Queue([item | {"batch_sha256": batch} for item in items], key, counts)


def markdown(items: Sequence[Mapping[str, Any]]) -> str:
    """The questions as Markdown, one section per prompt. Texts stand in code blocks, so they appear as they are.

    Control characters, which could change what a terminal shows, appear as U+FFFD; queue.jsonl has the text itself.
    """
    lines = ["# Answers to rank", ""]
    if items:
        lines += [f"Batch `{items[0]['batch_sha256']}`.", "", *HOW_TO_ANSWER, ""]
    for item in items:
        wanted = "rank, and rewrite the best" if item["rank"] else "rewrite the best"
        lines += [f"## {name(item['prompt_id'])}{f' ({wanted})' if item['edit'] else ''}", ""]
        for message in item["messages"]:
            lines += [f"**{message['role']}**", "", *block(message["content"]), ""]
        for candidate in item["candidates"]:
            lines += [f"### {candidate['label']}", "", *block(candidate["text"] or "(empty)"), ""]
    return "\n".join(lines)


def template(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A label line for each ranking and each edit that is asked, without the name of the annotator and the answer."""
    lines: list[dict[str, Any]] = []
    for item in items:
        head = {"prompt_id": item["prompt_id"], "batch_sha256": item["batch_sha256"], "annotator": ""}
        lines += [{**head, "ranking": [], "reject": []}] if item["rank"] else []
        lines += [{**head, "base": "", "text": ""}] if item["edit"] else []
    return lines


def _blind(record: Mapping[str, Any], seed: int, round_index: int) -> tuple[list[dict[str, str]], dict[str, list[str]]]:
    """(labelled texts in shuffled order, {label: the candidate ids with this text})."""
    cids: dict[str, list[str]] = {}
    for candidate in sorted(filter(is_valid, record["candidates"]), key=lambda c: c["cid"]):
        cids.setdefault(candidate["text"], []).append(candidate["cid"])
    purpose = f"blind {round_index}"
    texts = sorted(cids, key=lambda text: (draw(seed, purpose, record["prompt_id"], cids[text][0]), text))
    candidates = [{"label": label(i), "text": text} for i, text in enumerate(texts)]
    return candidates, {c["label"]: cids[c["text"]] for c in candidates}


def label(index: int) -> str:
    """The label of answer `index` (from 0): A, B, … Z, AA, AB, … as in spreadsheets."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def _top_score(record: Mapping[str, Any]) -> float:
    return max((c["score"] for c in record["candidates"] if is_valid(c)), default=math.inf)
