"""The one chat encoding of SFT, reward, sampling and evaluation.

    messages   user "Hi"            assistant "Hello"
    ids        [INS] enc("Hi")      [RES] enc("Hello") eos
    weights      0     0              0        1        1

Each text is encoded by itself by SentencePiece, and the markers enter only as ids. bos is off by default, and eos ends
every assistant turn, as in TigerBot's web demo.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from tigerjax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer


Message = Mapping[str, str]
"""{"role": "user" or "assistant", "content": text}"""

Overlong = Literal["drop", "truncate_response", "keep_left_turns"]
"""What becomes of a dialogue that is longer than a row: see `shorten`."""


def _markers(tok: "Tokenizer") -> tuple[int, int, int]:
    if tok.ins is None or tok.res is None or tok.pad is None:
        raise ConfigError(
            f"tokenizer {tok.folder} is a base tokenizer without chat markers; use the one that"
            " `tigerjax tokenizer extend` wrote"
        )
    return tok.ins, tok.res, tok.pad


def encode_chat(tok: "Tokenizer", messages: Sequence[Message], *, bos: bool = False) -> tuple[list[int], list[int]]:
    """(ids, weights) of a whole dialogue: weight 1 on assistant tokens and their eos, else 0.

    Refuses roles that do not alternate from "user" on, empty content and a dialogue of no turns; it may end with
    either role.
    """
    ins, res, _ = _markers(tok)
    if not messages:
        raise DataError("a dialogue has no messages; it needs at least one from the user")
    ids = [tok.bos] if bos else []
    weights = [0] * len(ids)
    for turn, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role != ("user", "assistant")[turn % 2]:
            raise DataError(f"message {turn} has role {role!r}; roles must alternate user, assistant, user, …")
        if not content:
            raise DataError(f"message {turn} of the {role} is empty")
        text_ids = tok.encode(content)
        if role == "user":
            ids += [ins, *text_ids]
            weights += [0] * (1 + len(text_ids))
        else:
            ids += [res, *text_ids, tok.eos]
            weights += [0] + [1] * (len(text_ids) + 1)
    return ids, weights


def shorten(
    tok: "Tokenizer", messages: Sequence[Message], length: int, overlong: Overlong
) -> tuple[list[int], list[int]] | None:
    """(ids, weights) of what a policy keeps of a dialogue of more than `length` tokens; None when that is nothing.

    drop: nothing. truncate_response: the last answer is cut, and has no eos then; a cut that would leave none of its
    tokens keeps nothing. keep_left_turns: the first pairs of turns, as many as fit.
    """
    if overlong == "truncate_response":
        before, _ = encode_chat(tok, messages[:-1])
        ids, weights = encode_chat(tok, messages)
        # One more than the dialogue before it: [RES].
        return (ids[:length], weights[:length]) if length > len(before) + 1 else None
    if overlong == "keep_left_turns":
        for turns in range(len(messages) - 2, 0, -2):
            ids, weights = encode_chat(tok, messages[:turns])
            if len(ids) <= length:
                return ids, weights
    return None


def encode_prompt(tok: "Tokenizer", messages: Sequence[Message], *, bos: bool = False) -> list[int]:
    """Ids of a dialogue that ends with the user, plus [RES]: the model continues with its answer."""
    if messages and messages[-1]["role"] != "user":
        raise DataError(f"a prompt ends with role {messages[-1]['role']!r}; it must end with the user's message")
    ids, _ = encode_chat(tok, messages, bos=bos)
    return [*ids, _markers(tok)[1]]


def stop_ids(tok: "Tokenizer") -> frozenset[int]:
    """Ids that end an answer: eos and, where the tokenizer has them, the specials."""
    return frozenset(i for i in (tok.eos, tok.ins, tok.res, tok.pad) if i is not None)
