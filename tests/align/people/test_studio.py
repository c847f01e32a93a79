"""`tigerjax align people push` and `pull` with a stand-in for Label Studio's API, and with the real server (slow)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_stand_in import JWT, TOKEN, serve
from test_label_studio import ranked, result
from test_label_studio_command import ANN, BOB, INSTALL_S, START_S, Client, server
from test_team_command import gold_file, records
from tiny_project import align, build

from tigerjax.align.people import studio
from tigerjax.command import people
from tigerjax.errors import ConfigError, LabelStudioError

JO = "jo@example.org"


@pytest.fixture
def stand_in() -> Iterator[tuple[str, dict[str, Any]]]:
    made = serve([ANN, BOB])
    yield f"http://127.0.0.1:{made.server_port}", made.state
    made.shutdown()
    made.server_close()


def team(folder: Path) -> Path:
    """An alignment whose two prompts are asked of ANN and BOB, with an adjudicator."""
    project = build(folder)
    words = ["--align.people", ANN, BOB, "--align.adjudicator", JO, "--gold-questions", gold_file(folder)]
    align("set", project, *words, "--again")
    align("queue", project)
    return project


def right(project: Path) -> dict[str, list[str]]:
    """The labels of the gold questions in their right order, by prompt id."""
    key = records(project / "rounds/01/queue/key.jsonl")
    return {k["prompt_id"]: [n for group in k["right"] for n in group] for k in key if "right" in k}


def says(project: Path, data: dict[str, Any], order: str) -> list[dict[str, Any]]:
    """The results of one annotation: gold questions rightly, others in the order given, an edit where it is asked."""
    edit = [result("base", ["A"]), result("edit", ["much better"])] if "edit" in data["purpose"] else []
    return [ranked("".join(right(project).get(data["prompt_id"], list(order)))), *edit]


def test_push_makes_a_project_each_and_pull_imports_what_people_said(tmp_path, stand_in, capfd, monkeypatch):
    (url, state), project = stand_in, team(tmp_path)
    monkeypatch.setenv(studio.TOKEN_ENV, TOKEN)
    state["projects"] += [{"id": n, "title": f"other {n}"} for n in range(1, studio.PAGE + 1)]  # on a page of their own
    align("people", "push", project, "--url", url, "--json", tmp_path / "push.json")
    pushed = json.loads((tmp_path / "push.json").read_text())
    assert [title.split(" (")[0] for title in pushed] == [f"round 01: {ANN}", f"round 01: {BOB}"]
    assert all(figures == {"tasks": 5, "new": 5} for figures in pushed.values())
    told = json.dumps(state["tasks"])
    assert "score" not in told and not any(name in told for name in ("right", '"of"', "gold"))
    align("people", "push", project, "--url", url, "--json", tmp_path / "push.json")  # nothing twice
    assert all(f["new"] == 0 for f in json.loads((tmp_path / "push.json").read_text()).values())
    assert len(state["tasks"]) == 10 and len(state["projects"]) == studio.PAGE + 2

    align("people", "pull", project, "--url", url, code=4)
    assert "labels are missing" in capfd.readouterr().err
    for task in state["tasks"]:
        who = 1 if task["project"] == studio.PAGE + 1 else 2
        made = {"id": task["id"], "completed_by": who, "updated_at": "2026-05-04T09:00:00Z"}
        made["result"] = says(project, task["data"], "ABCD" if who == 1 else "DCBA")
        state["said"][task["id"]] = [made]
    align("people", "pull", project, "--url", url, code=4)
    assert "people disagree on 2 prompts" in capfd.readouterr().err
    # The adjudicator's questions are brought by the same command, and a round ends when they are answered.
    waiting = project / "people" / "01" / JO
    assert (waiting / "queue.md").read_text().count("\n## ") == 2
    align("people", "push", project, "--url", url)
    assert f"no account of {JO}" in capfd.readouterr().err
    state["users"].append(JO)
    for task in state["tasks"][10:]:
        made = {"id": task["id"], "completed_by": 3, "updated_at": "2026-05-05T09:00:00Z"}
        state["said"][task["id"]] = [made | {"result": [ranked("BACD")]}]
    state["expired"] = False
    align("people", "pull", project, "--url", url)
    verdicts = records(project / "rounds/01/labels/verdicts.jsonl")
    key = {k["of"]: k["labels"] for k in records(project / "rounds/01/queue/key.jsonl") if "of" in k}
    assert all(v["ranking"][0] == key[v["prompt_id"]]["B"] and JO in v["annotators"] for v in verdicts)
    assert TOKEN not in capfd.readouterr().out and not any(TOKEN in str(p) for p in project.rglob("*"))
    align("people", "export", project, "--out", tmp_path / "said.jsonl")  # the last pull brought all labels again
    said = [(row["annotator"], row["prompt_id"], row["kind"]) for row in records(tmp_path / "said.jsonl")]
    assert len(said) == len(set(said)) > 10


def test_a_personal_access_token_is_refreshed_when_its_access_has_run_out(stand_in):
    url, state = stand_in
    made = studio.Server(url, JWT)
    assert made.emails() == {1: ANN, 2: BOB} and state["seen"][-1][2].startswith("Bearer access-")
    state["expired"] = True
    assert made.emails() == {1: ANN, 2: BOB}
    assert [path for _, path, _ in state["seen"]].count("/api/token/refresh") == 2


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ((401, {"detail": f"{TOKEN} is wrong"}), ConfigError, r"does not take the token \(HTTP 401: .*\[token\]"),
        ((404, b"<html>"), ConfigError, "HTTP 404 for GET users.*check --url"),
        ((302, b""), ConfigError, "redirects to http://127.0.0.1:9/stolen; give the server's address as --url"),
        ((200, b"<html>"), ConfigError, "answers with no JSON; give Label Studio's address"),
        ((502, b"bad gateway"), LabelStudioError, "fails with HTTP 502 for GET users; start the same command again"),
    ],
)
def test_a_server_that_refuses_or_fails_gives_one_line_without_the_token(stand_in, fault, kind, said):
    (url, state) = stand_in
    state["fault"] = fault
    with pytest.raises(kind, match=said) as caught:
        studio.Server(url, TOKEN).emails()
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)


def test_no_server_no_address_and_no_token_each_give_one_line(tmp_path, monkeypatch):
    with pytest.raises(LabelStudioError, match="does not answer"):
        studio.Server("http://127.0.0.1:9", TOKEN).emails()
    for url in (
        "ftp://x",
        "127.0.0.1:8080",
        "http://me:secret@host",
        "http://[::1",
        "http://h:99999",
        "http://a..b",
        "http://h/\u4e2d",
    ):
        with pytest.raises(ConfigError, match="is no address of a server"):
            studio.Server(url, TOKEN)
    monkeypatch.delenv(studio.TOKEN_ENV, raising=False)
    with pytest.raises(ConfigError, match=f"the variable {studio.TOKEN_ENV} holds no token"):
        studio.token(None)
    with pytest.raises(ConfigError, match="No such file"):
        studio.token(tmp_path / "none")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert studio.token(tmp_path / "token") == TOKEN


@pytest.mark.parametrize("call", ["emails", "projects"])
@pytest.mark.parametrize("value", [{"detail": "x"}, ["x"], [{"email": ANN}], 7, {"results": [{"title": "no id"}]}])
def test_an_answer_in_another_form_gives_one_line(stand_in, call, value):
    (url, state) = stand_in
    state["fault"] = (200, value)
    with pytest.raises(ConfigError, match=r"/api/\w+ answers in a form that Label Studio 1.23 does not use"):
        getattr(studio.Server(url, TOKEN), call)()


@pytest.mark.parametrize("value", [{"detail": "x"}, ["x"], [{"annotations": 3}], None])
def test_an_export_in_another_form_gives_one_line(stand_in, value):
    (url, state) = stand_in
    state["fault"] = (200, value)
    with pytest.raises(ConfigError, match="/api/projects/1/export answers in a form that"):
        studio.Server(url, TOKEN).export(1)


def test_a_server_with_small_pages_loses_no_project_and_asks_nobody_twice(stand_in):
    (url, state) = stand_in
    state["most"], server = 2, studio.Server(url, TOKEN)
    candidates = [{"label": "A", "text": "a"}, {"label": "B", "text": "b"}]
    items = [
        {"prompt_id": f"q{n}", "batch_sha256": "b" * 64, "rank": True, "edit": False, "candidates": candidates}
        | {"messages": [{"role": "user", "content": "q"}]}
        for n in range(5)
    ]
    for _ in range(2):
        pushed = [studio.push(server, 1, person, items) for person in (ANN, BOB, JO)]
    assert [one.new for one in pushed] == [0, 0, 0] and len(state["tasks"]) == 15 and len(state["projects"]) == 3


def test_pull_names_people_as_the_team_does_and_names_whoever_has_no_project(stand_in):
    (url, state) = stand_in
    server = studio.Server(url, TOKEN)
    state["projects"].append({"id": 1, "title": "own"})
    state["tasks"] += [{"id": n, "project": 1, "data": {}} for n in (1, 2, 3)]
    state["said"] = {n: [{"completed_by": who}] for n, who in ((1, 1), (2, {"id": 2}), (3, 77))}
    pulled = studio.pull(server, ["own", "lost"], [ANN.upper()])
    said = [task["annotations"][0]["completed_by"] for task in pulled.tasks]
    assert said == [{"email": ANN.upper()}, {"email": BOB}, 77] and pulled.absent == ["lost"]


def test_pull_takes_all_labels_but_those_that_are_wrong_and_says_who_must_correct_them(
    tmp_path, stand_in, capfd, monkeypatch
):
    (url, state), project = stand_in, team(tmp_path)
    monkeypatch.setenv(studio.TOKEN_ENV, TOKEN)
    align("people", "pull", project, "--url", url, code=4)
    assert f"Label Studio has no project round 01: {ANN} (" in (said := capfd.readouterr().err) and JO not in said
    align("people", "push", project, "--url", url)
    for task in state["tasks"]:
        who = 1 if task["project"] == 1 else 2
        made = {"id": task["id"], "completed_by": who, "updated_at": "2026-05-04T09:00:00Z"}
        state["said"][task["id"]] = [made | {"result": says(project, task["data"], "ABCD")}]
    wrong = state["tasks"][0]
    state["said"][wrong["id"]][0]["result"] = []  # somebody has pressed Submit too early
    skipped = state["tasks"][-1]  # and somebody has ranked an answer that is not there
    state["said"][skipped["id"]][0]["result"] = [ranked("Z")]
    capfd.readouterr()
    align("people", "pull", project, "--url", url, code=4)
    said = capfd.readouterr().err
    assert f"wrong label: round 01: task {wrong['id']}, annotation {wrong['id']} of {ANN}: `ranking` is empty" in said
    assert f"wrong label: round 01: task {skipped['id']}, annotation {skipped['id']} of {BOB}: `ranking` names" in said
    assert "2 wrong labels are not taken; once corrected in Label Studio, the next pull takes them" in said
    (taken,) = (project / "labels/01").iterdir()
    assert len(json.loads(taken.read_text())) == len(state["tasks"]) - 2
    assert "labels are missing" in said or "still to come" in said

    def corrected(seconds: float) -> None:
        for task in (wrong, skipped):
            state["said"][task["id"]][0]["result"] = says(project, task["data"], "ABCD")

    monkeypatch.setattr(people.time, "sleep", corrected)
    align("people", "pull", project, "--url", url, "--every-s", 1)
    assert "asked again in 1 s" in capfd.readouterr().out
    # A wrong label that nobody waits for holds nothing back.
    state["said"][wrong["id"]].append(state["said"][wrong["id"]][0] | {"id": 99, "result": []})
    align("people", "pull", project, "--url", url, "--json", tmp_path / "pull.json")
    assert json.loads((tmp_path / "pull.json").read_text())["wrong"] == 1


@pytest.mark.slow
@pytest.mark.timeout(INSTALL_S + START_S + 600)
def test_a_team_works_with_a_real_server(tmp_path, monkeypatch):
    project = team(tmp_path / "world")
    with server(tmp_path / "server") as url:
        people = {who: Client(url).enter("login" if who == ANN else "signup", who) for who in (ANN, BOB, JO)}
        monkeypatch.setenv(studio.TOKEN_ENV, people[ANN].call("POST", "token/", {})["token"])
        align("people", "push", project, "--url", url)
        align("people", "push", project, "--url", url, "--json", tmp_path / "push.json")
        titles = json.loads((tmp_path / "push.json").read_text())
        assert all(figures == {"tasks": 5, "new": 0} for figures in titles.values()) and len(titles) == 2

        def answer(who: str, order: str) -> None:
            listed = people[who].call("GET", "projects?page_size=100")["results"]
            (own,) = [p for p in listed if f": {who} (" in p["title"]]
            for task in people[who].call("GET", f"tasks?project={own['id']}")["tasks"]:
                body = {"result": says(project, task["data"], order)}
                people[who].call("POST", f"tasks/{task['id']}/annotations/", body)

        answer(ANN, "ABCD")
        align("people", "pull", project, "--url", url, code=4)
        answer(BOB, "DCBA")
        align("people", "pull", project, "--url", url, code=4)
        align("people", "push", project, "--url", url)
        answer(JO, "BACD")
        align("people", "pull", project, "--url", url)
    verdicts = records(project / "rounds/01/labels/verdicts.jsonl")
    assert len(verdicts) == 2 and all(
        {ANN, BOB, JO} >= set(v["annotators"]) and JO in v["annotators"] for v in verdicts
    )
    align("people", "status", project, "--json", tmp_path / "status.json")
    (state,) = json.loads((tmp_path / "status.json").read_text())["rounds"]
    figures = {one["person"]: one for one in state["people"]}
    assert figures[ANN]["gold_accuracy"] == figures[BOB]["gold_accuracy"] == 1 and state["to_come"] == 0
    assert figures[ANN]["tau"] < 0 and len(figures[ANN]["days"]) >= 1
