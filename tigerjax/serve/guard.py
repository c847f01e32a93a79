"""What stands in front of every request: who may ask, how much and how slowly he may send, and what is logged."""

import asyncio
import hmac
import time
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tigerjax.errors import near_miss
from tigerjax.serve.metrics import ServerMetrics
from tigerjax.serve.refused import Refused
from tigerjax.serve.responses import dumped
from tigerjax.terminal import one_line, tell

OPEN = ("/", "/health")
"""Paths that need no key. The page asks for the key itself."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
MOST_DROPPED = 64_000_000
"""So many bytes of a body that is too long are read, and dropped: a client that still sends sees no answer."""
OTHER = "other"
"""The path, in counts and logs, of a request to none of the server's."""


class Limits(NamedTuple):
    """How much a client may send."""

    body_bytes: int
    request_s: float
    """The time in which a request must have arrived whole."""


class Rules(NamedTuple):
    """Who may ask, and what is logged."""

    keys: tuple[str, ...]
    """Any of them lets a client in; none: everybody may ask."""
    loopback: bool
    """Whether only programs of this machine can reach the server."""
    log: bool
    """Whether each request gets a line on standard error."""


async def body(request: Request, limits: Limits) -> bytes:
    """The body of a request that holds JSON. Refused where it is too long, too slow, or of another type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"content-type {kind[:60] or 'is missing'!r}; send JSON as application/json")
    if (packed := request.headers.get("content-encoding", "identity").strip().lower()) != "identity":
        raise Refused(415, f"content-encoding {one_line(packed)[:60]!r}; send the JSON as it is")
    parts, length = [], 0
    try:
        async with asyncio.timeout(limits.request_s):
            async for part in request.stream():
                length += len(part)
                if length <= limits.body_bytes:
                    parts.append(part)
                elif length > limits.body_bytes + MOST_DROPPED:
                    break
    except TimeoutError:
        closing = {"connection": "close"}
        raise Refused(
            408, f"the body did not arrive within {limits.request_s:g} s; send it faster", headers=closing
        ) from None
    if length > limits.body_bytes:
        more = f"the body has more than {limits.body_bytes:,} bytes; send less"
        raise Refused(413, more, headers={"connection": "close"})
    return b"".join(parts)


def answered(refused: Refused) -> Response:
    """The HTTP answer to a request that is refused."""
    return Response(dumped(refused.body()), refused.status, refused.headers, "application/json")


class Guard:
    """An ASGI application around another one: it checks the key and the host, counts and logs requests, and answers
    what fails with one line."""

    def __init__(self, app: ASGIApp, rules: Rules, *, paths: Sequence[str], metrics: ServerMetrics):
        """`paths` are those of the server."""
        self._app, self._keys = app, [key.encode() for key in rules.keys]
        # A page of any web site may send requests to this machine under a name of its own. Without a key its name is
        # what gives it away.
        self._hosts = LOOPBACK if rules.loopback and not rules.keys else None
        self._paths, self._metrics, self._log = frozenset(paths), metrics, rules.log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.monotonic(), 0
        scope.setdefault("state", {})
        path = scope["path"] if scope["path"] in self._paths else OTHER

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            await self._app({**scope, "app": self}, receive, noting)
        except Refused as refused:
            await answered(refused)(scope, receive, noting)
        except HTTPException as error:  # of the router
            await answered(self._no_route(scope, error))(scope, receive, noting)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            tell("".join(traceback.format_exception(error)))
            if status:  # the answer has begun: the client sees that it ends early
                raise
            failed = Refused(500, "the server failed on this request; its log says why")
            await answered(failed)(scope, receive, noting)
        finally:
            self._metrics.request(path, status or 499)
            if self._log:
                seconds = time.monotonic() - began
                about = scope["state"].get("about", "")
                tell(f"{_client(scope)} {scope['method'][:10]} {path} {status or 499} {seconds:.3f} s{about}")

    def _no_route(self, scope: Scope, error: HTTPException) -> Refused:
        path = one_line(scope["path"])[:100]
        if error.status_code == 405:
            known = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            text = f"{path} does not know {one_line(scope['method'])[:10]}; send {known}"
            return Refused(405, text, headers={"allow": known})
        near = near_miss(path, self._paths) or "; there are /v1/chat/completions, /v1/completions and /v1/models"
        return Refused(404, f"there is no {path}{near}")

    def _check(self, scope: Scope) -> None:
        given = Request(scope).headers
        if self._hosts is not None:
            host = given.get("host")
            name = _name(host or "")
            if host is not None and name not in self._hosts:  # HTTP/1.0 may leave it out, and no browser does
                raise Refused(
                    403,
                    f"host {one_line(name)[:60]!r} is not this machine; start the server with a key to be asked from"
                    " elsewhere",
                )
        if not self._keys or scope["path"] in OPEN:
            return
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = header.partition(b" ")
        asked = key.strip() if kind.lower() == b"bearer" else b""
        # Every key is compared, each in constant time: the time says nothing about where they differ.
        if not any([hmac.compare_digest(asked, known) for known in self._keys]):
            raise Refused(
                401,
                "the API key is missing or wrong; send `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    host = host.strip().lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _client(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else "-"
