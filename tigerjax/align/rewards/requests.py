"""One question to an OpenAI-compatible API, asked again while the API is down, busy or answers with broken JSON."""

import contextlib
import datetime
import email.utils
import http.client
import json
import random
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

from tigerjax.align.rewards.config import CHAT, JudgeConfig
from tigerjax.errors import ConfigError, JudgeError
from tigerjax.files import foreign
from tigerjax.processes import hosts
from tigerjax.terminal import one_line

PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
"""HTTP statuses after which the same request may be answered."""
MOST_BYTES = 8_000_000  # of a reply
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 20.0  # between two tries, where the API does not ask for more
SAID = 200  # characters of an API's own words in a message
CUT = "[cut; finish_reason: length]"
"""Ends a reply that an API cut off, such as at max_tokens: a number right before it may be the beginning of one."""


class Reply(NamedTuple):
    """What a judge wrote, and how many tokens it read and wrote by its own count; 0 where it does not say so."""

    text: str  # where it wrote nothing the reason in brackets, without a digit and so without a score; or ends in CUT
    tokens_in: int
    tokens_out: int


class JudgeRefusal(ConfigError):
    """An API refuses a request, with this HTTP status."""

    def __init__(self, text: str, what: str, status: int) -> None:
        super().__init__(text)
        self.what, self.status = what, status


class _Trouble(Exception):
    """One try failed. `wait_s` is how long the API asks to wait; 0 where it does not say so."""

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would send the key to another address."""

    def redirect_request(self, *given: Any) -> None:
        return None


class _Timed(urllib.request.AbstractHTTPHandler):
    """Gives up a reply whose head is not there within the timeout, which is one of each read for Python's own."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **more: Any) -> http.client.HTTPResponse:
        made: list[http.client.HTTPConnection] = []

        def connection(host: str, **given: Any) -> Any:
            made.append(http_class(host, **given))
            return made[0]

        def cut() -> None:
            if made and (at := made[0].sock) is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(at, socket.SHUT_RDWR)  # also of TLS, whose own object is left to its thread

        timer = threading.Timer(req.timeout or 0.0, cut)
        timer.daemon = True
        timer.start()
        try:
            return super().do_open(connection, req, **more)
        finally:
            timer.cancel()


class _TimedHttp(_Timed, urllib.request.HTTPHandler):
    pass


class _TimedHttps(_Timed, urllib.request.HTTPSHandler):
    pass


class Api:
    """The API of a judge. Several threads may ask it at the same time."""

    def __init__(self, config: JudgeConfig, key: str | None, *, patience_s: float):
        """`patience_s` is how long a question is asked again; with 0 it is asked once."""
        self._config, self._key, self._patience_s = config, key, patience_s
        self._url = config.url.rstrip("/") + CHAT
        self._opener = urllib.request.build_opener(_NoRedirect, _TimedHttp, _TimedHttps)
        self._closed, self._lock, self._waiting = threading.Event(), threading.Lock(), False
        self.calls = self.tokens_in = self.tokens_out = 0
        """Requests that were sent so far, and tokens of the replies to them."""

    def close(self) -> None:
        """Ends what is waiting for its next try."""
        self._closed.set()

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """The reply to a request.

        Raises JudgeError when there is none within the patience, ConfigError for a request that the API refuses.
        """
        began, tries, data = time.monotonic(), 0, json.dumps(body).encode()
        while True:
            if self._closed.is_set():  # nobody would read the reply
                raise JudgeError(f"judge {self._config.url} is not asked any more; start the same command again")
            tries += 1
            try:
                reply = self._once(data)
            except _Trouble as trouble:
                random_s = random.uniform(0.5, 1) * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(tries, 20))
                wait_s = max(random_s, trouble.wait_s)
                spent_s = time.monotonic() - began
                if spent_s + wait_s > self._patience_s:
                    asked = f", and the API asks to wait {trouble.wait_s:,.0f} s" if trouble.wait_s > random_s else ""
                    raise JudgeError(
                        f"judge {self._config.url}: {trouble}{asked} ({tries} tries in {spent_s:.0f} s, patience_s="
                        f"{self._patience_s:g}); the replies so far are kept: start the same command again when it"
                        " answers"
                    ) from trouble
                self._say(trouble, wait_s)
                if self._closed.wait(wait_s):
                    raise JudgeError(f"judge {self._config.url}: {trouble}; start the same command again") from trouble
            else:
                with self._lock:
                    self._waiting = False
                    self.tokens_in += reply.tokens_in
                    self.tokens_out += reply.tokens_out
                return reply

    def _say(self, trouble: _Trouble, wait_s: float) -> None:
        """Says once that the judge is waited for, until it has answered again."""
        with self._lock:
            first, self._waiting = not self._waiting, True
        if first:
            again = f"asked again in {wait_s:.0f} s, for {self._patience_s:.0f} s in all"
            hosts.say(f"tigerjax: note: judge {self._config.url}: {trouble}; {again}")

    def _once(self, data: bytes) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "tigerjax"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        with self._lock:
            self.calls += 1
        deadline = time.monotonic() + self._config.timeout_s
        try:
            request = urllib.request.Request(self._url, data, headers, method="POST")
            with self._opener.open(request, timeout=self._config.timeout_s) as answer:
                data = _whole(answer, deadline)
            return self._reply(data)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except (OSError, http.client.HTTPException) as error:  # URLError and TimeoutError are OSErrors
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError) or time.monotonic() >= deadline:
                raise _Trouble(f"no reply within timeout_s={self._config.timeout_s:g}") from error
            raise _Trouble(self._shown(f"no connection: {type(reason).__name__} {reason}")) from error

    def _reply(self, data: bytes) -> Reply:
        try:
            return _reply(data)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            what = _message(data) or "nothing"  # which is paid for each time, so it must be seen
            raise _Trouble(
                self._shown(f"a reply that is not JSON with choices[0].message.content, but: {what}")
            ) from error

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """What the status of a reply means: a _Trouble that may pass, or an error of the settings."""
        try:
            reason = _message(error.read(MOST_BYTES))
        except (OSError, http.client.HTTPException):
            reason = ""
        what = self._shown(f"HTTP {error.code}{f': {reason}' if reason else ''}")
        if error.code in PASSING:
            return _Trouble(what, _retry_after(error.headers.get("Retry-After")))
        if 300 <= error.code < 400:
            to = self._shown(error.headers.get("Location") or "nowhere")
            return ConfigError(f"judge {self._config.url} redirects to {to}; give that address as url")
        advice = "check key_file or key_env" if error.code in (401, 403) else "check url, model and body"
        return JudgeRefusal(f"judge {self._config.url} refuses the request: {what}; {advice}", what, error.code)

    def _shown(self, text: str) -> str:
        """A text of others on one line, cut, and without the key."""
        return one_line(text if self._key is None else text.replace(self._key, "[key]"))[:SAID]


def _whole(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    """The bytes of a reply, which must all be there by `deadline`: the timeout of a socket is one of each read."""
    got, size = list[bytes](), 0
    while part := answer.read1(65_536):
        got.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > MOST_BYTES:
            raise _Trouble(f"a reply of more than {MOST_BYTES:,} bytes")
    if answer.length:  # what Content-Length promised and did not come
        raise _Trouble("a reply that ends in the middle")
    return b"".join(got)


def _reply(data: bytes) -> Reply:
    """The reply in the JSON of an API; an error of Python's for anything else."""
    value = foreign.loads(data)
    choice = value["choices"][0]
    text, why = _text(choice["message"]["content"]), choice.get("finish_reason")
    if text is None and isinstance(why, str):
        # Such as content_filter, or length where a model thinks for longer than max_tokens.
        text = f"[no text; finish_reason: {re.sub('[^a-z_]', '?', why[:40])}]"
    if not isinstance(text, str):
        raise TypeError(type(text))
    usage = value.get("usage") or {}
    counts = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    return Reply(f"{text}{CUT}" if why == "length" and text else text, *counts)


def _text(content: Any) -> Any:
    """The text of a message. Some APIs give a list of parts: those of type `text` are it, and thoughts are not."""
    if not isinstance(content, list):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text") or None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _message(data: bytes) -> str:
    """The message in the JSON of an error, else its beginning."""
    try:
        value = foreign.loads(data)
        error = value.get("error", value)
        return str(error["message"] if isinstance(error, Mapping) else error) if error else ""
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return data.decode("utf-8", "replace")[:SAID].strip()


def _retry_after(value: str | None) -> float:
    """The seconds of a Retry-After header, which is a number or a date; 0 where there is none."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(value)
            seconds = (at - datetime.datetime.now(at.tzinfo or datetime.UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds) if seconds < 1e9 else 0.0
