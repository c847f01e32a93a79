"""SFT examples: {id, messages: [{role: user|assistant, content, weight?}], task, lang, source, weight?}.

Every shape of record in which instruction data comes is turned into this one here, and nowhere else. docs/FORMATS.md
has an example of each.
"""

from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

from tigerjax.errors import DataError
from tigerjax.files.jsonl import Record, named
from tigerjax.records.dialogue import (
    SYSTEM_FIELDS,
    joined_parts,
    listed,
    own_weight,
    refuse_tools,
    system_text,
    unread,
    weight_of,
    whole_pairs,
    with_system,
)
from tigerjax.records.document import text_name
from tigerjax.records.fields import blank, finite_number, text_field, wrapped
from tigerjax.records.notes import TRIMMED, count_unread

ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names."""
Counts = MutableMapping[str, int]


class Shape(NamedTuple):
    """One way to write a dialogue: the fields that mark it, and how they become messages."""

    fields: tuple[str, ...]
    messages: Callable[[Record, str], list[Record]]


def _messages(record: Record, where: str) -> list[Record]:
    messages = listed(record["messages"], where)
    if not isinstance(messages, list):
        raise DataError(f"{where}: messages must be pairs of user and assistant, one pair at least")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise DataError(f"{where}: message {number} is {message!r}, but {{role, content}} must stand there")
    return [_turn(message) for message in messages]


def _turn(given: Record) -> Record:
    """A message {role, content} or {from, value} with a role of ours; its other fields, such as weight, stay."""
    role = given.get("role", given.get("from"))
    return {**given, "role": ROLES.get(role, role) if isinstance(role, str) else role, "content": _content(given)}


def _content(given: Record) -> Any:
    return joined_parts(given.get("content", given.get("value")))


def _sharegpt(record: Record, where: str) -> list[Record]:
    turns = listed(record["conversations"], where)
    if not isinstance(turns, list) or not all(isinstance(t, dict) and {"value", "content"} & t.keys() for t in turns):
        raise DataError(f"{where}: 'conversations' must be a list of {{from, value}}")
    return [_turn(turn) for turn in turns]


def _alpaca(record: Record, where: str) -> list[Record]:
    user = text_field(where, record, "instruction")
    extra = text_field(where, record, "input") if record.get("input") is not None else ""
    if extra.strip():
        user = f"{user}\n{extra}" if user.strip() else extra
    answer = text_field(where, record, "output")
    last = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return last


def _history(record: Record, where: str) -> list[Record]:
    """The earlier turns of a record of any form: a list of pairs [question, answer]."""
    out: list[Record] = []
    pairs = listed(record.get("history"), where) or []
    if not isinstance(pairs, list):
        raise DataError(f"{where}: 'history' is {type(pairs).__name__}, but a list of [question, answer] is needed")
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"{where}: pair {number} of 'history' must be [question, answer], two texts")
        out += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return out


REPLACED = ("text", "conversations", "instruction", "input", "output", "history", *SYSTEM_FIELDS)
"""Fields that an example does not keep as they are beside its messages; `text` repeats them in a template."""
SHAPES = (
    Shape(("messages",), _messages),
    Shape(("conversations",), _sharegpt),
    Shape(("instruction", "output"), _alpaca),
)
"""The first whose fields a record has counts."""


def shape_of(record: Record) -> Shape | None:
    """How the record writes its dialogue; None for a record that is no SFT example.

    Beside a `text` the fields must hold something: a table has every column in every row.
    """
    filled = {field for field, value in record.items() if value or "text" not in record}
    return next((shape for shape in SHAPES if filled.issuperset(shape.fields)), None)


def as_sft(record: Record, where: str, *, allow_empty: bool = False, counts: Counts | None = None) -> Record:
    """A record as an SFT example: pairs of user and assistant, as `dialogue` makes them.

    `counts` gets the number of dialogues that were cut to whole pairs, and of fields that are not read. Raises
    DataError for a record of no known form, and for messages that are no pairs of user and assistant, or empty.
    """
    where = named(where, record)
    shape = shape_of(record)
    if shape is None:
        document = ", so it is a document" if text_name(record) else ""
        raise DataError(
            f"{where}: needs 'messages', 'conversations', or 'instruction' and 'output';"
            f" has {sorted(record)}{document}{wrapped(record)}"
        )
    given = [*_history(record, where), *shape.messages(record, where)]
    refuse_tools(given, where)
    system = system_text(record, where)
    if given and system and system[0]["content"] == given[0].get("content"):
        system = []  # the field repeats the first message
    whole = whole_pairs(given)
    messages = with_system([*system, *whole])
    if not whole or len(messages) % 2:
        raise DataError(f"{where}: messages must be pairs of user and assistant, one pair at least")
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        if message.get("role") != role:
            raise DataError(f"{where}: message {i + 1} has role {message.get('role')!r}, but {role!r} must stand there")
        if blank(text_field(where, message, "content")) and not allow_empty:
            raise DataError(f"{where}: message {i + 1} ({role}) is empty; remove the example")
    if len(whole) < len(given) and counts is not None:
        counts[TRIMMED] = counts.get(TRIMMED, 0) + 1
    if counts is not None:
        count_unread(unread(record, given), counts)
    own = own_weight(record)
    others = {field: value for field, value in record.items() if field not in REPLACED and field not in own}
    weight = weight_of(own, f"{where}: the example")
    if finite_number(record.get("weight")) == weight:
        others["weight"] = record["weight"]
    elif weight != 1.0:
        others["weight"] = weight
    plain = []
    for number, message in enumerate(messages, 1):
        weight = weight_of(message, f"{where}: message {number}")
        plain.append({"role": message["role"], "content": message["content"]})
        if weight != 1.0 and message["role"] == "assistant":
            plain[-1]["weight"] = weight
    return {"task": "", "lang": "", "source": "", **others, "messages": plain}
