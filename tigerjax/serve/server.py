"""The server's process: its socket, its signals, and how it ends.

SIGTERM and Ctrl-C end it in order: no new requests are taken, those that run are finished for up to `drain_s` seconds,
and the exit code is 0. A second signal ends it at once.
"""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from tigerjax.errors import ConfigError
from tigerjax.serve.refused import Refused
from tigerjax.serve.responses import dumped

LOOK_S = 0.1
"""A second signal is seen so soon."""
GIVE_UP_S = 10.0
"""A process that is still there so long after the second signal is stuck, and is ended."""
BACKLOG = 2048  # connections that wait to be accepted
SIGNALS = (signal.SIGTERM, signal.SIGINT)
TOO_SLOW = "the head of the request did not arrive in time; send it faster"
NO_HTTP = "this is no HTTP/1.1 request; send one, without TLS"


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server at the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, at which nobody else listens. Nobody can connect before `serve`, so that who waits for
    the server sees when it is ready. ConfigError, in one line, where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host} is no address of this machine ({error}); give one, or 127.0.0.1") from error
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise _no_port(host, port, error) from error
    made.setblocking(False)
    return made


def _no_port(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} of {host} is taken by another program; give another --port")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ConfigError(f"cannot listen at port {port} of {host}: {reason}; give another --port or --host")


def serve(app: ASGIApp, at: socket.socket, *, drain_s: float, request_s: float, ready: Callable[[], Any]) -> None:
    """Answers requests until a signal comes. `ready` is called once the socket is served.

    ConfigError where another program has begun to listen there.
    """
    try:
        at.listen(BACKLOG)
    except OSError as error:  # of two programs that were started together
        host, port = at.getsockname()[:2]
        raise _no_port(host, port, error) from error
    asyncio.run(_Server(configured(app, drain_s=drain_s, request_s=request_s), ready).serve(sockets=[at]))


def configured(app: ASGIApp, *, drain_s: float, request_s: float) -> uvicorn.Config:
    """How uvicorn serves the application."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what fails is logged by guard.Guard
    return uvicorn.Config(
        app,
        http=type("Protocol", (_Protocol,), {"request_s": request_s}),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        backlog=BACKLOG,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(drain_s),
    )


class _Server(uvicorn.Server):
    """Uvicorn's server. It raises no signal again when it has ended in order, so that the exit code is 0."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], Any]):
        super().__init__(config)
        self._ready = ready
        # Should the event loop be stuck, nobody looks at force_exit.
        self._last = threading.Timer(GIVE_UP_S, os._exit, (1,))
        self._last.daemon = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.ensure_future(super().shutdown(sockets))
        while not ending.done() and not self.force_exit:
            await asyncio.wait([ending], timeout=LOOK_S)
        # From Python 3.12 on a server waits for all connections, also after a second signal: these are given up.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await ending

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        try:
            yield
        finally:
            self._last.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        if self.should_exit and not self.force_exit:
            self._last.start()
        self.force_exit = self.should_exit
        self.should_exit = True


class _Protocol(H11Protocol):
    """HTTP/1.1 of a client who has `request_s` seconds to send the head of a request."""

    request_s: float

    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._patience is None and self.conn.trailing_data[0]:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._patience = self.loop.call_later(self.request_s, self._end)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _end(self) -> None:
        self._patience = None
        if not self.transport.is_closing() and self.conn.our_state is h11.IDLE:
            self._refuse(b"408 Request Timeout", Refused(408, TOO_SLOW))

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what h11 cannot read."""
        self._refuse(b"400 Bad Request", Refused(400, NO_HTTP))

    def _refuse(self, status: bytes, refused: Refused) -> None:
        said = dumped(refused.body())
        about = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close" % len(said)
        self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + about + b"\r\n\r\n" + said)
        self.transport.close()
