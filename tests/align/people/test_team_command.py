"""`tigerjax align` with a team: queues for each, status, export, and labels that come when the round is mixed."""

import csv
import json
import re
from pathlib import Path

import pytest
from tiny_project import align, build

from tigerjax.command import people

PEOPLE = ("ann", "bob", "cat@example.org")


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def gold_file(folder: Path) -> Path:
    file = folder / "gold.jsonl"
    lines = [{"prompt": f"Name colour {i}.", "chosen": f"Blue {i}.", "rejected": f"Seven {i}."} for i in range(4)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """An alignment whose queue is a team's: 2 prompts to rank, by two people each, and 3 gold questions for each."""
    folder = tmp_path_factory.mktemp("team")
    project = build(folder)
    align("set", project, "--align.people", *PEOPLE, "--gold-questions", gold_file(folder), "--again")
    align("queue", project)
    return project


def labels(project: Path, *people: str, backwards: str = "") -> list[dict]:
    """Templates that people have filled in: the first answer first, but gold questions rightly, or `backwards`."""
    queue = project / "rounds" / "01" / "queue"
    right = {k["prompt_id"]: k["right"] for k in records(queue / "key.jsonl") if "right" in k}
    out = []
    for person in people:
        for line in records(queue / "people" / person / "template.jsonl"):
            assert line["annotator"] == person
            if "base" in line:
                out.append(line | {"base": "A", "text": "much better"})
                continue
            ranking = right.get(line["prompt_id"], [["A"]])
            out.append(line | {"ranking": ranking[::-1] if person == backwards else ranking})
    return out


def write(file: Path, lines: list[dict]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_week_of_a_team(project, tmp_path, capfd):
    queue = project / "rounds" / "01" / "queue"
    for person in PEOPLE:
        page = (queue / "people" / person / "queue.md").read_text()
        tasks = json.loads((queue / "people" / person / "label_studio.json").read_text())
        assert len(tasks) == page.count("\n## ") >= 4 and "score" not in page + json.dumps(tasks)
    # Monday: one of three has answered.
    align("import", project, "--labels", write(tmp_path / "monday.jsonl", labels(project, "ann")), code=4)
    told = capfd.readouterr().err
    assert "still to come until" in told or "labels are missing" in told
    assert "align people status" in told and "queue/people" in told
    align("people", "status", project, "--json", tmp_path / "status.json")
    shown, state = capfd.readouterr().out, json.loads((tmp_path / "status.json").read_text())["rounds"][0]
    by_name = {one["person"]: one for one in state["people"]}
    assert by_name["ann"]["to_come"] == 0 and by_name["bob"]["to_come"] == by_name["bob"]["asked"] > 0
    assert state["all_set_aside"] == 0
    assert not state["overdue"] and state["due"] in json.dumps(state) and "bob" in shown
    assert "…" not in shown  # a name that is cut could be that of two people
    # Tuesday: the others, one of whom orders the gold questions the wrong way round.
    file = write(tmp_path / "tuesday.jsonl", labels(project, *PEOPLE[1:], backwards="bob"))
    align("import", project, "--labels", file)
    assert "those of bob are set aside: adversarial" in capfd.readouterr().err
    align("people", "status", project, "--json", tmp_path / "status.json")
    state = json.loads((tmp_path / "status.json").read_text())["rounds"][0]
    (bob,) = [one for one in state["people"] if one["person"] == "bob"]
    assert (
        bob["set_aside"] and bob["gold_accuracy"] == 0 and bob["named"][0].startswith("adversarial: 0% right") is False
    )
    assert "0% right on 3 gold questions" in bob["named"][0]
    align("set", project, "--align.no-set-aside", "--again")
    align("import", project)  # all three count, and nothing is missing
    manifest = json.loads((project / "rounds/01/labels/manifest.json").read_text())
    assert "set_aside" not in manifest["counts"]["dropped"] and manifest["counts"]["dropped"]["gold"] == 9
    verdicts = records(project / "rounds/01/labels/verdicts.jsonl")
    assert {v["prompt_id"] for v in verdicts} <= {f"e{i}" for i in range(50)}
    capfd.readouterr()

    # Who said what.
    align("people", "export", project, "--out", tmp_path / "said.jsonl")
    align("people", "export", project, "--out", tmp_path / "made" / "said.csv")
    said = records(tmp_path / "said.jsonl")
    given = labels(project, *PEOPLE)
    assert len(said) == len(given) == len(list(csv.DictReader((tmp_path / "made" / "said.csv").open())))
    assert sum(row["state"] == "gold" for row in said) == 9 and {row["annotator"] for row in said} == set(PEOPLE)
    assert "score" not in (tmp_path / "said.jsonl").read_text()

    # The winners are mixed in. Then cat changes her mind, and somebody labels a prompt that nobody asked them.
    align("set", project, "--align.no-beat-reference", "--align.min-spread", "None")
    align("rank", project)
    align("mix", project)
    before = (project / "rounds/01/labels/verdicts.jsonl").read_bytes()
    late = [line for line in labels(project, "cat@example.org") if "ranking" in line]
    for line in late:
        line["ranking"] = [["B"], ["A"]]
    key = {k["prompt_id"]: k for k in records(queue / "key.jsonl")}
    real = [line for line in late if "of" in key[line["prompt_id"]]]
    align("import", project, "--labels", write(tmp_path / "late.jsonl", [*late, *labels(project, "ann")]))
    told = capfd.readouterr().err
    assert f"{len(real)} lines of round 01 came after its winners were mixed in; they join round 02" in told
    assert "answers to gold questions of round 01 came too late to count" in told
    (before_too,) = re.findall(
        r"labels: (\d+) lines of round 01 were delivered before, and are not taken a second", told
    )
    assert len(labels(project, "ann")) <= int(before_too)  # and those of cat that say what they said
    assert f"next: tigerjax align run {project} --rounds N" in told  # `align rank` would be refused
    (taken,) = (project / "labels" / "02").iterdir()
    joined = records(taken)
    assert [line["prompt_id"] for line in joined] == [f"late-01-{key[x['prompt_id']]['of']}" for x in real]
    assert all(line["annotator"] == "cat@example.org" and line["candidates"][0]["finish"] for line in joined)
    align("import", project, "--labels", tmp_path / "late.jsonl")  # once more: nothing new
    assert f"labels: {int(before_too) + len(real)} lines of round 01 were delivered before" in capfd.readouterr().err
    assert len(list((project / "labels" / "02").iterdir())) == 1
    assert (project / "rounds/01/labels/verdicts.jsonl").read_bytes() == before


def test_status_says_that_nobody_is_asked_any_more(capsys):
    head = {"round": 1, "due": "2026-05-04T09:30:00+00:00", "overdue": True, "labels": 9, "to_come": 0}
    found = head | {"for_adjudicator": 0, "all_set_aside": 4, "alpha": {}, "people": []}
    people._show(found)
    said = "4 prompts whose labels are all set aside; --align.adjudicator NAME asks somebody"
    assert said in capsys.readouterr().out
    people._show(found | {"for_adjudicator": 4})
    assert said not in capsys.readouterr().out


def test_status_and_push_without_a_team_say_what_to_set(tmp_path, capfd, monkeypatch):
    project = build(tmp_path)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    for words in (("status",), ("push",)):
        align("people", *words, project, code=2)
        assert "set align.people before the step queue" in capfd.readouterr().err
    align("people", "export", project, "--out", tmp_path / "x.csv", code=2)
    assert "has no labels yet" in capfd.readouterr().err and not (tmp_path / "x.csv").exists()


def test_labels_of_a_queue_that_was_made_again_are_left_out_and_counted(tmp_path, capfd):
    project = build(tmp_path)
    align("set", project, "--align.people", *PEOPLE, "--gold-questions", gold_file(tmp_path), "--again")
    align("queue", project)
    old = labels(project, "ann", "bob")
    align("import", project, "--labels", write(tmp_path / "old.jsonl", old), code=4)
    align("set", project, "--align.rank-fraction", "1", "--again")  # another batch: every label is of the former one
    align("queue", project)
    capfd.readouterr()
    align("import", project, code=4)
    assert f"(labels that are imported: 0, left out, of a former queue: {len(old)})" in capfd.readouterr().err
    align("people", "status", project, "--json", tmp_path / "status.json")
    assert json.loads((tmp_path / "status.json").read_text())["rounds"][0]["labels"] == 0
    align("people", "export", project, "--out", tmp_path / "said.jsonl")
    assert [row["state"] for row in records(tmp_path / "said.jsonl")] == ["former_queue"] * len(old)
    align("import", project, "--labels", tmp_path / "old.jsonl", code=3)  # what comes now is about the queue as it is
    assert "is stale" in capfd.readouterr().err
    new = labels(project, *PEOPLE)
    align("import", project, "--labels", write(tmp_path / "new.jsonl", new))
    counts = json.loads((project / "rounds/01/labels/manifest.json").read_text())["counts"]
    assert counts["dropped"]["former_queue"] == len(old) and counts["in"] == len(old) + len(new)
    assert counts["in"] == counts["out"] + sum(counts["dropped"].values())
