"""Orders the candidates of each prompt: edited answers first, then by people's ranking, then by the reward model.

It also decides which answers may win at all, and makes preference pairs for the next reward model.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import xxhash

from tigerjax.align.diversity import alike
from tigerjax.align.people.label_lines import MARKERS
from tigerjax.align.people.labels import Verdict
from tigerjax.align.people.queue import is_valid

Provenance = Literal["rm", "human", "edit"]


class Ranked(NamedTuple):
    """The prompts that have an answer that may win, preferences for the next reward model, and counts."""

    records: list[dict[str, Any]]
    """{prompt_id, messages, task?, lang?, provenance, reference, reference_score, ranking: [{cid, text, score,
    finish, provenance, parts?}], ineligible: {cid: reason}}; `ranking` holds the answers that may win, best first.
    `parts` and `below` are those of `answers.score_records`."""
    preferences: list[dict[str, Any]]
    """{prompt_id, messages, task?, lang?, provenance, responses: [{id, text, finish}], ranking}; see reward_data."""
    pairs: list[dict[str, Any]]
    """The same form: the best answer that may win above the worst candidate, for training the next model on pairs."""
    counts: dict[str, Any]


def rm_order(candidate: Mapping[str, Any]) -> tuple[bool, float, bool, int, str]:
    """The key by which valid candidates are sorted: the highest score comes first, and answers below a floor last.
    Among equal scores, an answer that the model ended itself comes first, then the shorter one, then the lower cid."""
    below, ended = bool(candidate.get("below")), candidate["finish"] == "stop"
    return below, -candidate["score"], not ended, len(candidate["text"]), candidate["cid"]


def unclean(text: str) -> str | None:
    """Why the form of an answer makes it unfit for SFT; None when nothing is wrong."""
    if any(marker in text for marker in MARKERS):
        return "marker"
    if "\ufffd" in text or any(ord(c) < 32 and c not in "\n\t" for c in text):
        return "broken_characters"
    return None


def ineligible(
    candidate: Mapping[str, Any],
    *,
    reference: str | None,
    rejected: Collection[str],
    safety: Sequence[str],
    filters: Sequence[Callable[[str], str | None]],
) -> str | None:
    """The first reason why a candidate may not win, or None; each of `filters` gives a reason or None too."""
    text = candidate["text"]
    if not is_valid(candidate):
        return "invalid_score"
    if candidate["finish"] != "stop":
        return "truncated"
    if not text.strip():
        return "empty"
    if candidate["cid"] in rejected:
        return "rejected"
    if reference is not None and text.strip() == reference.strip():
        return "equals_reference"
    if any(word in text for word in safety):
        return "safety"
    if candidate.get("below"):
        return "below_floor"
    return next((reason for check in (unclean, *filters) if (reason := check(text))), None)


def rank(
    records: Iterable[Mapping[str, Any]],
    verdicts: Mapping[str, Verdict],
    *,
    safety: Sequence[str] = (),
    filters: Sequence[Callable[[str], str | None]] = (),
    include_rm_pairs: bool = False,
    min_spread: float | None = None,
) -> Ranked:
    """The ordered answers of each prompt of `records`, which have scores, `reference` and `reference_score`.

    The highest score wins: Touvron et al. 2023 (arXiv 2307.09288), section 3.2.3.

    A record with `conversation` set is one that people labelled as they talked to the model: it needs no scores.

    A prompt of which no answer may win is dropped, and counted by the reason of its best candidate. Preferences are
    those of people. `include_rm_pairs` adds the reward model's own order where people gave none; that is off because
    the next reward model would then be trained on what the current one believes.

    Prompts that people did not judge and whose candidates' scores lie no further apart than `min_spread` are dropped as
    `alike_scores`. They are counted as `alike`, without it those whose scores are equal.
    """
    out: list[dict[str, Any]] = []
    preferences: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    provenances: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    total = same = 0
    for record in sorted(records, key=lambda r: r["prompt_id"]):
        total += 1
        verdict = verdicts.get(record["prompt_id"], Verdict([], [], [], []))
        ordered = _ordered(record, verdict)
        head = {k: record[k] for k in ("prompt_id", "messages", "task", "lang") if k in record}
        preferences += _preferences(head, ordered, verdict, include_rm_pairs)
        # In a conversation nothing has a score, and what a person chose can win without one.
        chosen = {cid for group in verdict.ranking for cid in group} if record.get("conversation") else set()
        why = {
            c["cid"]: ineligible(
                # An edited answer was written by a person and has no score, which would count as an invalid one.
                c | {"score": 0.0} if c["provenance"] == "edit" or c["cid"] in chosen else c,
                reference=record.get("reference"),
                rejected=verdict.rejected,
                safety=safety,
                filters=filters,
            )
            for c in ordered
        }
        reasons.update(reason for reason in why.values() if reason)
        eligible = [c for c in ordered if why[c["cid"]] is None]
        if not (verdict.ranking or verdict.edits) and alike(record["candidates"], min_spread or 0.0):
            same += 1
            if min_spread is not None:
                dropped["alike_scores"] += 1
                continue
        if not eligible:
            dropped[f"no_winner_{why[ordered[0]['cid']]}" if ordered else "no_candidate"] += 1
            continue
        provenances[eligible[0]["provenance"]] += 1
        pairs += _best_and_worst(head, eligible[0], ordered, verdict, chosen)
        out.append(
            head
            | {"provenance": eligible[0]["provenance"], "reference": record.get("reference")}
            | {"reference_score": record.get("reference_score"), "ranking": eligible}
            | {key: record[key] for key in ("reference_below",) if key in record}
            | {"ineligible": {cid: reason for cid, reason in why.items() if reason}}
        )
    counts = {"in": total, "out": len(out), "dropped": dict(dropped), "provenance": dict(provenances)}
    counts |= {"ineligible": dict(reasons), "preferences": len(preferences), "pairs": len(pairs), "alike": same}
    return Ranked(out, preferences, pairs, counts)


def _ordered(record: Mapping[str, Any], verdict: Verdict) -> list[dict[str, Any]]:
    """All candidates of a prompt, best first. Edits come first, and candidates without a valid score last."""
    human = {cid: place for place, group in enumerate(verdict.ranking) for cid in group}
    by_human = "human" if human else "rm"
    candidates = [
        {k: c.get(k) for k in ("cid", "text", "score", "finish")} | {k: c[k] for k in ("parts", "below") if k in c}
        for c in record["candidates"]
    ]
    valid = sorted((c for c in candidates if is_valid(c)), key=lambda c: (human.get(c["cid"], len(human)), rm_order(c)))
    invalid = sorted(
        (c for c in candidates if not is_valid(c)), key=lambda c: (human.get(c["cid"], len(human)), c["cid"])
    )
    edits = [
        {"cid": edit_id(record["prompt_id"], edit), "text": edit["text"], "score": None, "finish": "stop"}
        for edit in reversed(verdict.edits)
    ]
    judged = [c | {"provenance": by_human} for c in (*valid, *invalid)]
    return [c | {"provenance": "edit"} for c in edits] + judged


def edit_id(prompt_id: str, edit: Mapping[str, str]) -> str:
    """The id of an edited answer, a hash of prompt, base, annotator and text."""
    parts = (prompt_id, edit["base"], edit["annotator"], edit["text"])
    return "edit-" + xxhash.xxh3_64_hexdigest("\0".join(parts).encode())


def _preferences(
    head: Mapping[str, Any], ordered: Sequence[Mapping[str, Any]], verdict: Verdict, include_rm: bool
) -> list[dict[str, Any]]:
    """Preferences of one prompt: people's ranking with the rejected answers last, and the newest edit above the best
    of the other answers that was not rejected."""
    originals = [c for c in ordered if c["provenance"] != "edit"]
    by_id = {c["cid"]: c for c in originals}
    rejected = [cid for cid in verdict.rejected if cid in by_id]
    groups = [[cid for cid in group if cid in by_id and cid not in rejected] for group in verdict.ranking]
    if not verdict.ranking and rejected:
        groups = [[cid for cid in by_id if cid not in rejected]]
    groups = [group for group in (*groups, rejected) if group]
    provenance: Provenance = "human"
    if not groups and include_rm:
        groups, provenance = [[c["cid"]] for c in originals if is_valid(c)], "rm"
    out = []
    if len(groups) > 1:
        out.append(_k_wise(head, provenance, by_id, groups))
    edits = [c for c in ordered if c["provenance"] == "edit"]
    best = next((c for c in originals if c["cid"] not in rejected), originals[0] if originals else None)
    if edits and best:
        by_id |= {c["cid"]: c for c in edits[:1]}
        out.append(_k_wise(head, "edit", by_id, [[edits[0]["cid"]], [best["cid"]]]))
    return out


def _best_and_worst(
    head: Mapping[str, Any],
    best: Mapping[str, Any],
    ordered: Sequence[Mapping[str, Any]],
    verdict: Verdict,
    chosen: Collection[str],
) -> list[dict[str, Any]]:
    """A preference of the winner above the last answer that people rejected, else above the last candidate with a
    score; none where their texts are the same."""
    judged = [c for c in ordered if c["provenance"] != "edit" and (is_valid(c) or c["cid"] in chosen)]
    worst = ([c for c in judged if c["cid"] in verdict.rejected] or judged)[-1:]
    if not worst or worst[0]["text"].strip() in ("", best["text"].strip()):
        return []
    by_id = {c["cid"]: c for c in (best, *worst)}
    return [_k_wise(head, best["provenance"], by_id, [[best["cid"]], [worst[0]["cid"]]])]


def _k_wise(
    head: Mapping[str, Any], provenance: Provenance, by_id: Mapping[str, Mapping[str, Any]], groups: list[list[str]]
) -> dict[str, Any]:
    """A preference record of K answers, as tigerjax.align.reward_data reads it."""
    responses = [{"id": i, "text": by_id[i]["text"], "finish": by_id[i]["finish"]} for group in groups for i in group]
    return {**head, "provenance": provenance, "responses": responses, "ranking": groups}
