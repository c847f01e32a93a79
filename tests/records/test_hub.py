"""hf:// names, by the hub's own client: against a server on this machine, and without one."""

import http.server
import json
import threading

import pytest

from tigerjax import records
from tigerjax.errors import ConfigError, DataError
from tigerjax.records.hub import hub_files

FILES = {"zh/a.jsonl": b'{"text": "hi"}\n', "zh/b.jsonl": b'{"text": "ho"}\n', "README.md": b"# tigers\n"}
SHA = "c" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Knows one data set, tiger/books, as the hub answers its client."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = path.partition(f"/resolve/{SHA}/")[2]
        headers = {"ETag": f'"{name}"', "X-Repo-Commit": SHA}
        if path == "/api/datasets/tiger/books/revision/main":
            data = json.dumps({"id": "tiger/books", "sha": SHA, "siblings": []}).encode()
        elif path == f"/api/datasets/tiger/books/tree/{SHA}":
            listed = [{"type": "file", "oid": "1" * 40, "size": len(d), "path": n} for n, d in FILES.items()]
            data = json.dumps(listed).encode()
        elif name in FILES:
            data = FILES[name]
        else:
            data, headers = b"", {"X-Error-Code": "RepoNotFound"}
        self.send_response(200 if data else 404)
        for header, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", at)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", at + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def test_files_of_the_hub_are_read_as_files(hub):
    for name in (
        "hf://datasets/tiger/books/zh/*.jsonl",
        "hf:/datasets/tiger/books",
        "hf://datasets/tiger/books@main/zh/*",
    ):
        assert [record["text"] for record in records.documents(name)] == ["hi", "ho"], name
    assert [path.name for path in records.expand("hf://datasets/tiger/books/zh/b.jsonl")] == ["b.jsonl"]
    with pytest.raises(DataError, match=r"none\.csv: no such file in the data set"):
        hub_files("hf://datasets/tiger/books/none.csv")
    with pytest.raises(DataError, match=r"hf://datasets/tiger/none: the hub does not give it \([^\n]*404"):
        hub_files("hf://datasets/tiger/none")


@pytest.mark.parametrize(
    "name", ["hf://tiger/books", "hf://datasets/tiger", "hf://", "hf://models/a/b", "hf://datasets/a b/c"]
)
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match="names no files of the hub"):
        hub_files(name)


def test_without_a_hub_there_is_one_line(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"the hub does not give it \([^\n]*\); correct the name"):
        hub_files("hf://datasets/tiger/books")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install huggingface_hub"):
        hub_files("hf://datasets/tiger/books")
