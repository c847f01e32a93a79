"""A server of Cloud Storage that others wrote, for `bucket.Bucket`: requests that are passed on, and its objects."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, MutableMapping
from email.message import Message
from typing import Any
from urllib.parse import quote, urlsplit

BUCKETS = ("bucket", "leases")
"""Those that the tests use."""
OF_A_CONNECTION = {"connection", "transfer-encoding", "content-length", "date", "server"}


def forwarded(server: str, method: str, path: str, headers: Message, body: bytes) -> tuple[int, bytes, dict[str, str]]:
    """(Code, body, headers) of what the server answers. Uploads in parts go on through this address, too."""
    address = urlsplit(server)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    try:
        sent = {name: value for name, value in headers.items() if name.lower() not in OF_A_CONNECTION}
        connection.request(method, path, body=body or None, headers=sent | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        found = answer.read()
        told = {name: value for name, value in answer.getheaders() if name.lower() not in OF_A_CONNECTION}
        return answer.status, found, told
    finally:
        connection.close()


class Objects(MutableMapping[str, Any]):
    """All objects of the server by "BUCKET/NAME", as they are now."""

    def __init__(self, server: str, made: Callable[[bytes, int], Any]):
        self._server, self._made = server, made
        for bucket in BUCKETS:
            self._asked("POST", "/storage/v1/b?project=tests", json.dumps({"name": bucket}).encode(), missing=409)

    def _asked(
        self, method: str, path: str, body: bytes | None = None, missing: int = 404
    ) -> tuple[bytes, Message] | None:
        request = urllib.request.Request(f"{self._server}{path}", data=body, method=method)
        request.add_header(
            "Content-Type", "application/json" if "/storage/v1/b?" in path else "application/octet-stream"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            if error.code != missing:
                raise
            return None

    def _path(self, name: str) -> str:
        bucket, _, below = name.partition("/")
        return f"/storage/v1/b/{bucket}/o/{quote(below, safe='')}"

    def __getitem__(self, name: str) -> Any:
        about = self._asked("GET", self._path(name))
        found = self._asked("GET", f"{self._path(name)}?alt=media")
        if about is None or found is None:
            raise KeyError(name)
        return self._made(found[0], int(json.loads(about[0])["generation"]))

    def __setitem__(self, name: str, value: Any) -> None:
        bucket, _, below = name.partition("/")
        query = f"uploadType=media&name={quote(below, safe='')}"
        self._asked("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", value.data)

    def __delitem__(self, name: str) -> None:
        if self._asked("DELETE", self._path(name)) is None:
            raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        for bucket in BUCKETS:
            page = ""
            while True:
                listed = self._asked("GET", f"/storage/v1/b/{bucket}/o?maxResults=1000{page}")
                found = json.loads(listed[0]) if listed is not None else {}
                yield from [f"{bucket}/{item['name']}" for item in found.get("items", ())]
                if not (token := found.get("nextPageToken")):
                    break
                page = f"&pageToken={quote(token)}"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        for name in list(self):
            self.pop(name, None)
