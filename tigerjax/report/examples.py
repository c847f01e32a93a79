"""The section with examples of rounds: prompts with all their answers, what people did, and what won and why."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tigerjax.pages.numbers import number

WHY_NOT = {
    "invalid_score": "has no score",
    "truncated": "did not come to its end",
    "empty": "is empty",
    "rejected": "was rejected by people",
    "equals_reference": "is the existing answer",
    "safety": "holds a string of the safety list",
    "below_floor": "is below a floor",
    "marker": "holds a marker of the chat",
    "broken_characters": "holds broken characters",
    "below_min_score": "is below align.min_score",
    "below_reference": "is not above the existing answer",
    "reference_without_score": "cannot be compared: the existing answer has no score",
    "alike_scores": "scores like the other answers (align.min_spread)",
}
KINDS = {
    "people": "people judged it",
    "floor": "an answer is below a floor",
    "nobody": "no answer won",
    "reward": "the reward alone chose",
}
CHANGES = {"better": "scores higher than before", "worse": "scores lower than before", "equal": "scores the same"}
WON_BY = {
    "rm": "highest score",
    "human": "best by people's ranking of what may win",
    "edit": "written by people",
}


class ChoiceList(NamedTuple):
    """A list of choices that hides what is not chosen."""

    name: str
    label: str
    choices: Sequence[tuple[str, str, int]]
    """(value, words, how many)"""


def examples(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the section: of each round its prompts and held-out questions, and the lists that filter them."""
    rounds = [_round(one) for one in report.get("examples") or []]
    if not rounds:
        return {}
    prompts = [one for r in rounds for one in r["prompts"]]
    held_out = [one for r in rounds for one in r["held_out"]]
    return {
        "rounds": rounds,
        "without": len(report.get("align_rounds") or []) - len(rounds),
        "filters": [
            _filter("kind", "Prompts", KINDS, [one["kind"] for one in prompts]),
            _filter("change", "Held-out questions", CHANGES, [one["change"] for one in held_out]),
        ],
    }


def _filter(name: str, label: str, words: Mapping[str, str], values: Sequence[str]) -> ChoiceList:
    there = [(value, text, values.count(value)) for value, text in words.items() if value in values]
    return ChoiceList(name, label, [("all", "all", len(values)), *there])


def _round(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": found["round"],
        "prompts": [_prompt(one) for one in found["prompts"]],
        "prompts_left_out": number(found["prompts_left_out"]) if found["prompts_left_out"] else "",
        "held_out": [_held_out(one) for one in found["held_out"]],
        "held_out_left_out": number(found["held_out_left_out"]) if found["held_out_left_out"] else "",
    }


def _prompt(of: Mapping[str, Any]) -> dict[str, Any]:
    won = any(answer["won"] for answer in of["answers"])
    return {
        "id": of["prompt_id"],
        "kind": of["kind"],
        "said": _said(of),
        "people": _people(of["people"]),
        "existing": _answer(of["existing"]) if of["existing"] else None,
        "answers": [_answer(answer) | _standing(answer, won) for answer in of["answers"]],
        "left_out": of["answers_left_out"],
        "won": won,
    }


def _said(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": of["messages"], "earlier": of["messages_left_out"]}


def _people(people: Mapping[str, Any] | None) -> str:
    """What people did with a prompt, in a sentence; empty where nobody judged it."""
    if not people:
        return ""
    did = [f"{verb} {number(people[verb])}" for verb in ("ranked", "rejected", "edited") if people[verb]]
    return f"{', '.join(people['annotators'])}: {', '.join(did) or 'judged nothing'}"


def _answer(of: Mapping[str, Any]) -> dict[str, Any]:
    """The text of an answer and its scores: the whole, and of a sum each part."""
    parts = [(name, _score(part), name in of.get("below", ())) for name, part in of.get("parts", {}).items()]
    return {"text": of["text"], "cut": of["cut"], "score": _score(of["score"]), "parts": parts, "won": False, "why": ""}


def _score(value: float | None) -> str:
    return "no score" if value is None else number(value)


def _standing(answer: Mapping[str, Any], won: bool) -> dict[str, Any]:
    """{won, why}: in a few words why the answer won or did not."""
    placed = f"place {answer['place']} with people" if answer["place"] else ""
    if answer["won"]:
        why = WON_BY.get(answer["by"], answer["by"])
    elif answer["why_not"]:
        why = WHY_NOT.get(answer["why_not"], answer["why_not"].replace("_", " "))
    else:
        why = "another answer is ahead of it" if won else "is in the SFT set already"
    return {"won": answer["won"], "why": "; ".join(filter(None, (why, placed if answer["by"] != "edit" else "")))}


def _held_out(of: Mapping[str, Any]) -> dict[str, Any]:
    before, after = (of[side]["score"] for side in ("before", "after"))
    change = "equal" if before == after else "better" if (after or 0.0) > (before or 0.0) else "worse"
    return {"change": change, "said": _said(of), "before": _answer(of["before"]), "after": _answer(of["after"])}
