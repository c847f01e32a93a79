"""The next SFT set: the current set and the winners of the round."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from tigerjax.align.prompts import prompt_key
from tigerjax.errors import GateFailed

ADVICE = {
    "no_winner_truncated": "raise max_new_tokens, so that answers come to their end",
    "no_winner_empty": "start from a candidate model that answers",
    "no_winner_marker": "start from a candidate model that ends its answers",
    "no_winner_equals_reference": "raise the temperature or n",
    "no_winner_safety": "look through the safety list, or raise n",
    "no_winner_below_floor": "look at the scores below the floors in scored.jsonl; raise n, or lower a floor",
    "alike_scores": "raise the temperature, n or more_candidates, or set min_spread to None",
    "below_min_score": "lower min_score",
    "below_reference": "set beat_reference off, raise n, or raise the temperature",
    "reference_without_score": "raise data.seq_len, so that existing answers fit, or set beat_reference off",
    "duplicate_winner": "raise the temperature or sample other prompts",
}
"""What to change when answers lose for a reason, by its name in the counts of `rank.rank` and `mix`."""


class NoWinner(GateFailed):
    """No answer of a round may join the SFT set; `dropped` says why, with one reason for each of the `prompts`."""

    def __init__(self, prompts: int, dropped: Mapping[str, int]) -> None:
        assert sum(dropped.values()) == prompts, (prompts, dropped)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items(), key=lambda item: -item[1]))
        advice = [ADVICE[reason] for reason in ADVICE if dropped.get(reason)]
        change = "; ".join(advice) or "raise the temperature, or sample more prompts"
        super().__init__(f"0 winners of {prompts} prompts ({why or 'nothing was sampled'}); {change}")
        self.dropped = dropped


class Mixed(NamedTuple):
    """The next SFT set and its counts."""

    examples: list[dict[str, Any]]
    """SFT examples; a winner has source "rejection_sampling", its provenance, score and weight."""
    counts: dict[str, Any]


def mix(
    examples: Iterable[Mapping[str, Any]],
    ranked: Iterable[Mapping[str, Any]],
    *,
    round_index: int,
    top_m: int,
    min_score: float | None,
    beat_reference: bool,
    on_conflict: Literal["add", "replace"],
    weights: Mapping[str, float],
) -> Mixed:
    """Adds the `top_m` best answers of each ranked prompt (see rank.rank) to the SFT set, without exact duplicates.

    A winner that the reward model chose must score at least `min_score` and, with `beat_reference`, more than the
    existing answer; winners that people ranked first or wrote need not. With "replace" a winner replaces the example
    whose id is its prompt_id. `weights` are loss weights by provenance. A prompt whose existing answer has no score
    (`answers.Existing`) has no winner with `beat_reference`. Raises NoWinner when no winner is left.
    """
    sft, ranked = [dict(e) for e in examples], list(ranked)
    dropped: Counter[str] = Counter()
    winners: list[dict[str, Any]] = []
    for record in ranked:
        for candidate in record["ranking"][:top_m]:
            if why := why_not(record, candidate, min_score=min_score, beat_reference=beat_reference):
                dropped[why] += 1
                continue
            winners.append(_example(record, candidate, round_index, weights))
    won = {w["prompt_id"] for w in winners}
    replaced = [e for e in sft if on_conflict == "replace" and e["id"] in won]
    staying = [e for e in sft if not (on_conflict == "replace" and e["id"] in won)]

    seen: set[str] = set()
    out: list[dict[str, Any]] = []
    for example in (*staying, *winners):
        key = prompt_key(example["messages"])
        if key in seen:
            dropped["duplicate_winner" if "prompt_id" in example else "duplicate_example"] += 1
            continue
        seen.add(key)
        out.append(example)
    own = {w["id"] for w in winners}  # the set may hold winners of earlier rounds too
    fresh = [e for e in out if e["id"] in own]
    if not fresh:
        # A prompt is lost by what its best answer lost by; where that may win, the set has it already.
        best = [why_not(r, r["ranking"][0], min_score=min_score, beat_reference=beat_reference) for r in ranked]
        raise NoWinner(len(ranked), Counter(why or "duplicate_winner" for why in best))
    dropped["replaced"] = len(replaced)
    tried = sum(min(top_m, len(r["ranking"])) for r in ranked)
    counts = {"in": len(sft) + tried, "out": len(out), "dropped": {k: n for k, n in dropped.items() if n}}
    counts |= {"winners": dict(Counter(e["provenance"] for e in fresh)), "winner_share": len(fresh) / len(out)}
    return Mixed(out, counts)


def why_not(
    record: Mapping[str, Any], candidate: Mapping[str, Any], *, min_score: float | None, beat_reference: bool
) -> str | None:
    """Why an answer that may win (see rank.rank) does not join the SFT set; None when it does. One that people ranked
    first or wrote joins it whatever its score is."""
    if candidate["provenance"] != "rm":
        return None
    if min_score is not None and candidate["score"] < min_score:
        return "below_min_score"
    return _loses(record, candidate) if beat_reference else None


def _loses(record: Mapping[str, Any], candidate: Mapping[str, Any]) -> str | None:
    """Why the candidate does not beat the existing answer of its prompt; None when it does."""
    if record.get("reference") is None:
        return None
    score = record.get("reference_score")
    if score is None or score != score:
        return "reference_without_score"
    if record.get("reference_below"):  # an answer that may not win is no bar
        return None
    return None if candidate["score"] > score else "below_reference"


def _example(
    record: Mapping[str, Any], candidate: Mapping[str, Any], round_index: int, weights: Mapping[str, float]
) -> dict[str, Any]:
    """A winner as an SFT example."""
    answer = {"role": "assistant", "content": candidate["text"]}
    return {
        "id": f"rs{round_index:02d}-{record['prompt_id']}-{candidate['cid']}",
        "messages": [*record["messages"], answer],
        **{key: record[key] for key in ("task", "lang") if key in record},
        "source": "rejection_sampling",
        "prompt_id": record["prompt_id"],
        "provenance": candidate["provenance"],
        "score": candidate["score"],
        "weight": weights[candidate["provenance"]],
    }
