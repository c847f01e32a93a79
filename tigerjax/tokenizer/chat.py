"""The chat encoding, which SFT, reward models, sampling and evaluation share.

    messages   user "Hi"            assistant "Hello"
    ids        [INS] enc("Hi")      [RES] enc("Hello") eos
    weights      0     0              0        1        1

SentencePiece encodes each message by itself, and the markers INS and RES exist only as ids. As in TigerBot's web demo,
eos ends each turn of the assistant, and bos is off by default. The text of a system message opens the user's next
message (`tigerjax.records.dialogue`). An answer with a field `weight` has this weight in place of 1.

A tokenizer of Hugging Face has a chat template instead (`tigerjax.tokenizer.template`), and all functions here follow
it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tigerjax.errors import ConfigError, DataError
from tigerjax.records.dialogue import SYSTEM, with_system

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer


Message = Mapping[str, Any]
"""{"role": "user", "assistant" or "system", "content": text, "weight"?: that of an answer's tokens in the loss}"""

Overlong = Literal["drop", "truncate_response", "keep_left_turns"]
"""What is done with a dialogue that is longer than a row; `shorten` describes each."""


def _markers(tok: "Tokenizer") -> tuple[int, int, int]:
    if tok.ins is None or tok.res is None or tok.pad is None:
        raise ConfigError(
            f"tokenizer {tok.folder} is a base tokenizer without chat markers; use the one that"
            " `tigerjax tokenizer extend` wrote"
        )
    return tok.ins, tok.res, tok.pad


def _checked(messages: Sequence[Message], *, system: bool = False) -> Sequence[Message]:
    """The messages. DataError where there are none, one is empty, or roles do not alternate; with `system`, messages of
    a system may stand in front of the user's."""
    if not messages:
        raise DataError("a dialogue has no messages; it needs at least one from the user")
    turn = 0
    for number, message in enumerate(messages):
        role = message["role"]
        if system and role in SYSTEM and turn % 2 == 0 and number + 1 < len(messages):
            continue
        if role != ("user", "assistant")[turn % 2]:
            raise DataError(f"message {number} has role {role!r}; roles must alternate user, assistant, user, …")
        if not message["content"]:
            raise DataError(f"message {number} of the {role} is empty; remove the example")
        turn += 1
    return messages


def encode_chat(tok: "Tokenizer", messages: Sequence[Message], *, bos: bool = False) -> tuple[list[int], list[float]]:
    """(ids, weights) of a dialogue: weight 1, or the message's own, on the assistant's tokens and their eos, else 0.

    The roles must alternate, beginning with "user"; the last may be either. DataError for other roles, for an empty
    message, and for no messages. `bos` is for our own encoding; a template says itself whether it writes one.
    """
    if tok.template is not None:
        return tok.template.encode(_checked(messages, system=True), tok.ends)
    ins, res, _ = _markers(tok)
    ids = [tok.bos] if bos and tok.bos is not None else []
    weights = [0.0] * len(ids)
    for message in _checked(with_system(messages)):
        role, content = message["role"], message["content"]
        text_ids = tok.encode(content)
        if role == "user":
            ids += [ins, *text_ids]
            weights += [0] * (1 + len(text_ids))
        else:
            ids += [res, *text_ids, tok.eos]
            weights += [0] + [message.get("weight", 1)] * (len(text_ids) + 1)
    return ids, weights


def prepared(tok: "Tokenizer", messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as the encoding takes them: a template has a form for system messages, our own encoding has none."""
    return [dict(m) for m in messages] if tok.template is not None else with_system(messages)


def without_oldest(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`prepared` messages without their first question and its answer; those of a system stay."""
    system = [m for m in messages if m["role"] in SYSTEM]
    return system + [m for m in messages if m["role"] not in SYSTEM][2:]


def shorten(
    tok: "Tokenizer", messages: Sequence[Message], length: int, overlong: Overlong
) -> tuple[list[int], list[float]] | None:
    """(ids, weights) of the part of a too long dialogue that fits into `length` tokens; None when nothing is left.

    drop: nothing is left. truncate_response: the last answer is cut, and then has no eos; where none of its tokens
    would be left, nothing is. keep_left_turns: as many of the first pairs of turns as fit.
    """
    messages = prepared(tok, messages)
    if overlong == "truncate_response":
        before = encode_prompt(tok, messages[:-1])
        ids, weights = encode_chat(tok, messages)
        return (ids[:length], weights[:length]) if length > len(before) else None
    if overlong == "keep_left_turns":
        for turns in range(len(messages) - 2, 0, -2):
            ids, weights = encode_chat(tok, messages[:turns])
            if len(ids) <= length:
                return ids, weights
    return None


def encode_prompt(tok: "Tokenizer", messages: Sequence[Message], *, bos: bool = False) -> list[int]:
    """The ids of a dialogue that ends with the user, and [RES] or what the template has in its place. The model
    continues with its answer.

    Raises DataError for a dialogue that ends with another role.
    """
    if messages and messages[-1]["role"] != "user":
        raise DataError(f"a prompt ends with role {messages[-1]['role']!r}; it must end with the user's message")
    if tok.template is not None:
        return tok.template.prompt(_checked(messages, system=True))
    ids, _ = encode_chat(tok, messages, bos=bos)
    return [*ids, _markers(tok)[1]]


def stop_ids(tok: "Tokenizer") -> frozenset[int]:
    """The ids that end an answer: eos and others of its kind, and the specials where the tokenizer has them."""
    return tok.ends | {i for i in (tok.ins, tok.res, tok.pad) if i is not None}
