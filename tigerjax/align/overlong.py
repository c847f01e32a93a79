"""What does not fit into `seq_len`, or is of no use otherwise: left out, counted and named before any training.

More than the share `data.max_dropped` of it stops the run.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tigerjax.align.encoding import fits
from tigerjax.align.reward_data import MOST_NAMED, Comparison, Dropped, both_ways
from tigerjax.errors import DataError
from tigerjax.processes import hosts
from tigerjax.terminal import printable
from tigerjax.tokenizer.load import Tokenizer

OVERLONG = "overlong"
LOST = {
    OVERLONG: "longer than seq_len",
    "empty": "with an empty text",
    "other_prompt": "whose answers belong to different conversations",
}
"""Reasons for which a pair is dropped that a user may not expect, in words."""
NO_PAIRS = {"identical": "of the same text twice", "tie": "of answers ranked alike"}
"""Reasons for which two answers are no pair, in words. `data.max_dropped` does not count these."""


def fit(
    comparisons: Sequence[Comparison], counts: Mapping[str, Any], tok: Tokenizer, *, seq_len: int, max_dropped: float
) -> tuple[list[Comparison], dict[str, Any]]:
    """(the comparisons without answers that do not fit, the counts of `reward_data.read` brought up to date).

    Says in one line on standard error what was dropped for the reasons of LOST and NO_PAIRS, and how many pairs of
    answers are preferred both ways; these are trained on both ways, and counted as `both_ways`. DataError when more
    than the share `max_dropped` of the pairs is dropped, or when no pair is left.
    """
    lost = Dropped()
    kept: list[Comparison] = []
    for comparison in comparisons:
        long = {
            place
            for place, (text, finish) in enumerate(comparison.answers)
            if not fits(tok, comparison.messages, text, finish, seq_len=seq_len)
        }
        rest = _without(comparison, long)
        lost_pairs = len(comparison.pairs) - (len(rest.pairs) if rest else 0)
        if lost_pairs:
            lost.add(OVERLONG, counts["where"][comparison.prompt_id], lost_pairs)
        if rest is not None:
            kept.append(rest)
    dropped = counts["dropped"] | dict(lost.counts)
    names = counts["named"] | lost.named
    without = counts["prompts_without_pairs"] + len(comparisons) - len(kept)
    figures = {"in": counts["in"], "out": counts["in"] - sum(dropped.values()), "dropped": dropped}
    figures |= {"prompts": len(kept), "prompts_without_pairs": without}
    lost_by_reason = {reason: dropped[reason] for reason in LOST if dropped.get(reason)}
    turned = {comparison.prompt_id: n for comparison in kept if (n := both_ways(comparison))}
    lines = (
        [_left_out("preferences", "pairs", counts["in"], lost_by_reason, names, max_dropped, not kept)]
        if lost_by_reason
        else []
    )
    if nothing := [f"{dropped[r]} {NO_PAIRS[r]}, such as {', '.join(names[r])}" for r in NO_PAIRS if dropped.get(r)]:
        lines.append(f"preferences that say nothing are left out: {'; '.join(nothing)}")
    if turned:
        figures["both_ways"] = sum(turned.values())
        first = ", ".join([counts["against"][name] for name in turned][:MOST_NAMED])
        lines.append(
            f"{figures['both_ways']} pairs of answers are preferred both ways, such as {first}, and are trained on both"
            " ways"
        )
    if lines:
        hosts.say(f"tigerjax: note: {printable('; '.join(lines))}")
    return kept, figures


def fitting_reference(
    reference: Sequence[Mapping[str, Any]], tok: Tokenizer, *, seq_len: int, max_dropped: float
) -> list[Mapping[str, Any]]:
    """The SFT examples whose answers fit; the others are counted and named as in `fit`.

    DataError when fewer than two are left: one answer has no deviation.
    """
    lost = Dropped()
    kept: list[Mapping[str, Any]] = []
    for example in reference:
        *before, answer = example["messages"]
        if fits(tok, before, answer["content"], "stop", seq_len=seq_len):
            kept.append(example)
        else:
            lost.add(OVERLONG, repr(example.get("id")))
    if lost.counts:
        few = len(kept) < 2
        line = _left_out("reference", "examples", len(reference), lost.counts, lost.named, max_dropped, few)
        hosts.say(f"tigerjax: note: {printable(line)}")
    return kept


def _without(comparison: Comparison, answers: set[int]) -> Comparison | None:
    """The comparison without these answers and their pairs; None when no pair is left."""
    if not answers:
        return comparison
    pairs = [pair for pair in comparison.pairs if not answers & {pair.winner, pair.loser}]
    used = sorted({i for pair in pairs for i in (pair.winner, pair.loser)})
    place, total = {answer: i for i, answer in enumerate(used)}, sum(pair.weight for pair in pairs)
    if not pairs:
        return None
    return dataclasses.replace(
        comparison,
        answers=tuple(comparison.answers[answer] for answer in used),
        pairs=tuple(p._replace(winner=place[p.winner], loser=place[p.loser], weight=p.weight / total) for p in pairs),
    )


def _left_out(
    what: str,
    things: str,
    total: int,
    counts: Mapping[str, int],
    named: Mapping[str, Sequence[str]],
    max_dropped: float,
    everything: bool,
) -> str:
    """What is dropped, in words; DataError when it is too much or nothing is left."""
    why = "; ".join(f"{counts[reason]} {LOST[reason]}, such as {', '.join(named[reason])}" for reason in counts)
    lost = sum(counts.values())
    line = f"{what}: {lost} of {total} {things} ({lost / total:.0%}) are left out: {why}"
    advice = "raise data.seq_len" if OVERLONG in counts else "correct the files"
    if everything:
        raise DataError(f"{line}; too few are left: {advice}")
    if lost > max_dropped * total:
        raise DataError(f"{line}; at most {max_dropped:.0%} may be: {advice}, or allow more with --data.max-dropped")
    return line
