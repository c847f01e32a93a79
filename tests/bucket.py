"""A stand-in for Google Cloud Storage on loopback: the part of its JSON API that gcsfs and TensorStore use.

Objects are kept in memory, with generations, conditions, ranges and listings as the service documents them
(https://cloud.google.com/storage/docs/json_api/v1). `refuse` makes it answer with an error, `asked` says what came.

With TIGERJAX_GCS=http://127.0.0.1:PORT in the environment it keeps nothing itself, and passes each request on to the
server there, one that others wrote (tests/files/test_foreign_server.py).
"""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import foreign_bucket


@dataclasses.dataclass(frozen=True)
class Object:
    data: bytes
    generation: int


class Bucket:
    """All objects of the server by "BUCKET/NAME"."""

    def __init__(self, server: str | None = None) -> None:
        self.server = server  # the address of a server of others that answers in place of this one
        self.objects: MutableMapping[str, Object] = {} if server is None else foreign_bucket.Objects(server, Object)
        self.asked: list[tuple[str, str]] = []  # (method, BUCKET/NAME) of every request for an object
        self.refuse: Callable[[str, str], int | None] = lambda method, name: None
        self.lock, self.generations, self.uploads = threading.Lock(), itertools.count(1), dict[str, tuple[str, bytes]]()

    def put(self, name: str, data: bytes) -> Object:
        with self.lock:
            self.objects[name] = Object(data, next(self.generations))
        return self.objects[name]

    def names(self, prefix: str) -> list[str]:
        """Below a prefix, without it."""
        return sorted(name.removeprefix(prefix) for name in self.objects if name.startswith(prefix))


@functools.cache
def _started() -> tuple[Bucket, str]:
    """The server and its address, one a process: TensorStore asks the environment for it only once."""
    bucket = Bucket(os.environ.get("TIGERJAX_GCS"))
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": bucket}))
    threading.Thread(target=server.serve_forever, name="bucket", daemon=True).start()
    return bucket, f"http://127.0.0.1:{server.server_address[1]}"


@contextlib.contextmanager
def served() -> Iterator[Bucket]:
    """The server, empty and willing, and the environment by which its clients find it."""
    bucket, address = _started()
    bucket.objects.clear()
    bucket.asked.clear()
    bucket.refuse = lambda method, name: None
    environment = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
        "NO_GCE_CHECK": "true",
    }
    with mock.patch.dict(os.environ, environment):
        yield bucket


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients hang up when they have what they want
            super().handle_error(request, address)


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # an answer in one packet, at once

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _answer(self) -> None:
        split = urlsplit(self.path)
        asked = {name: values[-1] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        body = sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in split.path.strip("/").split("/")]
        at = parts.index("b") + 1 if "b" in parts else 0
        if not at:
            return self._send(501, b"")
        bucket, rest = parts[at], parts[at + 1 :]
        if asked.get("uploadType") == "multipart":
            facts, body = _two_parts(self.headers, body)
            asked = {"name": facts["name"]} | asked
        name = "/".join([bucket, *rest[1:2]]) if len(rest) > 1 else f"{bucket}/{asked.get('name', '')}"
        self.bucket.asked.append((self.command, name))
        if (code := self.bucket.refuse(self.command, name)) is not None:
            return self._send(code, json.dumps({"error": {"code": code, "message": "refused by the test"}}).encode())
        if self.bucket.server is not None:
            return self._send(
                *foreign_bucket.forwarded(self.bucket.server, self.command, self.path, self.headers, sent)
            )
        if parts[0] == "upload":
            return self._upload(bucket, asked, body)
        if not rest:
            return self._send_json({"kind": "storage#bucket", "name": bucket, "location": "TEST"})
        if len(rest) == 1:
            return self._send_json(self._listing(bucket, asked))
        found = self.bucket.objects.get(name)
        if found is None:
            return self._send(404, json.dumps({"error": {"code": 404, "message": f"No such object: {name}"}}).encode())
        if refused := _refused(found, asked):
            return self._send(refused, b"")
        if self.command == "DELETE":
            with self.bucket.lock:
                self.bucket.objects.pop(name, None)
            return self._send(204, b"")
        if rest[2:3] == ["moveTo"]:
            moved = self.bucket.put(f"{bucket}/{rest[4]}", found.data)
            self.bucket.objects.pop(name, None)
            return self._send_json(_resource(f"{bucket}/{rest[4]}", moved))
        if rest[2:3] == ["rewriteTo"]:
            target = f"{rest[4]}/{rest[6]}"
            resource = _resource(target, self.bucket.put(target, found.data))
            return self._send_json({"kind": "storage#rewriteResponse", "done": True, "resource": resource})
        if asked.get("alt") == "media":
            return self._media(found)
        return self._send_json(_resource(name, found))

    def _listing(self, bucket: str, asked: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        start, end = asked.get("startOffset", ""), asked.get("endOffset")
        items, prefixes = [], set()
        for name in self.bucket.names(f"{bucket}/"):
            if not name.startswith(prefix) or name < start or (end is not None and name >= end):
                continue
            below = name.removeprefix(prefix)
            if delimiter and delimiter in below:
                prefixes.add(prefix + below.split(delimiter)[0] + delimiter)
            elif (found := self.bucket.objects.get(f"{bucket}/{name}")) is not None:
                items.append(_resource(f"{bucket}/{name}", found))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def _upload(self, bucket: str, asked: dict[str, str], body: bytes) -> None:
        kind, name = asked["uploadType"], asked.get("name", "")
        if kind == "resumable" and "upload_id" in asked:
            return self._part(asked["upload_id"], body)
        if kind == "resumable":
            name = json.loads(body or b"{}").get("name", name)
            session = str(next(self.bucket.generations))
            self.bucket.uploads[session] = (f"{bucket}/{name}", b"")
            base = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o"
            return self._send(200, b"", {"Location": f"{base}?uploadType=resumable&upload_id={session}"})
        if refused := _refused(self.bucket.objects.get(f"{bucket}/{name}"), asked):
            return self._send(refused, b"")
        self._send_json(_resource(f"{bucket}/{name}", self.bucket.put(f"{bucket}/{name}", body)))

    def _part(self, session: str, body: bytes) -> None:
        name, before = self.bucket.uploads[session]
        data = before + body
        self.bucket.uploads[session] = (name, data)
        if not re.fullmatch(rf"bytes (\d+-{len(data) - 1}|\*)/{len(data)}", self.headers.get("Content-Range", "")):
            return self._send(308, b"", {"Range": f"bytes=0-{len(data) - 1}"})
        self._send_json(_resource(name, self.bucket.put(name, data)))

    def _media(self, found: Object) -> None:
        facts = {"x-goog-generation": str(found.generation), "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(200, found.data, facts)
        first, last = int(wanted[1]), min(int(wanted[2] or len(found.data) - 1), len(found.data) - 1)
        if first >= len(found.data):
            return self._send(416, b"")
        facts["Content-Range"] = f"bytes {first}-{last}/{len(found.data)}"
        self._send(206, found.data[first : last + 1], facts)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _refused(found: Object | None, asked: dict[str, str]) -> int | None:
    """The code of a condition that does not hold."""
    generation = 0 if found is None else found.generation
    if "ifGenerationMatch" in asked and int(asked["ifGenerationMatch"]) != generation:
        return 412
    if "ifGenerationNotMatch" in asked and int(asked["ifGenerationNotMatch"]) == generation:
        return 304
    return None


def _resource(name: str, found: Object) -> dict[str, Any]:
    bucket, _, name = name.partition("/")
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{found.generation}",
        "bucket": bucket,
        "name": name,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "metageneration": "1",
        "md5Hash": base64.b64encode(hashlib.md5(found.data).digest()).decode(),
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "timeCreated": "2026-01-01T00:00:00.000Z",
        "updated": "2026-01-01T00:00:00.000Z",
    }


def _two_parts(headers: Message, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the data of a multipart/related body; lines end in CRLF or, from gcsfs, in LF."""
    boundary = headers.get_param("boundary")
    assert isinstance(boundary, str)
    marker = b"--" + boundary.encode()
    line = b"\r\n" if body.startswith(marker + b"\r\n") else b"\n"
    _, first, rest = body.split(marker + line, 2)
    data = rest.rpartition(line + marker + b"--")[0]
    return json.loads(first.partition(line + line)[2]), data.partition(line + line)[2]
