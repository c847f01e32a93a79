"""Examples of a round: which prompts are shown, and what is said of each answer."""

import dataclasses
import json

import pytest
from test_rounds import CONFIG, World

from tigerjax.align import examples, summary
from tigerjax.align.answers import AnswerScore
from tigerjax.errors import DataError


def scored(answers):
    """A sum of two parts: answers with a 9 are below a floor, and answer 3 has no score."""
    out = []
    for _, text, *_ in answers:
        number = int(text.split()[1]) if text.split()[1].isdigit() else 0
        parts = {"good": float(number), "safe": float("9" not in text)}
        out.append(
            AnswerScore(float("nan") if text == "answer 3" else float(number), parts, ["safe"] if "9" in text else ())
        )
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("w") / "w", better=False)
    world.run(config=dataclasses.replace(CONFIG, beat_reference=True), score=scored)
    return world, examples.collect(world.folder / "rounds" / "01")


def test_a_prompt_is_shown_with_all_answers_and_the_reason_of_each(made):
    _, found = made
    assert found["prompts_left_out"] == 20 - 6 and [one["kind"] for one in found["prompts"]] == [
        "people",
        *["floor"] * 5,
    ]
    judged, first = found["prompts"][0], found["prompts"][1]
    assert judged["people"] == {"annotators": ["key"], "ranked": 9, "rejected": 7, "edited": 1}
    assert (judged["answers"][0]["text"], judged["answers"][0]["by"], judged["answers"][0]["won"]) == (
        "answer best", "edit", True,
    )  # fmt: skip
    assert len(judged["answers"]) == 11 and judged["answers_left_out"] == 0
    by_text = {answer["text"]: answer for answer in first["answers"]}
    assert first["answers"][0]["text"] == "answer 10" and first["answers"][0]["won"]
    assert by_text["answer 9"]["why_not"] == "below_floor" and by_text["answer 9"]["parts"] == {
        "good": 9.0,
        "safe": 0.0,
    }
    assert by_text["answer 3"]["why_not"] == "invalid_score" and by_text["answer 8"]["why_not"] == ""
    assert first["existing"]["text"] == "answer 0" and first["existing"]["score"] == 0.0 and first["people"] is None


def test_held_out_answers_before_and_after_stand_side_by_side(made):
    _, found = made
    assert len(found["held_out"]) == 4 and found["held_out_left_out"] == 0
    one = found["held_out"][0]
    assert (one["before"]["text"], one["after"]["score"]) == ("answer 5", 1.0) and "held" in one["messages"][0]["text"]


def test_a_report_has_them_and_a_changed_file_is_named(made):
    world, found = made
    report = summary.collect(world.folder)
    assert report["examples"] == [{"round": 1} | found]
    ranked = world.folder / "rounds/01/rank/ranked.jsonl"
    whole = ranked.read_text()
    ranked.write_text(whole + "\n")
    with pytest.raises(DataError, match=r"rank: ranked\.jsonl"):
        summary.collect(world.folder)
    ranked.write_text(whole)
    answers = world.folder / "rounds/01/gate/answers.jsonl"
    kept = answers.read_text()
    answers.unlink()
    assert examples.collect(world.folder / "rounds" / "01") is None
    answers.write_text(kept)


def test_a_prompt_of_which_no_answer_wins_says_why_of_each(tmp_path):
    world = World(tmp_path / "w")
    world.run(config=dataclasses.replace(CONFIG, beat_reference=True, min_score=1000.0), safety=["answer 2"])
    kinds = [one["kind"] for one in examples.collect(world.folder / "rounds" / "01")["prompts"]]
    assert kinds == ["people", *["nobody"] * 5]
    nobody = examples.collect(world.folder / "rounds" / "01")["prompts"][1]["answers"]
    assert {answer["why_not"] for answer in nobody} == {"below_min_score", "safety"}
    assert {a["text"] for a in nobody if a["why_not"] == "safety"} == {"answer 2"}


def test_long_texts_and_conversations_are_cut_and_counted():
    turns = [{"role": "user", "content": "x" * 2000}] * 7
    said = examples._conversation(turns)
    assert said["messages_left_out"] == 3 and said["messages"][0]["cut"] == 800
    assert len(json.dumps(said)) < 6000
    assert examples._spread([f"{i:02d}" for i in range(10)], 4) == ["00", "02", "05", "07"]
    assert examples._spread(["a"], 4) == ["a"] and examples._spread([], 4) == []
