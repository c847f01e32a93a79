"""`tigerjax align queue` and `import` with a Label Studio project, and with the real server (slow)."""

import contextlib
import http.cookiejar
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_label_studio import annotation, ranked, result
from tiny_project import align, build

VERSION = "1.23.2"
START_S, INSTALL_S = 180, 1200
ANN, BOB = "ann@example.org", "bob@example.org"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("align"))


def queue_of(project: Path, name: str) -> Any:
    return json.loads((project / "rounds" / "01" / "queue" / name).read_text(encoding="utf-8"))


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_an_export_and_a_label_file_are_imported_together_and_a_wrong_export_leaves_no_trace(project, tmp_path, capfd):
    tasks = queue_of(project, "label_studio.json")
    edited = next(i for i, t in enumerate(tasks) if "edit" in t["data"]["purpose"])
    assert len(tasks) == 2
    said = [ranked("CA", "B"), result("base", ["D"]), result("edit", ["better"])]
    for number, task in enumerate(tasks):
        task |= {"id": number, "annotations": [annotation(number, *said)] if number == edited else []}
    tasks[edited]["annotations"].append(annotation(9, ranked("C", "Q"), who=2))
    export, lines = tmp_path / "project-1-at-2026.json", tmp_path / "more.jsonl"
    export.write_text(json.dumps(tasks))
    align("import", project, "--labels", export, code=3)
    told = capfd.readouterr().err
    assert f"project-1-at-2026.json: task {edited}, annotation 9: `reject` names label 'Q'" in told
    assert not (project / "labels").exists() or not list((project / "labels" / "01").iterdir())

    tasks[edited]["annotations"].pop()
    export.write_text(json.dumps(tasks))
    align("import", project, "--labels", export, code=4)
    assert "1 of 2 rankings and 0 of 1 edits" in capfd.readouterr().err
    other = tasks[1 - edited]["data"]
    line = {name: other[name] for name in ("prompt_id", "batch_sha256")} | {"annotator": "ann", "ranking": [["B"]]}
    lines.write_text(json.dumps(line) + "\n")
    align("import", project, "--labels", lines, export)  # the export once more: it is known already
    assert sorted(p.name for p in (project / "labels" / "01").iterdir()) == [
        "0001-project-1-at-2026.json",
        "0002-more.jsonl",
    ]
    verdicts = {v["prompt_id"]: v for v in records(project / "rounds" / "01" / "labels" / "verdicts.jsonl")}
    assert verdicts[other["prompt_id"]]["annotators"] == ["ann"]
    assert verdicts[tasks[edited]["data"]["prompt_id"]]["edits"][0]["text"] == "better"
    align("rank", project)


class Client:
    """A person in a browser: signs in by the form (API tokens of the old kind are off) and calls with the cookie."""

    def __init__(self, url: str) -> None:
        self.url, self.jar = url, http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def enter(self, page: str, email: str) -> "Client":
        self.opener.open(f"{self.url}/user/{page}/").read()
        fields = {"csrfmiddlewaretoken": self._token(), "email": email, "password": f"secret of {email}"}
        data, at = urllib.parse.urlencode(fields).encode(), f"{self.url}/user/{page}/"
        self.opener.open(urllib.request.Request(at, data, {"Referer": at})).read()
        assert self.call("GET", "current-user/whoami")["email"] == email
        return self

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json", "X-CSRFToken": self._token(), "Referer": self.url}
        data = None if body is None else json.dumps(body).encode()
        try:
            with self.opener.open(
                urllib.request.Request(f"{self.url}/api/{path}", data, headers, method=method)
            ) as got:
                return json.loads(got.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:2000]!r}") from error

    def _token(self) -> str:
        return next((c.value or "" for c in self.jar if c.name == "csrftoken"), "")


def label_studio() -> Path:
    """The executable in $TIGERJAX_LABEL_STUDIO, a virtual environment, or in one that is made in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(os.environ.get("TIGERJAX_LABEL_STUDIO") or cache / "tigerjax" / f"label-studio-{VERSION}")
    program = place / "bin" / "label-studio"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        install = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        got = subprocess.run([*install, f"label-studio=={VERSION}"], capture_output=True, text=True, timeout=INSTALL_S)
        if "(from versions: none)" in got.stderr:
            pytest.skip(f"pip cannot reach a registry to install label-studio=={VERSION}: {got.stderr[-300:]}")
        assert got.returncode == 0, got.stderr
    return program


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of a fresh server on SQLite, with ANN as its first user."""
    program = label_studio()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder.mkdir()
    words = ["start", "--no-browser", "--internal-host", "127.0.0.1", "--port", port]
    words += ["--username", ANN, "--password", f"secret of {ANN}"]
    settings = {"LABEL_STUDIO_BASE_DATA_DIR": str(folder), "COLLECT_ANALYTICS": "false", "PYTHONPATH": ""}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [program, *words], env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health").read()
                break
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()[-2000:]
            time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(INSTALL_S + START_S + 300)
def test_a_real_server_takes_the_project_and_its_export_is_imported(tmp_path):
    project = build(tmp_path / "world")
    with server(tmp_path / "server") as url:
        ann, bob = Client(url).enter("login", ANN), Client(url).enter("signup", BOB)
        config = (project / "rounds" / "01" / "queue" / "label_studio.xml").read_text(encoding="utf-8")
        made = ann.call("POST", "projects/", {"title": "round 1", "label_config": config})
        tasks = queue_of(project, "label_studio.json")
        assert ann.call("POST", f"projects/{made['id']}/import", tasks)["task_count"] == len(tasks) == 2
        listed = ann.call("GET", f"tasks?project={made['id']}")["tasks"]
        assert [t["data"] for t in listed] == [t["data"] for t in tasks]

        def annotate(who: Client, task: dict[str, Any], *results: dict[str, Any], **more: Any) -> None:
            who.call("POST", f"tasks/{task['id']}/annotations/", {"result": results} | more)

        edited = next(t for t in listed if "edit" in t["data"]["purpose"])
        (plain,) = [t for t in listed if t is not edited]
        annotate(ann, edited, ranked("ABCD"), result("base", ["A"]), result("edit", ["better,\nin 两 lines"]))
        annotate(bob, edited, ranked("DCBA"), result("safety", 5), result("note", ["记下"]))
        annotate(ann, plain, ranked("C", "B"), *[result(axis, 3) for axis in ("factuality", "format")])
        annotate(bob, plain, was_cancelled=True)
        exported = ann.call("GET", f"projects/{made['id']}/export?exportType=JSON")
        short = ann.call("GET", f"projects/{made['id']}/export?exportType=JSON_MIN")
    export, wrong = tmp_path / "export.json", tmp_path / "min.json"
    export.write_text(json.dumps(exported))
    wrong.write_text(json.dumps(short))
    align("import", project, "--labels", wrong, code=3)
    align("import", project, "--labels", export)
    labels = project / "rounds" / "01" / "labels"
    key = {k["prompt_id"]: k["labels"] for k in records(project / "rounds" / "01" / "queue" / "key.jsonl")}
    verdicts = {v.pop("prompt_id"): v for v in records(labels / "verdicts.jsonl")}
    ours = {name: cids[0] for name, cids in key[plain["data"]["prompt_id"]].items()}
    one, other = ("label studio user 1", "label studio user 2")
    assert verdicts[plain["data"]["prompt_id"]] == {
        "ranking": [[ours["C"]], [ours[name] for name in "ABD"]],
        "rejected": [ours["B"]],
        "edits": [],
        "annotators": [one],
    }
    both = verdicts[edited["data"]["prompt_id"]]
    base = key[edited["data"]["prompt_id"]]["A"][0]
    assert both["edits"] == [{"annotator": one, "base": base, "text": "better,\nin 两 lines"}]
    assert both["annotators"] == [one, other] and len(both["ranking"]) == 1
    (apart,) = records(labels / "adjudicate.jsonl")
    assert (apart["prompt_id"], apart["kendall_tau"]) == (edited["data"]["prompt_id"], -1)
    align("rank", project)
