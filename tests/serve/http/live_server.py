"""A server on loopback, in a thread of the tests."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from tigerjax.serve import server
from tigerjax.serve.app import app
from tigerjax.serve.asked import ServeBatching
from tigerjax.serve.guard import Limits, Rules
from tigerjax.serve.metrics import ServerMetrics
from tigerjax.serve.service import Defaults, Served

BATCHING = ServeBatching(slots=8, context=96, queue=256, chunk=16, kept_mb=0.5)
DEFAULTS = Defaults(temperature=0.9, top_p=0.95, top_k=0, max_new_tokens=24)
LIMITS = Limits(body_bytes=200_000, request_s=60.0)
RULES = Rules(keys=(), loopback=True, log=False)


@dataclasses.dataclass(frozen=True)
class Live:
    """A server that listens."""

    url: str
    served: Served
    labels: Path
    http: httpx2.Client
    """It keeps its connection: a new one each time costs more than the answers of a tiny model."""

    def client(self, **how: Any) -> Any:
        """OpenAI's client of it, without tries of its own."""
        import openai

        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | how)

    def get(self, path: str, **how: Any) -> httpx2.Response:
        return self.http.get(path, **how)

    def post(self, path: str, **how: Any) -> httpx2.Response:
        return self.http.post(path, **how)


@contextlib.contextmanager
def listening(served: Served, limits: Limits = LIMITS, rules: Rules = RULES) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    at = server.bound("127.0.0.1", 0)
    at.listen()  # so that nobody is turned away before the thread has begun
    running = uvicorn.Server(
        server.configured(app(served, ServerMetrics(), limits, rules), drain_s=1, request_s=limits.request_s)
    )
    thread = threading.Thread(target=running.run, kwargs={"sockets": [at]}, daemon=True)
    url = f"http://127.0.0.1:{at.getsockname()[1]}"
    thread.start()
    try:
        yield url
    finally:
        running.should_exit = True
        thread.join(30)


def scores(messages: Any, answers: Any) -> list[float]:
    """Stands in for a reward model: an answer is as good as it is long, and too long from 50 characters on."""
    return [float(len(a)) / 10 if len(a) < 50 else float("nan") for a in answers]
