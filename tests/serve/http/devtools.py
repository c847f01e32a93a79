"""A headless browser that a test works with: it types, clicks, waits and looks. It can reach 127.0.0.1 only.

The browser is driven by Chromium's DevTools protocol over two pipes: JSON messages, each with a zero byte at its end.
"""

import base64
import contextlib
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headless

LONG_S = 60  # a wait that ends only when something is wrong


class Page:
    """A tab of the browser."""

    def __init__(self, send: int, receive: int):
        self._send, self._receive, self._buffer = send, receive, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.asked: list[str] = []
        """The addresses that the page has requested."""
        self.complaints: list[str] = []
        """What the page's scripts and the browser complained of."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            came = self._next()
            if came.get("id") == number:
                assert "error" not in came, came
                return came["result"]

    def open(self, url: str, *, width: int, dark: bool = False, language: str = "en") -> None:
        """Goes to a page and waits until it has loaded."""
        size = {"width": width, "height": 844 if width < 640 else 900, "deviceScaleFactor": 1, "mobile": width < 640}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        agent = self.run("navigator.userAgent")
        self.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a script in the page."""
        made = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    def until(self, script: str) -> None:
        """Waits until a script gives true."""
        end = time.monotonic() + LONG_S
        while not self.run(script):
            assert time.monotonic() < end, (script, self.run("document.body.innerText"), self.complaints)
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Clicks on the first element of this kind once it is there, and where a finger could: it is seen, and nothing
        lies over it."""
        self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        place = self.run(
            f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center"}});
            const b = e.getBoundingClientRect();
            const [x, y] = [b.x + b.width / 2, b.y + b.height / 2];
            return {{x, y, free: e.contains(document.elementFromPoint(x, y))}}; }})()"""
        )
        assert place["free"], f"{selector} is covered"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place["x"], y=place["y"], button="left", clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Replaces the text of a field, as by hand."""
        self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        self.call("Input.insertText", text=text)
        self.run(f"document.querySelector({json.dumps(selector)}).dispatchEvent(new Event('change'))")

    def picture(self, path: Path) -> None:
        """Writes what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._receive, 1 << 16)
            assert more, "the browser has ended"
            self._buffer += more
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(raw)
        given = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(given["exceptionDetails"])[:500])
        elif message.get("method") == "Log.entryAdded":
            self.complaints.append(given["entry"]["text"])
        return message


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A tab of a browser that ends with the block."""
    assert headless.CHROMIUM
    (to_read, to_send), (to_receive, to_write) = os.pipe(), os.pipe()
    command = [headless.CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank"]
    # The browser reads commands from descriptor 3 and writes to 4, whatever ours are called.
    shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "browser", *command]
    with subprocess.Popen(shell, pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL) as running:
        os.close(to_read)
        os.close(to_write)
        try:
            yield Page(to_send, to_receive)
        finally:
            running.terminate()
            running.wait(30)
            os.close(to_send)
            os.close(to_receive)
