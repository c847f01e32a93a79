"""As much of Label Studio's API as `tigerjax align people push` and `pull` use, in a thread of this process."""

import http.server
import json
import threading
import urllib.parse
from typing import Any

from tigerjax.align.people import studio

TOKEN, JWT = "a" * 40, "head.refresh.tail"


class StandIn(http.server.BaseHTTPRequestHandler):
    """As much of Label Studio's API as push and pull use. Its state is on the server object."""

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *given: Any) -> None:
        pass

    def _answer(self, body: Any) -> None:
        at = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(at.query))
        state: dict[str, Any] = self.server.state
        state["seen"].append((self.command, at.path, self.headers.get("Authorization")))
        code, value = self._of(state, [part for part in at.path.split("/") if part][1:], query, body)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "http://127.0.0.1:9/stolen")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _of(self, state: dict[str, Any], path: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        if state["fault"]:
            return state["fault"]
        if path == ["token", "refresh"]:
            state["access"] = f"access-{len(state['seen'])}"
            return (200, {"access": state["access"]}) if body == {"refresh": JWT} else (401, {"detail": "no"})
        if self.headers.get("Authorization") not in (f"Token {TOKEN}", f"Bearer {state.get('access')}"):
            return 401, {"detail": f"wrong {self.headers.get('Authorization')}"}
        if state.pop("expired", False):
            return 401, {"detail": "expired"}
        projects, tasks = state["projects"], state["tasks"]
        size = min(studio.PAGE, state["most"])
        first = (int(query.get("page", 1)) - 1) * size
        page = slice(first, first + size)
        if path == ["users"]:
            return 200, [{"id": n, "email": email} for n, email in enumerate(state["users"], start=1)]
        if path == ["projects"] and body is None:
            return 200, {"count": len(projects), "results": projects[page]}
        if path == ["projects"]:
            projects.append({"id": len(projects) + 1, "title": body["title"]})
            return 201, projects[-1]
        if path == ["tasks"]:
            own = [t for t in tasks if t["project"] == int(query["project"])]
            return 200, {"total": len(own), "tasks": own[page]}
        if path[2] == "import":
            tasks += [t | {"project": int(path[1]), "id": len(tasks) + n} for n, t in enumerate(body)]
            return 201, {"task_count": len(body)}
        own = [t | {"annotations": state["said"].get(t["id"], [])} for t in tasks if t["project"] == int(path[1])]
        return 200, [t for t in own if t["annotations"]]


def serve(users: list[str], port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server that has begun, whose state a test reads and changes; port 0 is any that is free."""
    made = http.server.ThreadingHTTPServer(("127.0.0.1", port), StandIn)
    made.state = {"projects": [], "tasks": [], "users": users, "said": {}, "seen": [], "fault": None, "most": 1_000}
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made
