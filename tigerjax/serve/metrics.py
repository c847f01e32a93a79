"""What the server counts, in Prometheus' text format."""

import bisect
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from tigerjax.serve.engine import EngineFigures

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of the time to the first token."""
RATE_S = 10
"""The rate of tokens is the mean of so many seconds."""
PREFIX = "tigerjax_serve"
ENGINE = {
    "queued": ("queued_requests", "gauge", "Requests that wait for their first slot"),
    "slots": ("slots", "gauge", "Answers that can be decoded side by side"),
    "used": ("slots_used", "gauge", "Slots with an answer"),
    "kept_tokens": ("kept_tokens_total", "counter", "Tokens of prompts that were not read again"),
    "steps": ("steps_total", "counter", "Decode steps"),
    "drawn": ("drawn_tokens_total", "counter", "Tokens drawn in all slots"),
    "read_seconds": ("read_seconds_total", "counter", "Time that the engine spent on reading prompts"),
    "decode_seconds": ("decode_seconds_total", "counter", "Time that the engine spent on decoding"),
}
"""By the field of `engine.EngineFigures`: name, kind and meaning of the metric."""


class ServerMetrics:
    """Counts of one server since its start. It is used from one thread."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[str] = Counter()
        self._labels = 0
        self._first = [0] * (len(FIRST_TOKEN_S) + 1)
        self._first_sum = 0.0
        self._drawn: deque[list[int]] = deque()
        """[second, tokens drawn in it], the oldest first."""

    def request(self, path: str, status: int) -> None:
        """Counts an answered request; `path` is one of the server's own."""
        self._requests[path, status] += 1

    def prompt(self, tokens: int) -> None:
        """Counts the tokens of a prompt that was taken."""
        self._tokens["prompt"] += tokens

    def answer(self, tokens: int) -> None:
        """Counts tokens that were drawn."""
        self._tokens["answer"] += tokens
        now = self._forget()
        if not self._drawn or self._drawn[-1][0] != now:
            self._drawn.append([now, 0])
        self._drawn[-1][1] += tokens

    def first_token(self, seconds: float) -> None:
        """Counts the time from a request's arrival to its first token."""
        self._first[bisect.bisect_left(FIRST_TOKEN_S, seconds)] += 1
        self._first_sum += seconds

    def label(self) -> None:
        """Counts a label that was written."""
        self._labels += 1

    def figures(self) -> dict[str, Any]:
        """{requests, by_code, prompt_tokens, answer_tokens, labels} since the start."""
        by_code: Counter[str] = Counter()
        for (_, status), count in self._requests.items():
            by_code[str(status)] += count
        tokens = {f"{kind}_tokens": self._tokens[kind] for kind in ("prompt", "answer")}
        return (
            {"requests": by_code.total(), "by_code": dict(sorted(by_code.items()))} | tokens | {"labels": self._labels}
        )

    def text(self, engine: EngineFigures) -> str:
        """All figures, those of the engine among them."""
        return "\n".join([*self._lines(engine), ""])

    def _lines(self, engine: EngineFigures) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Requests that were answered, by path and HTTP status")
        for (path, status), count in sorted(self._requests.items()):
            yield f'{PREFIX}_requests_total{{path="{path}",code="{status}"}} {count}'
        yield from _head("tokens_total", "counter", "Tokens of prompts that were taken and of answers that were drawn")
        for kind in ("answer", "prompt"):
            yield f'{PREFIX}_tokens_total{{kind="{kind}"}} {self._tokens[kind]}'
        yield from _head("labels_total", "counter", "Labels that were written")
        yield f"{PREFIX}_labels_total {self._labels}"
        self._forget()
        yield from _head("tokens_per_second", "gauge", f"Tokens drawn, the mean of the last {RATE_S} seconds")
        yield f"{PREFIX}_tokens_per_second {sum(tokens for _, tokens in self._drawn) / RATE_S:g}"
        name = "first_token_seconds"
        yield from _head(name, "histogram", "Time from the arrival of a request to its first token")
        below = 0
        for bound, count in zip((*FIRST_TOKEN_S, "+Inf"), self._first, strict=True):
            below += count
            yield f'{PREFIX}_{name}_bucket{{le="{bound}"}} {below}'
        yield f"{PREFIX}_{name}_sum {self._first_sum:g}"
        yield f"{PREFIX}_{name}_count {below}"
        for field, about in ENGINE.items():
            yield from _head(*about)
            yield f"{PREFIX}_{about[0]} {getattr(engine, field)}"

    def _forget(self) -> int:
        """The second that it is now; older ones than RATE_S are dropped."""
        now = int(time.monotonic())
        while self._drawn and self._drawn[0][0] <= now - RATE_S:
            self._drawn.popleft()
        return now


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {PREFIX}_{name} {meaning}", f"# TYPE {PREFIX}_{name} {kind}"]
