"""How the server's process ends when an answer is running that never comes to its end."""

import asyncio
import os
import signal
import socket
import threading

import pytest

from tigerjax.errors import ConfigError
from tigerjax.serve import server


async def endless(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"so far", "more_body": True})
    await asyncio.Event().wait()


@pytest.mark.parametrize(("drain_s", "signals"), [(600, 2), (1, 1)])
def test_a_second_signal_or_the_end_of_its_patience_ends_it(drain_s, signals):
    at = server.bound("127.0.0.1", 0)
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def client() -> None:
        with socket.create_connection(at.getsockname()) as made:
            made.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            while b"so far" not in b"".join(seen):
                seen.append(made.recv(4096))
            for number in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
                if number + 1 < signals:
                    made.settimeout(1)
                    with pytest.raises(TimeoutError):  # the first signal hangs up on nobody
                        made.recv(4096)
            made.settimeout(60)
            while made.recv(4096):
                pass
            seen.append(b"ended")

    thread = threading.Thread(target=client)
    server.serve(endless, at, drain_s=drain_s, request_s=60, ready=thread.start)
    thread.join(30)  # a client alone would wait for longer
    assert seen[-1] == b"ended" and signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_ends_a_process_whose_loop_is_stuck(monkeypatch):
    at, ended = server.bound("127.0.0.1", 0), threading.Event()
    codes = []
    monkeypatch.setattr(server, "GIVE_UP_S", 0.05)
    monkeypatch.setattr(server.os, "_exit", lambda code: (codes.append(code), ended.set()))

    async def stuck(scope, receive, send):
        for number in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert ended.wait(0.3) == bool(number), "the first signal gives it time"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def client() -> None:
        with socket.create_connection(at.getsockname(), timeout=60) as made:
            made.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            while made.recv(4096):
                pass

    thread = threading.Thread(target=client)
    server.serve(stuck, at, drain_s=60, request_s=60, ready=thread.start)
    thread.join(60)
    assert codes == [1]


def test_of_two_servers_at_one_port_the_second_is_told_even_when_both_began_before_either_listened():
    first, second = server.bound("127.0.0.1", 0), None
    try:
        port = first.getsockname()[1]
        second = server.bound("127.0.0.1", port)
        first.listen()
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken by another program"):
            server.serve(endless, second, drain_s=1, request_s=60, ready=lambda: None)
    finally:
        first.close()
        if second is not None:
            second.close()


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("127.5.5.5", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_what_is_loopback(host, is_local):
    assert server.is_loopback(host) == is_local
