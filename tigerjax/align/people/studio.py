"""A project of Label Studio for each of a team, through its HTTP API: push brings the questions, pull fetches labels.

The community edition cannot assign tasks, so each person has a project of their own, named by round, person and batch.
By this name it is found again; nothing about the server is kept in our folders. A label is whoever's signed it, also in
another one's project.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align import server_address
from tigerjax.align.people import label_studio
from tigerjax.errors import ConfigError, LabelStudioError
from tigerjax.files import foreign
from tigerjax.terminal import one_line

TOKEN_ENV = "LABEL_STUDIO_API_KEY"
TIMEOUT_S = 60.0
PAGE = 100  # tasks or projects of one answer
SAID = 200  # characters of the server's own words in a message


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would send the token to another address."""

    def redirect_request(self, *given: Any) -> None:
        return None


class Server:
    """A Label Studio server. `token` is a personal access token, or one of the old kind where the server takes it."""

    def __init__(self, url: str, token: str):
        """ConfigError for an address that is none."""
        parts = server_address.split(url)
        if parts is None or parts.username is not None or parts.password is not None:
            raise ConfigError(
                f"--url {one_line(url)} is no address of a server; give one such as http://127.0.0.1:8080"
            )
        self._url, self._token = url.rstrip("/"), token
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._authorization = f"Token {token}"
        if token.count(".") == 2:  # a JWT, which gives access for some minutes
            self._enter()

    def _enter(self) -> None:
        self._authorization = ""
        access = self.call("POST", "token/refresh", {"refresh": self._token})
        if not isinstance(access, dict) or not isinstance(access.get("access"), str):
            raise self._strange("token/refresh")
        self._authorization = f"Bearer {access['access']}"

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The JSON of an answer. ConfigError where the server refuses, LabelStudioError where it does not answer."""
        try:
            return self._once(method, path, body, query)
        except urllib.error.HTTPError as error:
            said = self._said(error)
            if error.code == 401 and self._authorization.startswith("Bearer") and path != "token/refresh":
                self._enter()  # access has run out
                return self._again(method, path, body, query)
            raise self._refused(error.code, f"{method} {path}", said) from error

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What the server says of an error, on one line and without the token: of a redirection, where it leads."""
        try:
            with error:
                text = error.read(1_000_000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):  # the connection may break in the middle of it
            text = ""
        if 300 <= error.code < 400:
            text = error.headers.get("Location") or "nowhere"
        return one_line(text.replace(self._token, "[token]"))[:SAID]

    def _again(self, *given: Any) -> Any:
        try:
            return self._once(*given)
        except urllib.error.HTTPError as error:
            raise self._refused(error.code, f"{given[0]} {given[1]}", self._said(error)) from error

    def _refused(self, code: int, what: str, said: str) -> Exception:
        if code >= 500 or code == 429:
            return LabelStudioError(
                f"Label Studio at {self._url} fails with HTTP {code} for {what}; start the same command again"
            )
        if code in (401, 403):
            return ConfigError(
                f"Label Studio at {self._url} does not take the token (HTTP {code}: {said}); give a personal access"
                " token of Account & Settings, or for the old kind turn legacy tokens on in Organization"
            )
        if 300 <= code < 400:
            return ConfigError(f"Label Studio at {self._url} redirects to {said}; give the server's address as --url")
        return ConfigError(f"Label Studio at {self._url}: HTTP {code} for {what}: {said}; check --url")

    def _once(self, method: str, path: str, body: Any, query: Mapping[str, Any]) -> Any:
        words = f"?{urllib.parse.urlencode(query)}" if query else ""
        headers = {"Content-Type": "application/json", "User-Agent": "tigerjax"}
        headers |= {"Authorization": self._authorization} if self._authorization else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}/api/{path}{words}", data, headers, method=method)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return foreign.loads(answer.read())
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = one_line(str(getattr(error, "reason", None) or error))[:SAID]
            raise LabelStudioError(
                f"Label Studio at {self._url} does not answer ({reason}); start the same command again when it does"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{self._url}/api/{path} answers with no JSON; give Label Studio's address as --url"
            ) from (error)

    def projects(self) -> dict[str, int]:
        """{title: id} of the projects, the oldest of a title."""
        found: dict[str, int] = {}
        for project in self._pages("projects", "results"):
            found.setdefault(str(project.get("title")), number(project, "id", self._strange("projects")))
        return found

    def asked(self, project: int) -> set[str]:
        """The prompt ids of the tasks of a project; a task of another kind has none."""
        data = [task.get("data") for task in self._pages("tasks", "tasks", project=project)]
        return {str(one.get("prompt_id")) for one in data if isinstance(one, dict)}

    def emails(self) -> dict[int, str]:
        """{id: e-mail address} of the users."""
        strange = self._strange("users")
        users = _records(self.call("GET", "users"), strange)
        return {number(user, "id", strange): str(user.get("email")) for user in users}

    def made(self, title: str, config: str) -> int:
        """Makes a project; returns its id."""
        answer = self.call("POST", "projects/", {"title": title, "label_config": config})
        return number(answer, "id", self._strange("projects"))

    def export(self, project: int) -> list[dict[str, Any]]:
        """The tasks of a project that have annotations, with these."""
        path = f"projects/{project}/export"
        tasks = _records(self.call("GET", path, exportType="JSON"), self._strange(path))
        for task in tasks:
            _records(task.get("annotations", []), self._strange(path))
        return tasks

    def _strange(self, path: str) -> ConfigError:
        return ConfigError(
            f"{self._url}/api/{path} answers in a form that Label Studio 1.23 does not use; give its address as --url"
        )

    def _pages(self, path: str, field: str, **query: Any) -> list[dict[str, Any]]:
        """The records of all pages. A server may give fewer a page than are asked for, so its own count ends it."""
        out: list[dict[str, Any]] = []
        page = 1
        while True:
            answer = self.call("GET", path, page=page, page_size=PAGE, **query)
            if not isinstance(answer, dict):
                raise self._strange(path)
            some = _records(answer.get(field), self._strange(path))
            out += some
            total = answer.get("count", answer.get("total"))
            if not some or (len(out) >= total if isinstance(total, int) else len(some) < PAGE):
                return out
            page += 1


def _records(value: Any, strange: ConfigError) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise strange
    return value


def number(record: Any, name: str, strange: ConfigError) -> int:
    """A whole number of a record; raises `strange` where there is none."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, int):
        raise strange
    return value


class Pushed(NamedTuple):
    """What `push` did for one person."""

    title: str
    tasks: int
    """Tasks of the person in all."""
    new: int
    """Those that were not there yet."""


def title(index: int, person: str, batch: str) -> str:
    """The name of a person's project for a round."""
    return f"round {index:02d}: {person} ({batch[:8]})"


def push(server: Server, index: int, person: str, items: Sequence[Mapping[str, Any]]) -> Pushed:
    """Makes the project of a person where there is none, and adds the tasks that it lacks."""
    name = title(index, person, items[0]["batch_sha256"])
    project = server.projects().get(name)
    if project is None:
        project = server.made(name, label_studio.config())
    there = server.asked(project)
    fresh = [task for task in label_studio.tasks(items) if task["data"]["prompt_id"] not in there]
    if fresh:
        server.call("POST", f"projects/{project}/import", fresh)
    return Pushed(name, len(items), len(fresh))


class Pulled(NamedTuple):
    """What `pull` found."""

    tasks: list[dict[str, Any]]
    """An export of the projects, as label_studio.sifted reads it."""
    absent: list[str]
    """The titles that the server has no project for."""


def pull(server: Server, titles: Sequence[str], people: Sequence[str]) -> Pulled:
    """Fetches the projects of these titles. Annotators are named by their e-mail addresses, which are spelt as in
    `people` where only upper and lower case differ."""
    projects, emails = server.projects(), server.emails()
    spelt = {person.casefold(): person for person in people}
    out = [task for name in titles if name in projects for task in server.export(projects[name])]
    for task in out:
        for annotation in task.get("annotations", []):
            who = annotation.get("completed_by")
            if isinstance(who, dict):
                who = who.get("id")
            if isinstance(who, int) and who in emails:
                annotation["completed_by"] = {"email": spelt.get(emails[who].casefold(), emails[who])}
    return Pulled(out, [name for name in titles if name not in projects])


def token(file: Path | None) -> str:
    """The token from a file, or from the variable LABEL_STUDIO_API_KEY. ConfigError where there is none."""
    where = f"the variable {TOKEN_ENV}" if file is None else f"--token-file {file}"
    try:
        found = os.environ.get(TOKEN_ENV, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"{where}: {reason}; give a file that holds the token") from error
    if not (found := found.strip()) or not re.fullmatch(r"[\x21-\x7e]+", found):
        raise ConfigError(f"{where} holds no token of Label Studio; put it there alone, or give --token-file")
    return found
