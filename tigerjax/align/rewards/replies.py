"""The replies of a judge on disk, by the hash of the request. Each is there as soon as it has come."""

import json
import threading
from pathlib import Path

from tigerjax.align.rewards.requests import Reply
from tigerjax.files import log, own

AGAIN = "remove the line, and the judge is asked again"


class Replies:
    """A file of replies, each line a JSON object: {"request": hash, "reply", "tokens_in", "tokens_out"}."""

    def __init__(self, path: Path):
        """Reads what is there. A last line that was cut short is left out; DataError for another that is damaged."""
        self._known: dict[str, Reply] = {}
        self._log: log.Log | None = None
        self._path, self._lock = path, threading.Lock()
        # Before the first question is paid for: there must be room for its reply.
        path.parent.mkdir(parents=True, exist_ok=True)
        with own.fields(path, AGAIN):
            for line in log.records(path):
                reply = Reply(line["reply"], line["tokens_in"], line["tokens_out"])
                if [*map(type, reply)] != [str, int, int] or not isinstance(line["request"], str):
                    raise TypeError(f"a line is {str(line)[:60]}")
                self._known[line["request"]] = reply

    def get(self, request: str) -> Reply | None:
        """The reply to a request, by its hash."""
        return self._known.get(request)

    def add(self, request: str, reply: Reply) -> None:
        """Keeps a reply."""
        line = {"request": request, "reply": reply.text, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        with self._lock:
            if self._log is None:
                self._log = log.Log(self._path)
            self._log.write(json.dumps(line))
            self._known[request] = reply

    def close(self) -> None:
        """Returns when every reply is in the file."""
        if self._log is not None:
            self._log.close()
            self._log = None
