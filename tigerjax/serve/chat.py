"""A conversation with a model: its messages, how they fit into the context, and the answers as they come."""

import contextlib
import dataclasses
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tigerjax.config.ranges import Answers, Count, CountOrZero, PositiveShare, Seed, check
from tigerjax.errors import ConfigError, DataError, Stopped
from tigerjax.sample.engine import Temperature
from tigerjax.serve.asked import AnswerPiece, Ask, name_of
from tigerjax.serve.engine import Engine
from tigerjax.tokenizer.chat import encode_prompt, without_oldest
from tigerjax.tokenizer.stream import Stream

Messages = Sequence[Mapping[str, Any]]
ROOM = 4
"""Older turns are left out where they would leave an answer less than 1 in so many tokens of the context, unless it may
not be so long anyway."""


class ChatAnswer(NamedTuple):
    """A whole answer."""

    text: str
    finish: str
    """stop, length, marker or cancelled."""
    score: float | None = None
    """Of the reward model; None where there is none, or where the answer is too long for it."""


ScoreChat = Callable[[Messages, Sequence[ChatAnswer]], Sequence[float | None]]
"""(conversation up to the question, answers to it) -> the score of each, None where it has none."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatSettings:
    """How answers are drawn; a person changes them while he talks."""

    n: Answers
    """Answers to each question."""
    temperature: Temperature
    top_p: PositiveShare
    top_k: CountOrZero
    max_new_tokens: Count
    seed: Seed

    def __post_init__(self) -> None:
        check(self, "")


class TextPiece(NamedTuple):
    """What is new of one answer."""

    answer: int
    text: str
    tokens: int
    finish: str | None


class Chat:
    """What was said so far, and the engine that answers.

    An answer is that of `tigerjax sample` to the same messages, whose prompt_id is `name_of` them.
    """

    def __init__(self, engine: Engine, settings: ChatSettings, *, system: str = "", score: ScoreChat | None = None):
        self.settings, self.system = settings, system
        self.answers: list[ChatAnswer] = []
        """To the last question."""
        self.left_out = 0
        """Messages of the last prompt that did not fit into the context."""
        self._engine, self._score = engine, score
        self._said: list[dict[str, Any]] = []
        self._question: list[dict[str, Any]] = []
        """What was said up to the last question."""
        self._again = 0
        """How often it was answered anew."""

    def reset(self) -> None:
        """Forgets what was said; the text of the system stays."""
        self._said, self._question, self.answers = [], [], []

    def ask(self, question: str) -> Iterator[TextPiece]:
        """The answers to a question, as they come. Ctrl-C ends them, and what was answered until then stays.

        Raises ConfigError for a question that does not fit into the context, and Stopped where the engine fails.
        """
        yield from self._answer([*self._said, {"role": "user", "content": question}], again=0)

    def retry(self) -> Iterator[TextPiece]:
        """Other answers to the last question. Raises ConfigError before the first one."""
        if not self._question:
            raise ConfigError("there is no question yet; ask one first")
        yield from self._answer(self._question, again=self._again + 1)

    def change(self, settings: ChatSettings) -> None:
        """Other settings from now on. For more answers at a time than there are slots, the engine is made anew."""
        if settings.n > self._engine.slots:
            self._engine.close()
            batching = dataclasses.replace(self._engine.batching, slots=settings.n)
            self._engine = Engine(self._engine.model, batching=batching)
        self.settings = settings

    def close(self) -> None:
        """Ends the engine."""
        self._engine.close()

    def record(self) -> dict[str, Any]:
        """What was said, and all answers to the last question."""
        return {"messages": self._said, "answers": [answer._asdict() for answer in self.answers]}

    def take(self, number: int) -> None:
        """The conversation continues from answer `number`, counted from 0. Raises ConfigError where there is none."""
        if not 0 <= number < len(self.answers):
            raise ConfigError(f"answer {number + 1} is not there; there are {len(self.answers)} answers, from 1")
        text = self.answers[number].text
        # An empty answer cannot stand in a prompt, and a question without an answer cannot either.
        self._said = [*self._question, {"role": "assistant", "content": text}] if text else self._question[:-1]

    def best(self) -> int:
        """Of the answers that are not empty, the one with the highest score; the first one where there are no scores.

        `best` in page.html is the same.
        """
        scores = [-float("inf") if answer.score is None else answer.score for answer in self.answers]
        said = [number for number, answer in enumerate(self.answers) if answer.text] or [0]
        return max(said, key=scores.__getitem__)

    def _answer(self, said: list[dict[str, Any]], *, again: int) -> Iterator[TextPiece]:
        settings, tokenizer = self.settings, self._engine.model.tokenizer
        messages, ids = self._fitting(said)
        how = dataclasses.asdict(settings) | {"seed": (settings.seed + again) % 2**32}
        came: queue.SimpleQueue[AnswerPiece] = queue.SimpleQueue()
        ticket = self._engine.submit(Ask(ids=tuple(ids), prompt_id=name_of(messages), **how), came.put)
        streams = [Stream(tokenizer) for _ in range(settings.n)]
        texts, finishes = [""] * settings.n, [""] * settings.n
        with _on_interrupt(ticket.cancel):
            while not all(finishes):
                piece = came.get()
                if piece.finish == "failed":
                    raise Stopped(f"{ticket.error}; start it again, or ask another model")
                stream = streams[piece.answer]
                text = "".join(map(stream.add, piece.ids)) + ("" if piece.finish is None else stream.end())
                texts[piece.answer] += text
                finishes[piece.answer] = piece.finish or ""
                yield TextPiece(piece.answer, text, len(piece.ids), piece.finish)
        drawn = [ChatAnswer(text, finish) for text, finish in zip(texts, finishes, strict=True)]
        if self._score is not None:
            scores = self._score(messages, drawn)
            drawn = [one._replace(score=score) for one, score in zip(drawn, scores, strict=True)]
        self.answers, self._question, self._again = drawn, said, again
        self.take(self.best())

    def _fitting(self, said: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
        """(the messages, their ids), without the oldest turns where all of them do not fit into the context."""
        tokenizer, context = self._engine.model.tokenizer, self._engine.context
        system = [{"role": "system", "content": self.system}] if self.system else []
        room = min(self.settings.max_new_tokens, max(1, context // ROOM))
        messages = [*system, *said]
        ids = encode_prompt(tokenizer, messages)
        while len(ids) + room > context and len(messages) > len(system) + 1:
            messages = without_oldest(messages)
            ids = encode_prompt(tokenizer, messages)
        self.left_out = len(system) + len(said) - len(messages)
        if len(ids) >= context:
            raise ConfigError(
                f"this question has {len(ids)} tokens with its system text, but it and its answer have at most"
                f" {context} together; shorten it"
            )
        return messages, ids


def refuse_base(tokenizer: Any, where: Any) -> None:
    """ConfigError where a model has no form for conversations, which makes it a base model."""
    try:
        encode_prompt(tokenizer, [{"role": "user", "content": "."}])
    except (ConfigError, DataError) as error:
        raise ConfigError(
            f"{where} cannot hold a conversation: {error}. A base model continues texts with `tigerjax sample …"
            " --no-chat`"
        ) from error


@contextlib.contextmanager
def _on_interrupt(end: Callable[[], None]) -> Iterator[None]:
    """While the block runs, the first Ctrl-C calls `end` and the second one ends the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        end()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
