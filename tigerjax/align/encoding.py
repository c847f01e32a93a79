"""Token ids of answers as a reward model reads them: the chat, the answer, and an eos that the model wrote itself."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tigerjax.align.answers import Answer, Existing
from tigerjax.errors import DataError
from tigerjax.processes import hosts
from tigerjax.tokenizer.load import Tokenizer

FINISHES = ("stop", "length", "marker")


class OverlongAnswer(DataError):
    """A question and its answer that are longer than `seq_len`."""


def encode_all(tok: Tokenizer, answers: Sequence[Answer], *, seq_len: int) -> tuple[list[list[int] | None], list[str]]:
    """(token ids, finish) of answers to score. An `Existing` one that does not fit has None.

    Lines on standard error count those, and the sampled answers that are cut to fit.
    """
    ids: list[list[int] | None] = []
    finishes: list[str] = []
    for number, answer in enumerate(answers, 1):
        messages, text, finish, *_ = answer
        where = f"answer {number} to score, to {messages[-1]['content']!r:.40}"
        one: list[int] | None = None
        end = finish
        if not isinstance(answer, Existing):
            sampled, end = encode_sampled(tok, messages, text, finish, seq_len=seq_len, where=where)
            one = sampled.ids
        elif fits(tok, messages, text, finish, seq_len=seq_len):
            one = encode_answer(tok, messages, text, finish, seq_len=seq_len, where=where).ids
        if one is not None:
            check_end(tok, one, end, where)
        ids.append(one)
        finishes.append(end)
    if cut := sum(end != answer.finish for end, answer in zip(finishes, answers, strict=True)):
        hosts.say(
            f"warning: {cut} of {len(answers)} answers do not fit seq_len={seq_len} when their text is encoded again;"
            " scored as truncated"
        )
    if long := ids.count(None):
        existing = sum(isinstance(answer, Existing) for answer in answers)
        hosts.say(
            f"tigerjax: note: {long} of {existing} existing answers do not fit seq_len={seq_len} and have no score;"
            " raise data.seq_len"
        )
    return ids, finishes


def fits(tok: Tokenizer, messages: Sequence[Mapping[str, str]], text: str, finish: str, *, seq_len: int) -> bool:
    """Whether the answer and the last question fit into `seq_len` tokens."""
    try:
        encode_answer(tok, messages, text, finish, seq_len=seq_len, where="")
    except OverlongAnswer:
        return False
    return True


class EncodedAnswer(NamedTuple):
    """Token ids of a chat that ends with an answer."""

    prompt: list[int]
    answer: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.answer


def encode_answer(
    tok: Tokenizer, messages: Sequence[Mapping[str, str]], text: str, finish: str, *, seq_len: int, where: str
) -> EncodedAnswer:
    """A chat that ends with the answer, and with an eos when `finish` is "stop".

    A chat longer than `seq_len` loses its oldest turns. The answer and the last question are never cut: Overlong when
    they alone do not fit.
    """
    from tigerjax.tokenizer.chat import encode_prompt, prepared, without_oldest

    if finish not in FINISHES:
        raise DataError(f"{where}: finish is {finish!r}, must be one of {', '.join(FINISHES)}")
    answer = tok.encode(text) + ([tok.end] if finish == "stop" else [])
    turns = _turns(prepared(tok, messages))
    while True:
        prompt = encode_prompt(tok, turns)
        if (length := len(prompt) + len(answer)) <= seq_len:
            return EncodedAnswer(prompt, answer)
        if not (shorter := without_oldest(turns)) or shorter[-1]["role"] != "user":
            raise OverlongAnswer(f"{where}: question and answer have {length} tokens, seq_len is {seq_len}; raise it")
        turns = shorter


def encode_sampled(
    tok: Tokenizer, messages: Sequence[Mapping[str, str]], text: str, finish: str, *, seq_len: int, where: str
) -> tuple[EncodedAnswer, str]:
    """(a chat, finish) of a sampled answer, as `encode_answer`; one that does not fit is cut, with finish "length".

    The tokens that the sampler drew did fit. But encoding their text again can give more tokens than were drawn.
    Overlong when the question leaves no room for a single token.
    """
    from tigerjax.tokenizer.chat import encode_prompt, prepared, without_oldest

    last = _turns(prepared(tok, messages))
    while (shorter := without_oldest(last)) and shorter[-1]["role"] == "user":
        last = shorter
    prompt = encode_prompt(tok, last)
    room = seq_len - len(prompt)
    if len(tok.encode(text)) + (finish == "stop") <= room or room < 1:  # without any room `encode_answer` refuses
        return encode_answer(tok, messages, text, finish, seq_len=seq_len, where=where), finish
    return EncodedAnswer(prompt, tok.encode(text)[:room]), "length"


def _turns(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def check_end(tok: Tokenizer, ids: Sequence[int], finish: str, where: str) -> None:
    """DataError for an answer of finish "stop" without eos, or what the template ends a turn with, at its end: its
    score would be read there."""
    if finish == "stop" and (not ids or ids[-1] != tok.end):
        raise DataError(f"{where}: the answer has no eos (id {tok.end}) at its end; add it, or state finish=length")
