"""The answers to a request while the engine draws them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from tigerjax.serve.asked import AnswerPiece, Ask
from tigerjax.serve.engine import Engine
from tigerjax.serve.refused import Refused
from tigerjax.serve.text import AnswerText, Token


class ChoicePiece(NamedTuple):
    """What is new of one answer."""

    choice: int
    """The number of the prompt times n, and the number of the answer."""
    text: str
    tokens: list[Token]
    finish: str | None
    """None while the answer is not at its end; then "stop", "length" or "marker"."""


class Drawing:
    """Draws the answers to some prompts, and frees their slots when nobody waits for them any more.

    The engine calls back from its own thread; everything here happens in the thread of the event loop.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        asks: Sequence[Ask],
        stops: Sequence[str],
        *,
        first: Callable[[float], None],
    ):
        """`asks` have one `n`. `first` is called with the seconds until the first token. Raises `Full` of the engine
        where the queue has no place for all of them."""
        self._loop, self._came = asyncio.get_running_loop(), asyncio.Queue[tuple[int, AnswerPiece]]()
        self._first: Callable[[float], None] | None = first
        self._began = time.monotonic()
        self._n = asks[0].n
        self._texts = {choice: AnswerText(tokenizer, stops) for choice in range(len(asks) * self._n)}
        self._open = set(self._texts)
        self._tickets: list[Any] = []
        self.tokens = 0
        """The tokens that were drawn, of all answers together."""
        try:
            for number, ask in enumerate(asks):
                self._tickets.append(engine.submit(ask, self._deliver(number)))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Frees the slots of the answers that are not at their end."""
        for ticket in self._tickets:
            ticket.cancel()

    async def news(self) -> AsyncIterator[ChoicePiece]:
        """What comes, until every answer is at its end. Refused when the engine fails."""
        while self._open:
            prompt, piece = await self._came.get()
            choice = prompt * self._n + piece.answer
            if choice not in self._open:  # the rest of an answer that a stop string has ended
                continue
            text = self._texts[choice]
            if piece.ids and self._first is not None:
                self._first(time.monotonic() - self._began)
                self._first = None
            before = text.tokens
            delta = text.add(piece.ids, piece.logprobs, piece.top)
            self.tokens += text.tokens - before
            finish = "stop" if delta.stopped else piece.finish
            if finish in ("failed", "cancelled"):
                raise Refused(503, self._tickets[prompt].error or "the server could not finish this answer; ask again")
            if piece.finish is not None and not delta.stopped:
                rest = text.end()
                delta = rest._replace(text=delta.text + rest.text, tokens=delta.tokens + rest.tokens)
                finish = "stop" if rest.stopped else finish
            if finish is not None:
                self._open.discard(choice)
            if delta.stopped and piece.finish is None:
                self._tickets[prompt].cancel(piece.answer)
            if delta.text or delta.tokens or finish is not None:
                yield ChoicePiece(choice, delta.text, delta.tokens, finish)

    def _deliver(self, prompt: int) -> Callable[[AnswerPiece], None]:
        def deliver(piece: AnswerPiece) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._came.put_nowait, (prompt, piece))

        return deliver
