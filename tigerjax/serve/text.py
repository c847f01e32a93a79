"""The text of one answer as its tokens come: up to the first stop string, with the log-probability of each token."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tigerjax.tokenizer.stream import Stream


class Token(NamedTuple):
    """A drawn token, with what is reported of it."""

    id: int
    logprob: float
    """In nats, at temperature 1, nothing truncated."""
    top: list[tuple[int, float]]
    """The most probable tokens at this place, the best first."""
    begin: int
    """The number of characters of the answer before it."""


class Delta(NamedTuple):
    """What has become certain of an answer."""

    text: str
    tokens: list[Token]
    """Those that begin in the text that was given so far."""
    stopped: bool
    """Whether a stop string ended the answer."""


class AnswerText:
    """The texts that `add` and `end` give are, one after the other, the answer up to its first stop string.

    What may be the beginning of a stop string is held back until the next tokens decide it. A stop string may begin
    and end within tokens.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]):
        self._stream, self._stops = Stream(tokenizer), tuple(stops)
        self._held = ""
        """Text that may begin a stop string."""
        self._given = self._read = self.tokens = 0
        """Characters that were given, and decoded; tokens that were drawn."""
        self._waiting: list[Token] = []
        self.stopped = False

    def add(self, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[list[tuple[int, float]]]) -> Delta:
        """What the next tokens make certain. Those behind a stop string are not counted."""
        before, out = self.tokens, ""
        for place, i in enumerate(ids):
            if self.stopped:
                break
            self.tokens = before + place + 1
            self._waiting.append(Token(i, logprobs[place], top[place] if top else [], self._read))
            out += self._more(self._stream.add(i))
        return Delta(out, self._release(), self.stopped)

    def end(self) -> Delta:
        """What is left when the model has ended the answer."""
        out = "" if self.stopped else self._more(self._stream.end())
        if not self.stopped:
            out, self._given, self._held = out + self._held, self._given + len(self._held), ""
        return Delta(out, self._release(end=True), self.stopped)

    def _more(self, new: str) -> str:
        """What is certain with the next characters."""
        self._read += len(new)
        text = self._held + new
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held, sure = True, "", text[: min(found)]
        else:
            held = max((_overlap(text, stop) for stop in self._stops), default=0)
            sure, self._held = text[: len(text) - held], text[len(text) - held :]
        self._given += len(sure)
        return sure

    def _release(self, end: bool = False) -> list[Token]:
        """The tokens whose text has begun to be given; at the end also those without text."""
        all_of_them = end and not self.stopped
        ready = [t for t in self._waiting if all_of_them or t.begin < self._given]
        self._waiting = [t for t in self._waiting if not (all_of_them or t.begin < self._given)]
        return ready


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text with which the stop string begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
