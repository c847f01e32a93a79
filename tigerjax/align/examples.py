"""Examples of a round for people to read: a few prompts with all that became of them, and answers before and after.

A round may have thousands of prompts. Those that people judged come first, then those with an answer below a floor,
then those without a winner, then others; within each kind they are spread evenly over the ids, and not picked.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax.align import duel, mix, rounds
from tigerjax.align.rank import ineligible
from tigerjax.files import manifest, own
from tigerjax.files.jsonl import Record, read_jsonl

QUOTAS = {"people": 10, "floor": 5, "nobody": 5, "reward": 8}
"""The most prompts of each kind in a report, in this order."""
HELD_OUT = 12
"""Held-out questions in a report: those whose score changed most."""
CHARACTERS, MESSAGES, ANSWERS = 1200, 4, 12
"""Of a text, of a conversation and of a prompt's answers; what is cut is counted."""


def collect(folder: Path) -> Record | None:
    """{prompts, prompts_left_out, held_out, held_out_left_out} of the folder of a round that has its gate.

    None where an older version wrote the round, which kept too little. The fields of a prompt are those of `_example`,
    those of a held-out question {messages, messages_left_out, before, after}.
    """
    if not (folder / "gate" / duel.ANSWERS).is_file() or not (folder / "mix" / rounds.WINNERS).is_file():
        return None
    manifest.refuse_changed([folder / step for step in ("score", "labels", "rank", "mix", "gate")])
    with own.fields(folder, manifest.AGAIN):
        prompts, left_out = _prompts(folder)
        held_out, fewer = _held_out(folder / "gate" / duel.ANSWERS)
    return {"prompts": prompts, "prompts_left_out": left_out, "held_out": held_out, "held_out_left_out": fewer}


def _prompts(folder: Path) -> tuple[list[Record], int]:
    """(the chosen prompts of a round, how many are left out)."""
    verdicts = {record["prompt_id"]: record for _, record in read_jsonl(folder / "labels" / "verdicts.jsonl")}
    won: dict[str, set[str]] = {}
    for _, winner in read_jsonl(folder / "mix" / rounds.WINNERS):
        won.setdefault(winner["prompt_id"], set()).add(winner["id"])
    by_kind: dict[str, list[str]] = {kind: [] for kind in QUOTAS}
    for record in _records(folder):
        by_kind[_kind(record, verdicts, won)].append(record["prompt_id"])
    chosen = {name: kind for kind, names in by_kind.items() for name in _spread(sorted(names), QUOTAS[kind])}
    ranked = {r["prompt_id"]: r for _, r in read_jsonl(folder / "rank" / "ranked.jsonl") if r["prompt_id"] in chosen}
    mixed, rank = ((manifest.read(folder / step) or {})["config"] for step in ("mix", "rank"))
    given = {name: mixed["align"][name] for name in ("min_score", "beat_reference")}
    how: dict[str, Any] = {"given": given, "index": int(folder.name), "safety": rank["safety"]}
    found: dict[str, Record] = {}
    for record in _records(folder):
        if (name := record["prompt_id"]) in chosen:
            wins = won.get(name, set())
            example = _example(record, ranked.get(name, {}), verdicts.get(name), wins, **how)
            found[name] = example | {"kind": chosen[name]}
    total = sum(map(len, by_kind.values()))
    return [found[name] for name in chosen], total - len(chosen)


def _records(folder: Path) -> Iterable[Record]:
    """The scored prompts of a round, and the conversations that people labelled."""
    for path in (folder / "score" / "scored.jsonl", folder / rounds.CONVERSATIONS):
        if path.is_file():
            yield from (record for _, record in read_jsonl(path))


def _kind(record: Mapping[str, Any], verdicts: Mapping[str, Any], won: Mapping[str, Any]) -> str:
    if record["prompt_id"] in verdicts:
        return "people"
    if any(c.get("below") for c in record["candidates"]):
        return "floor"
    return "reward" if record["prompt_id"] in won else "nobody"


def _spread(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, at even distances."""
    count = min(most, len(names))
    return [names[place * len(names) // count] for place in range(count)]


def _example(
    record: Mapping[str, Any],
    ranked: Mapping[str, Any],
    verdict: Mapping[str, Any] | None,
    won: set[str],
    *,
    index: int,
    given: Mapping[str, Any],
    safety: Sequence[str],
) -> Record:
    """{prompt_id, messages, messages_left_out, existing, answers, answers_left_out, people}.

    An answer is {text, cut, score, parts?, below?, finish, won, by, why_not, place, rejected}: `by` is who ordered or
    wrote it (rm, human, edit), `why_not` the reason why it could not win, and `place` the group in people's ranking,
    from 1. People is {annotators, ranked, rejected, edited}, None where nobody judged the prompt.
    """
    why = ranked["ineligible"] if ranked else _reasons(record, verdict, safety)
    order = [*ranked.get("ranking", [])]
    known = {c["cid"] for c in order}
    scored = [c for c in record["candidates"] if c["cid"] not in known]
    order += sorted(scored, key=lambda c: (c["score"] is None, -(c["score"] or 0.0)))
    places = {cid: n for n, group in enumerate((verdict or {}).get("ranking", []), 1) for cid in group}
    answers = [
        _answer(c)
        | {
            "won": f"rs{index:02d}-{record['prompt_id']}-{c['cid']}" in won,
            "by": c.get("provenance", ""),
            "why_not": why.get(c["cid"]) or (c["cid"] in known and mix.why_not(ranked, c, **given)) or "",
            "place": places.get(c["cid"]),
            "rejected": c["cid"] in (verdict or {}).get("rejected", []),
        }
        for c in order
    ]
    answers.sort(key=lambda a: not a["won"])
    existing = None
    if record.get("reference") is not None:
        scores = {k: record[f"reference_{k}"] for k in ("score", "parts", "below") if f"reference_{k}" in record}
        existing = _answer({"text": record["reference"]} | scores)
    return {
        "prompt_id": record["prompt_id"],
        **_conversation(record["messages"]),
        "existing": existing,
        "answers": answers[:ANSWERS],
        "answers_left_out": len(answers) - len(answers[:ANSWERS]),
        "people": verdict
        and {
            "annotators": verdict["annotators"],
            "ranked": sum(map(len, verdict["ranking"])),
            "rejected": len(verdict["rejected"]),
            "edited": len(verdict["edits"]),
        },
    }


def _reasons(record: Mapping[str, Any], verdict: Mapping[str, Any] | None, safety: Sequence[str]) -> dict[str, str]:
    """Why each answer of a prompt cannot win that the step `rank` left out as a whole."""
    rejected = (verdict or {}).get("rejected", [])
    how: dict[str, Any] = {"reference": record.get("reference"), "rejected": rejected, "safety": safety, "filters": ()}
    return {c["cid"]: ineligible(c, **how) or "alike_scores" for c in record["candidates"]}


def _held_out(path: Path) -> tuple[list[Record], int]:
    """(held-out questions with the answers of both models, how many are left out)."""
    records = [record for _, record in read_jsonl(path)]
    changes = {n: abs((r["after"]["score"] or 0.0) - (r["before"]["score"] or 0.0)) for n, r in enumerate(records)}
    shown = sorted(changes, key=lambda n: (-changes[n], n))[:HELD_OUT]
    chosen = [
        _conversation(records[n]["messages"]) | {side: _answer(records[n][side]) for side in ("before", "after")}
        for n in shown
    ]
    return chosen, len(records) - len(chosen)


def _answer(of: Mapping[str, Any]) -> Record:
    kept = {name: of[name] for name in ("score", "parts", "below", "finish") if name in of}
    return _cut(of["text"]) | {"score": None} | kept


def _conversation(messages: Sequence[Mapping[str, Any]]) -> Record:
    """{messages: the last ones, messages_left_out}"""
    last = messages[-MESSAGES:]
    shown = [{"role": m["role"]} | _cut(str(m["content"])) for m in last]
    return {"messages": shown, "messages_left_out": len(messages) - len(last)}


def _cut(text: str) -> Record:
    """{text: its beginning, cut: the number of characters that are left out}"""
    return {"text": text[:CHARACTERS], "cut": max(0, len(text) - CHARACTERS)}
