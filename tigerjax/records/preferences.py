"""Preferences: which of several answers to one conversation is better. Every form in which they come becomes one of

    {messages, chosen: text, rejected: text, prompt_id?, task?, lang?, margin?, strength?}        one pair
    {messages, responses: [{id, text, finish?}], ranking: [[id], [id, id], …], prompt_id?, …}     K answers

`messages` is the conversation, which ends with the user. It is read as that of an SFT example is. docs/FORMATS.md has
an example of every form.
"""

import re
from collections.abc import Mapping
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files.jsonl import Record, named
from tigerjax.records.dialogue import SYSTEM_FIELDS, listed
from tigerjax.records.fields import blank, finite_number, wrapped
from tigerjax.records.sft import as_sft

SIDES = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
"""Names of the better and the worse answer."""
PROMPTS = ("prompt", "question", "query")
"""Names of a conversation before the answers: the user's text, a transcript, or a list of messages."""
KEPT = ("prompt_id", "task", "lang", "margin", "strength")
ASSISTANT = ("assistant", "gpt")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
PLACEHOLDER = {"from": "assistant", "value": ""}
EMPTY, OTHER_PROMPT = "empty", "other_prompt"


class Unusable(DataError):
    """A preference of a known form from which nothing can be learned. `reason` is what it is counted as."""

    def __init__(self, reason: str, line: str) -> None:
        super().__init__(line)
        self.reason = reason


def as_preference(record: Record, where: str) -> Record:
    """A record as a preference.

    Raises DataError for one of no known form, Unusable for an empty chosen or rejected answer, and for answers to two
    different conversations."""
    where = named(where, record)
    kept = {field: record[field] for field in KEPT if field in record}
    if "ranking" in record:
        answers = {"responses": record.get("responses"), "ranking": record["ranking"]}
        return {**kept, "messages": _conversation(record, where), **answers}
    if isinstance(record.get("completions"), list):
        return {**kept, "messages": _conversation(record, where), **_rated(record["completions"], where)}
    sides = _sides(record)
    if sides is None:
        raise DataError(
            f"{where}: has {sorted(record)}; a preference needs `chosen` and `rejected` with messages, prompt,"
            " conversations or instruction, or `responses` and `ranking`; docs/FORMATS.md shows every form"
            f"{wrapped(record)}"
        )
    dialogues = [_dialogue(record, value, f"{where}: {name}") for name, value in sides.items()]
    better, worse = dialogues
    if any(blank(message["content"]) for dialogue in dialogues for message in dialogue):
        raise Unusable(EMPTY, f"{where}: {' or '.join(sides)}, or a message before them, is empty; remove the record")
    if better[:-1] != worse[:-1] or not _holds(better, listed(record.get("prompt"), where)):
        raise Unusable(
            OTHER_PROMPT, f"{where}: {' and '.join(sides)} answer different conversations; give both the same one"
        )
    return {**kept, "messages": better[:-1], "chosen": better[-1]["content"], "rejected": worse[-1]["content"]}


def _sides(record: Record) -> dict[str, Any] | None:
    """The better and the worse answer by their names; None where the record has no such pair."""
    for better, worse in SIDES:
        if better in record and worse in record:
            return {better: listed(record[better], better), worse: listed(record[worse], worse)}
    both = record.get("output")
    return {"output 1": both[0], "output 2": both[1]} if isinstance(both, list) and len(both) == 2 else None


def _dialogue(record: Record, answer: Any, where: str) -> list[Record]:
    """The messages of one side: the record's conversation and the answer, or the answer where it holds both."""
    turns = _transcript(answer) if isinstance(answer, str) else None
    if turns is None:
        turns = [{"from": "assistant", "value": answer}] if isinstance(answer, str) else _turns(answer, where)
    if turns[-1]["from"] not in ASSISTANT:
        raise DataError(f"{where}: ends with role {turns[-1]['from']!r}; it must end with the assistant's answer")
    if turns[0]["from"] not in ASSISTANT:
        return _checked({"conversations": turns, **_fields(record, *SYSTEM_FIELDS)}, where)
    if len(turns) > 1:
        raise DataError(f"{where}: {len(turns)} messages; give the assistant's one answer, or the whole dialogue")
    if not isinstance(turns[0]["value"], str):
        raise DataError(f"{where}: {turns[0]['value']!r} must be text, a message or a list of messages")
    return [*_conversation(record, where), {"role": "assistant", "content": turns[0]["value"]}]


def _conversation(record: Record, where: str) -> list[Record]:
    """The messages before the answers, of which the last is the user's."""
    shared = _fields(record, *SYSTEM_FIELDS, "history")
    given = record.get("input")
    if isinstance(given, dict) and "messages" in given:
        turns = _turns(given["messages"], where)
    elif (name := next((n for n in ("messages", "conversations", *PROMPTS) if n in record), None)) is not None:
        value = listed(record[name], f"{where}: {name}")
        if isinstance(value, str):
            turns = _transcript(value, asked=True) or [{"from": "user", "value": value}]
        else:
            turns = _turns(value, f"{where}: {name}")
    elif "instruction" in record:
        return _checked(shared | _fields(record, "instruction", "input") | {"output": ""}, where)[:-1]
    else:
        raise DataError(f"{where}: has no conversation before the answers; give messages, prompt or instruction")
    if turns[-1]["from"] in ASSISTANT:
        raise DataError(f"{where}: the conversation before the answers must end with the user")
    return _checked({"conversations": [*turns, PLACEHOLDER], **shared}, where)[:-1]


def _checked(example: Record, where: str) -> list[Record]:
    """The messages of an SFT example, as {role, content}."""
    messages = as_sft(example, where, allow_empty=True)["messages"]
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _turns(value: Any, where: str) -> list[Record]:
    """A message or a list of them as ShareGPT's {from, value}, under whichever names they come."""
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise DataError(f"{where}: {value!r:.60} must be text, a message or a list of messages")
    return [
        {**turn, "from": turn.get("from", turn.get("role")), "value": turn.get("value", turn.get("content"))}
        for turn in value
    ]


def _transcript(text: str, *, asked: bool = False) -> list[Record] | None:
    """The turns of a text "\\n\\nHuman: … \\n\\nAssistant: …"; None for any other text.

    `asked`: it ends before the answer, with or without "Assistant:". Two turns of one speaker are joined.
    """
    pieces = TURN.split(text.replace("\r\n", "\n"))
    if len(pieces) < 2 or pieces[0] or pieces[1] != "Human" or not (asked or "Assistant" in pieces[1::2]):
        return None
    turns: list[Record] = []
    for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True):
        if turns and turns[-1]["from"] == SPEAKERS[speaker]:
            turns[-1]["value"] += f"\n\n{said.strip()}"
        else:
            turns.append({"from": SPEAKERS[speaker], "value": said.strip()})
    if asked and turns[-1]["from"] == "assistant" and not turns[-1]["value"]:
        turns.pop()
    return turns


def _rated(completions: list[Any], where: str) -> Record:
    """Completions that each have an overall score, as UltraFeedback lists them: the highest score first."""
    texts, scores = {}, {}
    for number, completion in enumerate(completions, 1):
        whole = isinstance(completion, dict) and isinstance(completion.get("response"), str)
        score = finite_number(completion.get("overall_score")) if isinstance(completion, dict) else None
        if not whole or score is None:
            raise DataError(f"{where}: completion {number} must be {{response: text, overall_score: number}}")
        texts[str(number)], scores[str(number)] = completion["response"], score
    ranking = [[name for name in texts if scores[name] == score] for score in sorted(set(scores.values()))[::-1]]
    return {"responses": [{"id": name, "text": text} for name, text in texts.items()], "ranking": ranking}


def _holds(dialogue: list[Record], prompt: Any) -> bool:
    """Whether a prompt that is given as plain text is said by the user in the dialogue."""
    if not isinstance(prompt, str) or _transcript(prompt, asked=True) is not None:
        return True
    return any(prompt.strip() in message["content"] for message in dialogue if message["role"] == "user")


def _fields(record: Mapping[str, Any], *names: str) -> Record:
    return {name: record[name] for name in names if record.get(name) is not None}
