"""The paths of the server, in OpenAI's forms, and the page at /."""

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tigerjax.serve.guard import Guard, Limits, Rules, body
from tigerjax.serve.metrics import ServerMetrics
from tigerjax.serve.refused import Refused
from tigerjax.serve.requests import ChatRequest, CompletionRequest, LabelRequest, ScoreRequest, read
from tigerjax.serve.responses import DONE, Choice, dumped, event
from tigerjax.serve.service import Served, Service, Work
from tigerjax.terminal import one_line, tell

PAGE = Path(__file__).with_name("page.html")
RESPONSES = "/v1/responses"
"""OpenAI's other path for conversations."""
NOT_SERVED = ("/v1/embeddings", RESPONSES, "/v1/audio/speech", "/v1/images/generations", "/v1/moderations")
"""Paths of OpenAI's that are refused by name."""
UNFINISHED = ", not finished"
"""What the log says of a stream that was cut: its client went away, the model failed, or the server ended."""
GONE = 499
"""The status, in logs and counts, of a request whose client went away."""


def app(served: Served, metrics: ServerMetrics, limits: Limits, rules: Rules) -> ASGIApp:
    """The server as an ASGI application, which counts what it does in `metrics`."""
    handlers = _Handlers(Service(served, metrics), limits)
    routes = [
        Route("/", handlers.page, methods=["GET"]),
        Route("/health", handlers.health, methods=["GET"]),
        Route("/metrics", handlers.metrics, methods=["GET"]),
        Route("/v1/models", handlers.models, methods=["GET"]),
        Route("/v1/models/{name:path}", handlers.model, methods=["GET"]),
        Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
        Route("/v1/completions", handlers.complete, methods=["POST"]),
        Route("/v1/score", handlers.score, methods=["POST"]),
        Route("/v1/labels", handlers.label, methods=["POST"]),
        *(Route(path, handlers.not_served, methods=["GET", "POST"]) for path in NOT_SERVED),
    ]
    paths = [route.path for route in routes if "{" not in route.path]
    return Guard(Router(routes, redirect_slashes=False), rules, paths=paths, metrics=metrics)


class _Handlers:
    def __init__(self, service: Service, limits: Limits):
        self.service, self._limits = service, limits
        self._page = PAGE.read_bytes()
        self._policy = policy(self._page.decode())

    async def page(self, request: Request) -> Response:
        headers = {
            "content-security-policy": self._policy,
            "cache-control": "no-cache",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        return Response(self._page, headers=headers, media_type="text/html")

    async def health(self, request: Request) -> Response:
        if (trouble := self.service.served.engine.trouble) is not None:
            raise Refused(503, trouble)
        return _json({"status": "ok", "model": self.service.served.name})

    async def metrics(self, request: Request) -> Response:
        figures = self.service.served.engine.figures()
        return Response(self.service.metrics.text(figures), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self.service.about()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.service.served.name:
            raise Refused(
                404,
                f"model {one_line(name)[:100]!r} is not served; there is {self.service.served.name!r}",
                param="model",
            )
        return _json(self.service.about())

    async def not_served(self, request: Request) -> Response:
        more = "; ask /v1/chat/completions" if request.url.path == RESPONSES else ", not embeddings, speech or images"
        raise Refused(404, f"{request.url.path} is not served: this server completes chats and texts{more}")

    async def chat(self, request: Request) -> Response:
        asked = read(ChatRequest, await body(request, self._limits))
        return await self._answer(request, asked, self.service.chat)

    async def complete(self, request: Request) -> Response:
        asked = read(CompletionRequest, await body(request, self._limits))
        return await self._answer(request, asked, self.service.complete)

    async def score(self, request: Request) -> Response:
        return _json(await self.service.score(read(ScoreRequest, await body(request, self._limits))))

    async def label(self, request: Request) -> Response:
        labels = self.service.served.labels
        if labels is None:
            raise Refused(404, "this server keeps no labels; start it with --labels FOLDER")
        asked = read(LabelRequest, await body(request, self._limits))
        line = labels.add(asked)
        self.service.metrics.label()
        return _json({"object": "label", "prompt_id": line["prompt_id"], "annotator": line["annotator"]})

    async def _answer(self, request: Request, asked: Any, start: Callable[[Any], Awaitable[Work]]) -> Response:
        work = await start(asked)
        if asked.stream:
            counts = asked.stream_options is not None and asked.stream_options.include_usage
            return _Streamed(self._events(request, asked, work, counts), work)
        try:
            whole = await _unless_gone(request, self._whole(work))
        finally:
            work.drawing.cancel()
        if whole is None:
            return Response(status_code=GONE)
        self._ended(request, asked, work, whole["choices"])
        return _json(whole)

    async def _whole(self, work: Work) -> dict[str, Any]:
        choices = [Choice() for _ in range(work.choices)]
        before = 0
        async for news in work.drawing.news():
            choices[news.choice].add(news)
            before = self._count(work, before)
        return work.writer.whole(choices, work.prompt_tokens, work.drawing.tokens)

    async def _events(self, request: Request, asked: Any, work: Work, counts: bool) -> AsyncIterator[bytes]:
        empty = {"usage": None} if counts else {}
        choices = [Choice() for _ in range(work.choices)] if self.service.served.log_prompts else []
        before = 0
        request.state.about = UNFINISHED  # until `_ended`: the status of a stream is 200, however it ends
        try:
            for chunk in work.writer.opening(work.choices):
                yield event(chunk | empty)
            async for news in work.drawing.news():
                before = self._count(work, before)
                if choices:
                    choices[news.choice].add(news)
                for chunk in work.writer.chunks(news):
                    yield event(chunk | empty)
        except Refused as refused:
            yield event(refused.body())
            return
        self._ended(request, asked, work, [{"text": choice.text} for choice in choices])
        if counts:
            yield event(work.writer.counts(work.prompt_tokens, work.drawing.tokens))
        yield DONE

    def _count(self, work: Work, before: int) -> int:
        now = work.drawing.tokens
        if now > before:
            self.service.metrics.answer(now - before)
        return now

    def _ended(self, request: Request, asked: Any, work: Work, choices: list[dict[str, Any]]) -> None:
        """Adds the counts to the request's line of the log, and logs its texts where that is asked for."""
        request.state.about = f", {work.prompt_tokens} tokens in, {work.drawing.tokens} out"
        if self.service.served.log_prompts:
            texts = {"request": asked.model_dump(exclude_defaults=True), "choices": choices}
            tell(json.dumps(texts, ensure_ascii=False))


class _Streamed(StreamingResponse):
    """A stream of events, which frees its slots when the client goes away."""

    def __init__(self, events: AsyncIterator[bytes], work: Work):
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.drawing.cancel()


def policy(page: str) -> str:
    """The content security policy of the page: its own script and style, by their hashes, and nothing else."""
    hashes = {
        kind: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        )
        for kind in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    """What the work gives; None when the client goes away before."""
    answer = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        for task in (answer, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Refused):
            await asyncio.gather(answer, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(value: Any) -> Response:
    return Response(dumped(value), media_type="application/json")
