"""Messages as the chat encoding takes them: user and assistant in turns, and nothing else.

    a system message      its text opens the user's next message, with a blank line between them
    an answer before the first question, a question after the last answer     cut off, and counted
    a turn of a tool      refused by its name: the chat encoding has no form for it

`SYSTEM_FIRST` says how a system message is joined. Training, reward models, sampling, evaluation and the exported chat
template all do it in this way.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files.foreign import loads, shown
from tigerjax.files.jsonl import Record
from tigerjax.records.fields import checked_weight, text_field

SYSTEM = ("system", "developer")
"""Roles of a message that is an instruction for the whole dialogue."""
SYSTEM_FIRST = "{system}\n\n{user}"
TOOLS = (
    "tool",
    "tools",
    "function",
    "function_call",
    "function_response",
    "tool_call",
    "tool_calls",
    "tool_response",
    "tool_result",
    "observation",
    "ipython",
)
"""Roles of a turn that calls a tool or holds its answer."""
MARKS = ("train", "loss", "trainable", "training")
"""Fields of a message, or of an example, that say whether it is trained on."""
WEIGHTS = ("weight", "loss_weight", "loss_scale")
"""Names of the loss weight of a message or of an example."""
SYSTEM_FIELDS = ("system", "system_prompt", "system_message")
"""Names of a record's own system text."""
READ = {"role", "from", "content", "value", *MARKS, *WEIGHTS}
"""Fields of a message that are read."""
UNREAD_FIELDS = (
    "tools",
    "functions",
    "reasoning_content",
    "reasoning",
    "thinking",
    "mask",
    "images",
    "videos",
    "audios",
    "image",
)
"""Fields of a record that would change the dialogue and have no form in the chat encoding."""
NOTHING: tuple[Any, ...] = (None, "", [], {})
SWITCHES = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""Marks as a table writes them."""
LIST_AS_TEXT = re.compile(r"""\s*\[\s*(?:\{\s*|\[\s*)["']""")
"""How a list of messages or of pairs begins that stands as text in a field."""
TOOL_FIELDS = ("tool_calls", "function_call", "tool_call_id")
"""Fields of a message that calls a tool or answers such a call."""


def listed(value: Any, where: str) -> Any:
    """A list that stands as text in one field, as a table (CSV, Parquet) holds it; every other value as it is.

    Text is a list where it begins with `[{` and a name in quotes. Raises DataError where such text is not JSON.
    """
    if not isinstance(value, str) or not LIST_AS_TEXT.match(value):
        return value
    try:
        return loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: {value[:40]!r} looks like a list of messages, but is no JSON ({error}); write it with json.dumps"
        ) from error


def joined_parts(content: Any) -> Any:
    """The text of a content that is a list of parts {type: "text", text}; every other content as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else content


def with_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages, in which the text of a system message opens the user's next message.

    [system "Be brief.", user "Hi"] -> [user "Be brief.\\n\\nHi"]. A system message that no question follows stays where
    it is, so that whoever needs a whole dialogue refuses it. Messages without a system message come back as they are.
    """
    out: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    for message in messages:
        if message.get("role") in SYSTEM and isinstance(message.get("content"), str):
            held.append(dict(message))
            continue
        if held and message.get("role") == "user" and isinstance(message.get("content"), str):
            text = message["content"]
            for system in reversed([m["content"] for m in held]):
                text = SYSTEM_FIRST.format(system=system, user=text) if system.strip() else text
            out.append({**message, "content": text})
        else:
            out += [*held, dict(message)]
        held = []
    return out + held


def whole_pairs(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages from the user's first to the assistant's last. A system message in front of them stays."""
    kept = [dict(message) for message in messages]
    first = next((i for i, m in enumerate(kept) if m.get("role") not in (*SYSTEM, "assistant")), len(kept))
    kept = [m for m in kept[:first] if m.get("role") != "assistant"] + kept[first:]
    while kept and kept[-1].get("role") in ("user", *SYSTEM):
        kept.pop()
    return kept


def refuse_tools(messages: Sequence[Mapping[str, Any]], where: str) -> None:
    """DataError for a turn of a tool, by its name."""
    for number, message in enumerate(messages, 1):
        called = next((field for field in TOOL_FIELDS if message.get(field)), None)
        if message.get("role") in TOOLS or called:
            given = f"holds {called!r}" if called else f"has role {message['role']!r}"
            raise DataError(
                f"{where}: message {number} {given}, but turns of tools have no form in the chat encoding; remove the"
                " example, or write the call and its answer into the messages of assistant and user"
            )


def weight_of(given: Mapping[str, Any], where: str) -> float:
    """The loss weight of a message or an example: one of `WEIGHTS`; 0 where one of `MARKS` is false; 1 without any.

    0 and 1 are false and true. Raises DataError for a mark that is something else, for what is no weight, and for two
    weights that differ.
    """
    off = False
    for mark in MARKS:
        value = given.get(mark)
        if value is not None and value not in (0, 1):
            raise DataError(f"{where} has {mark} {shown(value)}, which must be true or false")
        off = off or (value is not None and not value)
    weights = {name: given[name] for name in WEIGHTS if name in given}
    found = {name: checked_weight(value, where, name) for name, value in weights.items() if value is not None}
    if len(set(found.values())) > 1:
        raise DataError(f"{where} has {found}, of which one must stay: they are names of one weight")
    return 0.0 if off else next(iter(found.values()), 1.0)


def own_weight(record: Record) -> Record:
    """The fields of a record that say whether, and how much, the whole example is trained on.

    A mark that is no truth value, such as the loss that another tool measured, is none of them.
    """
    marks = {mark: record[mark] for mark in MARKS if record.get(mark) in (0, 1)}
    return marks | {name: record[name] for name in WEIGHTS if name in record}


def from_table(row: Record) -> Record:
    """A row of a table of texts, in which the marks and weights of an SFT example are what they stand for.

    An empty one is none. What is no number and no truth value stays as it is, so that whoever needs one refuses it.
    """
    if not {"messages", "conversations", "instruction"} & row.keys():
        return row
    out = dict(row)
    for field in row.keys() & {*MARKS, *WEIGHTS}:
        text = str(row[field] or "").strip()
        if not text:
            del out[field]
        elif field in MARKS:
            out[field] = SWITCHES.get(text.casefold(), row[field])
        else:
            with contextlib.suppress(ValueError):
                out[field] = float(text)
    return out


def unread(record: Record, messages: Sequence[Mapping[str, Any]]) -> set[str]:
    """The fields that hold something and have no form here: some of the record's, and all others of its messages."""
    own = {field for field in UNREAD_FIELDS if record.get(field) not in NOTHING}
    own |= {field for field in MARKS if record.get(field) not in NOTHING and field not in own_weight(record)}
    return own | {
        f"messages.{field[:40]}"
        for message in messages
        for field, value in message.items()
        if field not in READ and value not in NOTHING
    }


def system_text(record: Record, where: str) -> list[Record]:
    """The record's own system text as a message in front of the others; none where it is empty.

    Raises DataError where two of its fields hold different ones.
    """
    texts = [text_field(where, record, field) for field in SYSTEM_FIELDS if record.get(field) is not None]
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(texts) > 1:
        names = ", ".join(field for field in SYSTEM_FIELDS if record.get(field))
        raise DataError(f"{where}: {names} hold different system texts; keep one")
    return [{"role": "system", "content": text} for text in texts]
