"""An OpenAI-compatible API on loopback that replies as a test says, and remembers what it was asked."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Responder = Callable[[int, dict[str, Any]], "Sent"]
"""(number of the request, from 1; its JSON) -> what is sent back."""


class Sent:
    """A reply: the text of the judge, or raw bytes with another status."""

    def __init__(
        self,
        text: str = "",
        *,
        status: int = 200,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        after_s: float = 0.0,
        promised: int | None = None,
        drips: int = 0,
    ):
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        whole = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}
        self.status, self.headers, self.after_s = status, headers or {}, after_s
        self.raw = json.dumps(whole).encode() if raw is None else raw
        self.drips = drips  # bytes that come before the head, each 0.1 s after the last
        self.promised = len(self.raw) if promised is None else promised


class Fake:
    """What was asked, and how to reply."""

    def __init__(self) -> None:
        self.respond: Responder = lambda number, body: Sent("Score: 5")
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    @property
    def contents(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.asked]


@contextlib.contextmanager
def listening() -> Iterator[Fake]:
    fake, lock = Fake(), threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                fake.asked.append(body)
                fake.headers.append(dict(self.headers))
                number = len(fake.asked)
            sent = fake.respond(number, body)
            time.sleep(sent.after_s)
            with contextlib.suppress(OSError):  # who asked may have gone
                for _ in range(sent.drips):
                    self.wfile.write(b"H")
                    time.sleep(0.1)
                self.send_response(sent.status)
                for name, value in sent.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(sent.promised))
                self.end_headers()
                self.wfile.write(sent.raw)

        def log_message(self, *given: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
