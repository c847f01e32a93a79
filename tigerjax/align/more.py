"""Further candidates for the prompts that need them: those of which no answer can win yet."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tigerjax.align.answers import Records, ScoreFunction, score_records
from tigerjax.align.diversity import alike


def undecided(record: Mapping[str, Any], spread: float) -> bool:
    """Whether no finished answer of a scored record is above the existing one, or all scores are alike."""
    able = [c for c in record["candidates"] if c["score"] is not None and not c.get("below")]
    finished = [c["score"] for c in able if c["finish"] == "stop"]
    reference = None if record.get("reference_below") else record.get("reference_score")
    return not finished or (reference is not None and max(finished) <= reference) or alike(record["candidates"], spread)


def answered_again(
    records: Records,
    scored: Records,
    sample: Callable[[Records], Iterable[dict[str, Any]]],
    score: ScoreFunction,
    *,
    spread: float,
) -> tuple[Records, dict[str, int]]:
    """(the scored records, those that were undecided with more candidates; how many these were, and are decided now).

    `records` are all records before the scoring: a prompt without a valid score is among them only. `sample` gives a
    prompt its first candidates again and further ones, whose random numbers follow those of the first.
    """
    decided = {record["prompt_id"] for record in scored if not undecided(record, spread)}
    again = [record for record in records if record["prompt_id"] not in decided]
    if not again:
        return scored, {"answered_again": 0, "decided_then": 0}
    heads = {r["prompt_id"]: {key: r[key] for key in ("reference", "task", "lang") if key in r} for r in again}
    prompts = [{"prompt_id": r["prompt_id"], "messages": r["messages"], **heads[r["prompt_id"]]} for r in again]
    drawn = [{**record, **heads[record["prompt_id"]]} for record in sample(prompts)]
    fresh = {record["prompt_id"]: record for record in score_records(drawn, score)[0]}
    known = {record["prompt_id"]: record for record in scored} | fresh
    out = [known[record["prompt_id"]] for record in records if record["prompt_id"] in known]
    now = sum(not undecided(record, spread) for record in fresh.values())
    return out, {"answered_again": len(again), "decided_then": now}
