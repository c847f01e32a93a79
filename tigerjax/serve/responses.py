"""Answers in OpenAI's forms: whole ones, the chunks of streams, log-probabilities and counts of tokens.

The forms are those of OpenAI's API reference. Each whole answer and each stream also has `sampling`: the seed and the
prompt ids with which `tigerjax sample` draws the same.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tigerjax.serve.drawing import ChoicePiece
from tigerjax.serve.text import Token

FINISHES = {"stop": "stop", "marker": "stop", "length": "length"}
"""OpenAI's reason for each of ours. It has no word for an answer that a marker of the chat ended."""
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """A server-sent event that holds JSON."""
    return b"data: " + dumped(value) + b"\n\n"


def dumped(value: Any) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


class Head(NamedTuple):
    """What all chunks of an answer have in common."""

    model: str
    fingerprint: str
    chat: bool
    sampling: Mapping[str, Any]
    id: str
    created: int

    @classmethod
    def new(cls, model: str, fingerprint: str, *, chat: bool, sampling: Mapping[str, Any]) -> "Head":
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        return cls(model, fingerprint, chat, sampling, name, int(time.time()))

    def fields(self, stream: bool) -> dict[str, Any]:
        """The fields in front of the choices."""
        kind = "text_completion" if not self.chat else "chat.completion.chunk" if stream else "chat.completion"
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"system_fingerprint": self.fingerprint}


def usage(prompt_tokens: int, answer_tokens: int) -> dict[str, int]:
    """The counts of tokens of a request."""
    total = prompt_tokens + answer_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens, "total_tokens": total}


class Choice:
    """One whole answer, put together from its news."""

    def __init__(self) -> None:
        self.text, self.tokens, self.finish = "", list[Token](), ""

    def add(self, news: ChoicePiece) -> None:
        self.text += news.text
        self.tokens += news.tokens
        self.finish = news.finish or self.finish


class Writer:
    """Writes the answers of one request. `top` is None where no log-probabilities are asked for."""

    def __init__(self, head: Head, tokenizer: Any, top: int | None):
        self._head, self._tokenizer, self._top = head, tokenizer, top

    def whole(self, choices: Sequence[Choice], prompt_tokens: int, answer_tokens: int) -> dict[str, Any]:
        """The answer to a request that is no stream."""
        written = [self._choice(index, choice) for index, choice in enumerate(choices)]
        counted = {"usage": usage(prompt_tokens, answer_tokens), "sampling": dict(self._head.sampling)}
        return self._head.fields(stream=False) | {"choices": written} | counted

    def opening(self, choices: int) -> list[dict[str, Any]]:
        """The chunks in front of the first text: of a chat, the role of each answer."""
        if not self._head.chat:
            return []
        delta = {"role": "assistant", "content": ""}
        return [self._chunk({"index": index, "delta": delta}, []) for index in range(choices)]

    def chunks(self, news: ChoicePiece) -> list[dict[str, Any]]:
        """What is new of an answer; its end is a chunk of its own in a chat."""
        finish = FINISHES[news.finish] if news.finish is not None else None
        if not self._head.chat:
            return [self._chunk({"index": news.choice, "text": news.text}, news.tokens, finish)]
        text = [self._chunk({"index": news.choice, "delta": {"content": news.text}}, news.tokens)]
        ended = [self._chunk({"index": news.choice, "delta": {}}, [], finish)]
        return (text if news.text or news.tokens else []) + (ended if finish else [])

    def counts(self, prompt_tokens: int, answer_tokens: int) -> dict[str, Any]:
        """The last chunk of a stream whose counts are asked for."""
        return self._fields() | {"choices": [], "usage": usage(prompt_tokens, answer_tokens)}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        content: dict[str, Any] = {"message": message} if self._head.chat else {"text": choice.text}
        ended = {"logprobs": self._logprobs(choice.tokens), "finish_reason": FINISHES[choice.finish]}
        return {"index": index, **content, **ended}

    def _fields(self) -> dict[str, Any]:
        return self._head.fields(stream=True) | {"sampling": dict(self._head.sampling)}

    def _chunk(self, choice: dict[str, Any], tokens: Sequence[Token], finish: str | None = None) -> dict[str, Any]:
        reported = self._logprobs(tokens) if tokens else None
        return self._fields() | {"choices": [choice | {"logprobs": reported, "finish_reason": finish}]}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self._top is None:
            return None
        if self._head.chat:
            content = [
                self._named(t.id, t.logprob) | {"top_logprobs": [self._named(*one) for one in t.top[: self._top]]}
                for t in tokens
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [self._text(t.id) for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": [{self._text(i): value for i, value in t.top[: self._top]} for t in tokens],
            "text_offset": [t.begin for t in tokens],
        }

    def _named(self, i: int, logprob: float) -> dict[str, Any]:
        return {"token": self._text(i), "logprob": logprob, "bytes": list(self._tokenizer.bytes_of(i))}

    def _text(self, i: int) -> str:
        """The text of one token, in which bytes that are no whole character are U+FFFD."""
        return str(self._tokenizer.bytes_of(i).decode("utf-8", "replace"))
