"""The chat encoding, which SFT, reward models, sampling and evaluation share.

    messages   user "Hi"            assistant "Hello"
    ids        [INS] enc("Hi")      [RES] enc("Hello") eos
    weights      0     0              0        1        1

SentencePiece encodes each message by itself, and the markers INS and RES exist only as ids. As in TigerBot's web demo,
eos ends each turn of the assistant, and bos is off by default. The text of a system message opens the user's next
message (`tigerjax.records.dialogue`). An answer with a field `weight` has this weight in place of 1.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tigerjax.errors import ConfigError, DataError
from tigerjax.records.dialogue import with_system

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


def encode_chat(tok: "Tokenizer", messages: Sequence[Message], *, bos: bool = False) -> tuple[list[int], list[float]]:
    """(ids, weights) of a dialogue: weight 1, or the message's own, on the assistant's tokens and their eos, else 0.

    The roles must alternate, beginning with "user"; the last may be either. DataError for other roles, for an empty
    message, and for no messages.
    """
    ins, res, _ = _markers(tok)
    if not messages:
        raise DataError("a dialogue has no messages; it needs at least one from the user")
    ids = [tok.bos] if bos else []
    weights = [0.0] * len(ids)
    for turn, message in enumerate(with_system(messages)):
        role, content = message["role"], message["content"]
        if role != ("user", "assistant")[turn % 2]:
            raise DataError(f"message {turn} has role {role!r}; roles must alternate user, assistant, user, …")
        if not content:
            raise DataError(f"message {turn} of the {role} is empty; remove the example")
        text_ids = tok.encode(content)
        if role == "user":
            ids += [ins, *text_ids]
            weights += [0] * (1 + len(text_ids))
        else:
            ids += [res, *text_ids, tok.eos]
            weights += [0] + [message.get("weight", 1)] * (len(text_ids) + 1)
    return ids, weights


def shorten(
    tok: "Tokenizer", messages: Sequence[Message], length: int, overlong: Overlong
) -> tuple[list[int], list[float]] | None:
    """(ids, weights) of the part of a too long dialogue that fits into `length` tokens; None when nothing is left.

    drop: nothing is left. truncate_response: the last answer is cut, and then has no eos; where none of its tokens
    would be left, nothing is. keep_left_turns: as many of the first pairs of turns as fit.
    """
    messages = with_system(messages)
    if overlong == "truncate_response":
        before, _ = encode_chat(tok, messages[:-1])
        ids, weights = encode_chat(tok, messages)
        # 1 is for [RES].
        return (ids[:length], weights[:length]) if length > len(before) + 1 else None
    if overlong == "keep_left_turns":
        for turns in range(len(messages) - 2, 0, -2):
            ids, weights = encode_chat(tok, messages[:turns])
            if len(ids) <= length:
                return ids, weights
    return None


def encode_prompt(tok: "Tokenizer", messages: Sequence[Message], *, bos: bool = False) -> list[int]:
    """The ids of a dialogue that ends with the user, and [RES]. The model goes on with its answer.

    Raises DataError for a dialogue that ends with another role.
    """
    if messages and messages[-1]["role"] != "user":
        raise DataError(f"a prompt ends with role {messages[-1]['role']!r}; it must end with the user's message")
    ids, _ = encode_chat(tok, messages, bos=bos)
    return [*ids, _markers(tok)[1]]


def stop_ids(tok: "Tokenizer") -> frozenset[int]:
    """The ids that end an answer: eos, and the specials where the tokenizer has them."""
    return frozenset(i for i in (tok.eos, tok.ins, tok.res, tok.pad) if i is not None)
