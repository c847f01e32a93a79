"""Labels of conversations, as the server writes them: they bring their own questions, and join a round."""

import json

import pytest
from test_labels import GOOD, run
from test_rounds import World

from tigerjax.align.people import label_lines
from tigerjax.errors import DataError
from tigerjax.serve.labels import Labels
from tigerjax.serve.requests import LETTERS, LabelRequest, read

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
CANDIDATES = [{"text": "a model"}, {"text": "a person"}, {"text": "a model"}, {"text": "a mod", "finish": "length"}]


def asked(**more) -> LabelRequest:
    given = {"annotator": "ann", "messages": MESSAGES, "candidates": CANDIDATES}
    return read(LabelRequest, json.dumps(given | more).encode())


@pytest.fixture
def written(tmp_path):
    """The file and its lines: what ann keeps, what bob rejects and edits, and a conversation of its own."""
    with Labels.open(tmp_path / "labels", "5" * 64) as labels:
        lines = [
            labels.add(asked(ranking=[[0]])),
            labels.add(asked(annotator="bob", ranking=[[2, 0], [1]], reject=[3])),
            labels.add(asked(annotator="bob", base=0, text="a language model")),
            labels.add(asked(messages=[{"role": "user", "content": "Bye"}], ranking=[[1]])),
        ]
    file = labels.path
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == lines
    return file, lines


def test_equal_texts_have_one_label_and_equal_questions_one_id(written):
    _, (kept, ranked, edited, other) = written
    assert [c["label"] for c in kept["candidates"]] == ["A", "B", "C"]
    assert kept["ranking"] == [["A"]] and ranked["ranking"] == [["A"], ["B"]] and ranked["reject"] == ["C"]
    assert edited["base"] == "A" and edited["text"] == "a language model"
    assert kept["prompt_id"] == ranked["prompt_id"] == edited["prompt_id"] != other["prompt_id"]


def test_their_questions_are_imported_beside_those_of_the_queue(written, tmp_path):
    _, lines = written
    got = run(tmp_path, [*GOOD, *lines])
    assert got.counts["conversations"] == 2 and got.counts["rankings"] == 5 and got.counts["edits"] == 2
    assert got.counts["missing_rank"] == 0 and got.notes == []
    verdict = got.verdicts[lines[0]["prompt_id"]]
    (talk,) = [c for c in got.conversations if c["prompt_id"] == lines[0]["prompt_id"]]
    cids = {c["text"]: c["cid"] for c in talk["candidates"]}
    assert verdict.ranking[0] == [cids["a model"]] and verdict.rejected == [cids["a mod"]]
    assert verdict.edits == [{"annotator": "bob", "base": cids["a model"], "text": "a language model"}]
    assert all(c["score"] is None for c in talk["candidates"]) and talk["messages"] == MESSAGES


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"messages": "Hi"}, "`messages` must be a list"),
        ({"messages": [{"role": "user"}]}, "`messages` must be a list"),
        ({"messages": [{"role": "user", "content": ""}]}, "`messages` must be a list"),
        ({"messages": []}, "must alternate between user and assistant, and end with the user"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": "x"}]}, "and end with the user"),
        ({"messages": [*MESSAGES, *MESSAGES]}, "must alternate"),
        ({"messages": MESSAGES[1:] + MESSAGES[:1]}, "end with the user"),
        ({"messages": [{"role": [], "content": "x"}]}, "must alternate"),
        ({"candidates": []}, "`candidates` must be a list"),
        ({"candidates": ["A"]}, "`candidates` must be a list"),
        ({"candidates": [{"label": "A", "text": "x"}]}, "`candidates` must be a list"),
        ({"candidates": [{"label": "A", "text": "x", "finish": "end"}]}, "its finish is one of stop, length, marker"),
        ({"candidates": [{"label": "A", "text": t, "finish": "stop"} for t in "xy"]}, "have the label 'A' twice"),
        ({"candidates": [{"label": n, "text": "x", "finish": "stop"} for n in "AB"]}, "have the text 'x' twice"),
        ({"batch_sha256": "x"}, "unknown field 'batch_sha256'"),
        ({"prompt_id": ""}, "`prompt_id` is missing"),
        ({"prompt_id": "p1"}, "prompt_id 'p1' names another question too"),
        ({"ranking": [["Z"]]}, "names label 'Z', which this prompt lacks; it has A, B, C"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_imported(written, tmp_path, changes, words):
    _, lines = written
    with pytest.raises(DataError, match="1 of 4 label lines are wrong, nothing was imported") as caught:
        run(tmp_path, [*GOOD, lines[0] | changes])
    assert words in str(caught.value) and "labels.jsonl:4: " in str(caught.value)


def test_one_id_with_two_questions_is_refused(written, tmp_path):
    _, lines = written
    with pytest.raises(DataError, match="names another question too; give each question its own"):
        run(tmp_path, [*GOOD, lines[0], lines[3] | {"prompt_id": lines[0]["prompt_id"]}])


def test_a_round_trains_on_what_people_kept_and_wrote(written, tmp_path):
    file, lines = written
    world = World(tmp_path / "w")
    got = world.run(labels=lambda queue: [*world.labels(queue), file])
    assert got.figures["counts"]["labels"]["conversations"] == 2
    ids = {line["prompt_id"] for line in lines}
    won = {e["messages"][-2]["content"]: e for e in world.read("mix/sft.jsonl") if e.get("prompt_id") in ids}
    assert {q: (e["messages"][-1]["content"], e["provenance"]) for q, e in won.items()} == {
        "Who are you?": ("a language model", "edit"),
        "Bye": ("a person", "human"),
    }
    preferences = [p for p in world.read("rank/preferences.jsonl") if p["prompt_id"] in ids]
    assert sorted(p["provenance"] for p in preferences) == ["edit", "human", "human"]
    (bye,) = [p for p in preferences if p["messages"][-1]["content"] == "Bye"]
    texts = {r["id"]: r["text"] for r in bye["responses"]}
    assert [[texts[i] for i in group] for group in bye["ranking"]] == [["a person"], ["a model", "a mod"]]
    pairs = [p for p in world.read("rank/pairs.jsonl") if p["prompt_id"] in ids]
    assert {p["responses"][0]["text"] for p in pairs} == {"a language model", "a person"}


def test_what_nobody_chose_does_not_win(tmp_path):
    with Labels.open(tmp_path / "labels", "5" * 64) as labels:
        line = labels.add(asked(ranking=[], reject=[1]))
    world = World(tmp_path / "w")
    world.run(labels=lambda queue: [*world.labels(queue), labels.path])
    assert not [e for e in world.read("mix/sft.jsonl") if e.get("prompt_id") == line["prompt_id"]]


def test_the_labels_have_letters_as_those_of_a_queue():
    from tigerjax.align.people.queue import label

    assert [label(k) for k in range(len(LETTERS))] == list(LETTERS)
    assert label_lines.FINISHES == ("stop", "length", "marker")
