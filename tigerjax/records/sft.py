"""SFT examples: {id, messages: [{role: user|assistant, content}], task, lang, source, weight?}.

Every shape of record in which instruction data comes is turned into this one here, and nowhere else.
"""

from collections.abc import Callable
from typing import NamedTuple

from tigerjax.errors import DataError
from tigerjax.files.jsonl import Record, named
from tigerjax.records.fields import text_field

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


class Shape(NamedTuple):
    """One way to write a dialogue: the fields that mark it, and how they become messages."""

    fields: tuple[str, ...]
    messages: Callable[[Record, str], list[Record]]


def _sharegpt(record: Record, where: str) -> list[Record]:
    turns = record["conversations"]
    if not isinstance(turns, list) or not all(isinstance(t, dict) and "value" in t for t in turns):
        raise DataError(f"{where}: 'conversations' must be a list of {{from, value}}")
    return [{"role": SHAREGPT_ROLES.get(str(t.get("from")), t.get("from")), "content": t["value"]} for t in turns]


def _alpaca(record: Record, where: str) -> list[Record]:
    user = text_field(where, record, "instruction")
    extra = text_field(where, record, "input") if record.get("input") is not None else ""
    if extra and extra not in user:
        user = f"{user}\n{extra}"
    answer = text_field(where, record, "output")
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


REPLACED = ("conversations", "instruction", "input", "output")
"""Fields that an example does not keep beside its messages."""
SHAPES = (
    Shape(("messages",), lambda record, where: record["messages"]),
    Shape(("conversations",), _sharegpt),
    Shape(("instruction", "output"), _alpaca),
)
"""The first whose fields a record has counts."""


def shape_of(record: Record) -> Shape | None:
    """How the record writes its dialogue; None for a record that is no SFT example."""
    return next((shape for shape in SHAPES if all(field in record for field in shape.fields)), None)


def as_sft(record: Record, where: str, *, allow_empty: bool = False) -> Record:
    """A record as an SFT example; its turns must alternate user, assistant, …, and end with the assistant's answer."""
    where = named(where, record)
    shape = shape_of(record)
    if shape is None:
        raise DataError(
            f"{where}: needs 'messages', 'conversations', or 'instruction' and 'output'; has {sorted(record)}"
        )
    messages = shape.messages(record, where)
    if not isinstance(messages, list) or not messages or len(messages) % 2:
        raise DataError(f"{where}: messages must be pairs of user and assistant, one pair at least")
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        if not isinstance(message, dict) or message.get("role") != role:
            given = message.get("role") if isinstance(message, dict) else message
            raise DataError(f"{where}: message {i + 1} has role {given!r}, but {role!r} must stand there")
        if not text_field(where, message, "content").strip() and not allow_empty:
            raise DataError(f"{where}: message {i + 1} ({role}) is empty; remove the example")
    weight = record.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise DataError(f"{where}: weight {weight!r} must be a number that is not negative")
    others = {field: value for field, value in record.items() if field not in REPLACED}
    messages = [{"role": m["role"], "content": m["content"]} for m in messages]
    return {"task": "", "lang": "", "source": "", **others, "messages": messages}
