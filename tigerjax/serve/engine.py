"""Answers to requests that come at any time: they join and leave the sampler's slots between its steps.

    engine = Engine(model, batching=ServeBatching(slots=16))
    ticket = engine.submit(ask, deliver)       # calls deliver(AnswerPiece) in its thread, until each answer ends
    ticket.cancel()                            # its slots are free a few steps later
    engine.close(drain_s=10)

One thread does all the work, in turns: it reads prompts as long as slots are free, decodes some steps, and delivers
what was drawn. Requests begin in the order in which they came. What happens on the device is in `rows`.
"""

import dataclasses
import math
import threading
import time
from collections import deque
from typing import Any

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.errors import ConfigError, Full, Stopped
from tigerjax.files.progress import Advance
from tigerjax.model.rope import depends_on_length
from tigerjax.processes import hosts
from tigerjax.sample import slots
from tigerjax.serve.asked import AnswerPiece, Ask, Deliver, ServeBatching
from tigerjax.serve.rows import WINDOW, Rows, Start

__all__ = ["AnswerPiece", "Ask", "Engine", "EngineFigures", "ServeBatching", "Ticket"]

TURN_S = 0.1
"""How long a turn should decode: a reader sees new text ten times a second, and a new request waits no longer."""
SMOOTHED = 0.2
"""The weight of the newest measurement in a running mean."""


class Ticket:
    """A request that was taken."""

    def __init__(self, ask: Ask, deliver: Deliver):
        self.ask = ask
        self.error: str | None = None
        """Why its answers failed, in one line."""
        self._deliver = deliver
        self._cancelled: set[int] = set()
        """The numbers of the answers that nobody waits for."""
        self._begun = 0
        """Answers that have had a slot."""
        self._open = ask.n
        """Answers that have not ended."""
        self._since = time.monotonic()

    def cancel(self, answer: int | None = None) -> None:
        """Ends one of its answers soon, or all of them, as "cancelled". It may be called from any thread, and again."""
        self._cancelled = self._cancelled | set(range(self.ask.n) if answer is None else [answer])

    def _whole_cancelled(self) -> bool:
        return len(self._cancelled) == self.ask.n

    def _give(self, piece: AnswerPiece) -> None:
        """Delivers a piece; an error of the receiver cancels the request, and nothing else."""
        self._open -= piece.finish is not None
        try:
            self._deliver(piece)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            self.cancel()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineFigures:
    """What the engine does now and has done since its start."""

    queued: int
    """Requests that wait for their first slot."""
    slots: int
    used: int
    """Slots with an answer."""
    requests: int
    answers: int
    """Answers that ended, cancelled ones included."""
    prompt_tokens: int
    kept_tokens: int
    """Tokens of prompts that were not read again, because their beginning was kept."""
    drawn: int
    steps: int
    read_seconds: float
    decode_seconds: float


@dataclasses.dataclass
class _Answer:
    """An answer in a slot."""

    ticket: Ticket
    number: int
    ids: list[int] = dataclasses.field(default_factory=list)


class Engine:
    """Decodes the requests of one process."""

    def __init__(self, model: Loaded, *, batching: ServeBatching):
        """Raises ConfigError for a context that the model's positions do not allow, and on several hosts."""
        if hosts.several():
            raise ConfigError("requests are answered by one process, and this run has several; start it on one host")
        context = batching.context_of(model)
        if depends_on_length(model.config.rope, context):
            longest = model.config.rope.original_max_position_embeddings
            raise ConfigError(
                f"context={context}, but the rope kind dynamic of this model gives a token other angles in"
                f" rows of more than {longest} tokens, so that nothing read before could be used; give --context"
                f" {longest} at most"
            )
        self._rows = Rows(model, batching)
        self.batching, self.context, self.slots = batching, context, self._rows.slots
        self.model = self._rows.model
        """The model with its weights as decoding reads them; another engine takes it without a copy."""
        self._wake = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._answers: dict[int, _Answer] = {}
        self._reading: tuple[Ticket, int] | None = None
        """The request whose prompt is on the device, and how much of it was read."""
        self._closed = False
        self._trouble: str | None = None
        self._counts: dict[str, Any] = dict.fromkeys(
            ("requests", "answers", "prompt_tokens", "kept_tokens", "drawn", "read_seconds", "decode_seconds"), 0
        )
        self._step_s = self._answer_s = 0.0
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def warm(self, progress: Advance | None = None, *, most: int | None = None) -> None:
        """Compiles now what the first requests would wait for; call it before them. With `most` only what answers of up
        to so many tokens need, their prompts included."""
        self._rows.warm(progress, self.context if most is None else most)

    def submit(self, ask: Ask, deliver: Deliver) -> Ticket:
        """Takes a request; `deliver` gets its pieces until each of its n answers has ended.

        Raises ConfigError for a prompt that cannot be answered, Full when too many requests wait, and Stopped after the
        engine was closed or has failed.
        """
        self._check(ask)
        ticket = Ticket(ask, deliver)
        with self._wake:
            self._check_open()
            # Those that get a slot at once do not wait.
            if len(self._waiting) >= self.batching.queue + self.slots - len(self._answers):
                wait_s = max(1.0, self._answer_s * len(self._waiting) / self.slots)
                raise Full(
                    f"{len(self._waiting)} requests wait already; ask again in {wait_s:.0f} s", retry_after_s=wait_s
                )
            self._waiting.append(ticket)
            self._counts["requests"] += 1
            self._wake.notify_all()
        return ticket

    def figures(self) -> EngineFigures:
        """A picture of this moment; it may be taken from any thread."""
        queued = sum(ticket._begun == 0 for ticket in list(self._waiting))
        used, steps = len(self._answers), self._rows.steps
        return EngineFigures(queued=queued, slots=self.slots, used=used, steps=steps, **self._counts)

    @property
    def trouble(self) -> str | None:
        """Why it answers nothing any more, in one line; None while it works."""
        return self._trouble

    def close(self, drain_s: float = 0.0) -> None:
        """Takes no more requests, gives the open ones `drain_s` seconds to end, cancels the others, and returns."""
        until = time.monotonic() + drain_s
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._thread.join(max(0.0, until - time.monotonic()))
        with self._wake:
            for ticket in [*self._waiting, *(answer.ticket for answer in self._answers.values())]:
                ticket.cancel()
        self._thread.join()

    def _check_open(self) -> None:
        if self._trouble is not None:
            raise Stopped(f"{self._trouble}; start it again")
        if self._closed:
            raise Stopped("the model takes no more requests: it is being closed; ask it later")

    def _check(self, ask: Ask) -> None:
        context, size = self.context, self.model.tokenizer.size
        if not ask.ids:
            raise ConfigError("the prompt has no tokens; give a text")
        if len(ask.ids) >= context:
            raise ConfigError(
                f"prompt of {len(ask.ids)} tokens, but prompt and answer together have at most {context}; shorten it"
            )
        if (largest := max(*ask.ids, *ask.stop_ids, 0)) >= size:
            raise ConfigError(f"id {largest} in the request is outside the {size} entries of the tokenizer; change it")

    def _work(self) -> None:
        try:
            while self._more():
                self._turn()
        except Exception as error:  # of the device, or a bug: nobody must wait for answers that do not come
            with self._wake:
                self._trouble = f"the model stopped answering: {type(error).__name__}: {error}".split("\n")[0]
            self._fail_all()
            raise

    def _more(self) -> bool:
        """Waits for work; False once it is closed and all is done."""
        with self._wake:
            while not (self._waiting or self._answers):
                if self._closed:
                    return False
                self._wake.wait()
        return True

    def _turn(self) -> None:
        self._drop_cancelled()
        began = time.monotonic()
        while len(self._answers) < self.slots and self._waiting:
            self._read_on()
            self._drop_cancelled()
            if self._answers and time.monotonic() - began > TURN_S:  # who reads an answer waits no longer
                break
        now = time.monotonic()
        self._counts["read_seconds"] += now - began
        if self._answers:
            self._decode()
            self._counts["decode_seconds"] += time.monotonic() - now

    def _read_on(self) -> None:
        """Reads a chunk of the first request's prompt, or begins an answer to it where it is read."""
        ticket = self._waiting[0]
        ids = ticket.ask.ids
        if self._reading is None or self._reading[0] is not ticket:
            kept = self._rows.begin(ids)
            self._counts["prompt_tokens"] += len(ids)
            self._counts["kept_tokens"] += kept
            self._reading = ticket, kept
        at = self._reading[1]
        if at < len(ids):
            self._reading = ticket, self._rows.read(ids, at)
            return
        slot = next(slot for slot in range(self.slots) if slot not in self._answers)
        self._answers[slot] = _Answer(ticket, ticket._begun)
        self._fit()
        self._rows.start(Start(slot, ticket.ask, ticket._begun))
        ticket._begun += 1
        if ticket._begun == ticket.ask.n:
            with self._wake:
                self._waiting.popleft()
            self._reading = None

    def _fit(self) -> None:
        """Room for all that is in the slots and for the tokens of one more turn."""
        longest = max(len(a.ticket.ask.ids) + len(a.ids) for a in self._answers.values())
        self._rows.fit(min(longest + WINDOW + 1, self.context))

    def _decode(self) -> None:
        self._fit()
        most = max(1, min(WINDOW, int(TURN_S / self._step_s))) if self._step_s else 1
        free = self.slots - len(self._answers)
        # While others wait, a slot that gets free ends the turn.
        enough = free + 1 if self._waiting else self.slots
        before, began = self._rows.steps, time.monotonic()
        seen = self._rows.advance(enough, most)
        if steps := self._rows.steps - before:
            took = (time.monotonic() - began) / steps
            self._step_s += (took - self._step_s) * (SMOOTHED if self._step_s else 1.0)
        for slot in list(self._answers):
            self._deliver(slot, seen)

    def _deliver(self, slot: int, seen: slots.Seen) -> None:
        """Delivers what was drawn in one slot, and frees it where its answer ended."""
        answer = self._answers[slot]
        ask, count = answer.ticket.ask, int(seen.count_R[slot])
        finish = None
        if not seen.left_R[slot]:
            stop = int(seen.stop_R[slot])
            finish = "length" if stop < 0 else self._rows.reasons.get(stop, "stop")
        if not count and finish is None:
            return
        ids, logprobs = seen.tokens_RT[slot, :count].tolist(), seen.logprobs_RT[slot, :count].tolist()
        if not math.isfinite(sum(logprobs)):
            answer.ticket.error = f"log-probability {sum(logprobs)}: the model gives NaN or inf"
            finish = "failed"
        top = [_most_probable(seen, slot, place, ask.top_logprobs) for place in range(count)]
        answer.ids += ids
        self._counts["drawn"] += count
        if finish is not None:
            if finish != "failed":
                # The last token of an answer that reached its limit was not read by the model.
                self._rows.keep(slot, [*ask.ids, *answer.ids][: -1 if finish == "length" else None])
            self._end(slot)
        answer.ticket._give(AnswerPiece(answer.number, ids, logprobs, top, finish))

    def _end(self, slot: int) -> None:
        """The slot is free from now on."""
        ticket = self._answers.pop(slot).ticket
        self._rows.free(slot)
        self._counts["answers"] += 1
        self._answer_s += (time.monotonic() - ticket._since - self._answer_s) * SMOOTHED

    def _drop_cancelled(self) -> None:
        for slot, answer in list(self._answers.items()):
            if answer.number in answer.ticket._cancelled:
                self._end(slot)
                answer.ticket._give(AnswerPiece(answer.number, [], [], [], "cancelled"))
        with self._wake:
            gone = [ticket for ticket in self._waiting if ticket._whole_cancelled()]
            self._waiting = deque(ticket for ticket in self._waiting if ticket not in gone)
        for ticket in gone:
            self._end_unbegun(ticket, "cancelled")

    def _end_unbegun(self, ticket: Ticket, how: str) -> None:
        """Ends the answers that have had no slot."""
        self._counts["answers"] += ticket.ask.n - ticket._begun
        for number in range(ticket._begun, ticket.ask.n):
            ticket._give(AnswerPiece(number, [], [], [], how))
        ticket._begun = ticket.ask.n

    def _fail_all(self) -> None:
        with self._wake:
            waiting, self._waiting = list(self._waiting), deque()
        for ticket in [*waiting, *(answer.ticket for answer in self._answers.values())]:
            ticket.error = self._trouble
        for answer in self._answers.values():
            answer.ticket._give(AnswerPiece(answer.number, [], [], [], "failed"))
        self._answers = {}
        for ticket in waiting:
            self._end_unbegun(ticket, "failed")


def _most_probable(seen: slots.Seen, slot: int, place: int, count: int) -> list[tuple[int, float]]:
    if not count or seen.top is None:
        return []
    ids, logprobs = seen.top.ids_RTN[slot, place, :count], seen.top.logprobs_RTN[slot, place, :count]
    return list(zip(ids.tolist(), logprobs.tolist(), strict=True))
