"""Every form of a preference is read as the same pair; what cannot be one is refused with its place, or named."""

import json

import pytest

from tigerjax.errors import DataError
from tigerjax.records import Unusable, as_preference

SKY, BLUE, SEVEN = "Name a colour of the sky.", "Blue.", "Seven."
ASKED = {"role": "user", "content": SKY}


def said(text, role="assistant"):
    return {"role": role, "content": text}


def spoken(text, who="gpt"):
    return {"from": who, "value": text}


FORMS = {
    "messages": {"messages": [ASKED], "chosen": BLUE, "rejected": SEVEN},
    "strings": {"prompt": SKY, "chosen": BLUE, "rejected": SEVEN},
    "strings under the name question": {"question": SKY, "chosen": BLUE, "rejected": SEVEN},
    "whole dialogues with a prompt": {
        "prompt": SKY,
        "chosen": [ASKED, said(BLUE)],
        "rejected": [ASKED, said(SEVEN)],
        "messages": [ASKED, said(BLUE)],
        "score_chosen": 8.0,
    },
    "whole dialogues alone": {"chosen": [ASKED, said(BLUE)], "rejected": [ASKED, said(SEVEN)]},
    "prompt and answers as messages": {"prompt": [ASKED], "chosen": [said(BLUE)], "rejected": [said(SEVEN)]},
    "ShareGPT": {"conversations": [spoken(SKY, "human")], "chosen": spoken(BLUE), "rejected": spoken(SEVEN)},
    "whole ShareGPT dialogues": {
        "chosen": [spoken(SKY, "human"), spoken(BLUE)],
        "rejected": [spoken(SKY, "human"), spoken(SEVEN)],
    },
    "Human and Assistant": {
        "chosen": f"\n\nHuman: {SKY}\n\nAssistant: {BLUE}",
        "rejected": f"\n\nHuman: {SKY}\n\nAssistant: {SEVEN}",
    },
    "Human and Assistant with a prompt": {
        "prompt": f"\n\nHuman: {SKY}\n\nAssistant:",
        "chosen": BLUE,
        "rejected": SEVEN,
    },
    "Alpaca": {"instruction": SKY, "input": "", "chosen": BLUE, "rejected": SEVEN},
    "Alpaca with both answers in output": {"instruction": SKY, "input": "", "output": [BLUE, SEVEN]},
    "input and preferred output": {
        "input": {"messages": [ASKED], "tools": []},
        "preferred_output": [said(BLUE)],
        "non_preferred_output": [said(SEVEN)],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_of_a_pair_is_the_same_record(form):
    got = as_preference(FORMS[form] | {"prompt_id": "p", "lang": "en"}, "f.jsonl:1")
    assert got == {"prompt_id": "p", "lang": "en", "messages": [ASKED], "chosen": BLUE, "rejected": SEVEN}


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize("form", FORMS)
def test_a_system_text_of_the_record_opens_the_question_in_every_form(form, name):
    got = as_preference(FORMS[form] | {name: "Be brief."}, "f.jsonl:1")
    assert got == {"messages": [said(f"Be brief.\n\n{SKY}", "user")], "chosen": BLUE, "rejected": SEVEN}


def test_completions_with_scores_are_a_ranking():
    completions = [{"response": text, "overall_score": score} for text, score in ((SEVEN, 2), (BLUE, 8.5), ("?", 2.0))]
    got = as_preference({"instruction": SKY, "models": ["a", "b", "c"], "completions": completions}, "f.jsonl:1")
    assert got["ranking"] == [["2"], ["1", "3"]] and got["messages"] == [ASKED]
    assert [r["text"] for r in got["responses"]] == [SEVEN, BLUE, "?"]
    with pytest.raises(DataError, match=r"f.jsonl:1: completion 1 must be"):
        as_preference({"instruction": SKY, "completions": [{"response": BLUE}]}, "f.jsonl:1")


def test_an_earlier_exchange_stays_in_every_form():
    first, then = [said("Hi.", "user"), said("Hello.")], f"\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: {SKY}"
    forms = [
        {"prompt": [*first, ASKED], "chosen": BLUE, "rejected": SEVEN},
        {"chosen": [*first, ASKED, said(BLUE)], "rejected": [*first, ASKED, said(SEVEN)]},
        {"chosen": f"{then}\n\nAssistant: {BLUE}", "rejected": f"{then}\n\nAssistant: {SEVEN}"},
        {"prompt": then, "chosen": BLUE, "rejected": SEVEN},
    ]
    for form in forms:
        assert as_preference(form, "f:1")["messages"] == [*first, ASKED]


def test_two_turns_of_one_speaker_in_a_transcript_are_joined():
    got = as_preference({"prompt": "Human: a\n\nHuman: b", "chosen": BLUE, "rejected": SEVEN}, "f:1")
    assert got["messages"] == [said("a\n\nb", "user")]


def test_an_answer_that_begins_with_human_is_no_transcript():
    got = as_preference({"prompt": SKY, "chosen": "Human: a species.", "rejected": SEVEN}, "f:1")
    assert got["chosen"] == "Human: a species."


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": SKY, "chosen": BLUE, "rejected": ""},
        {"prompt": SKY, "chosen": " \n", "rejected": SEVEN},
        {"prompt": "", "chosen": BLUE, "rejected": SEVEN},
        {"prompt": SKY, "chosen": BLUE, "rejected": "\u200b\ufeff"},
        {"chosen": [ASKED, said("")], "rejected": [ASKED, said(SEVEN)]},
        {"chosen": f"\n\nHuman: {SKY}\n\nAssistant:", "rejected": f"\n\nHuman: {SKY}\n\nAssistant: {SEVEN}"},
    ],
)
def test_an_empty_text_of_a_pair_is_named(record):
    with pytest.raises(Unusable, match=r"^f.jsonl:3: id 'x': .*empty") as error:
        as_preference(record | {"id": "x"}, "f.jsonl:3")
    assert error.value.reason == "empty"


def test_answers_to_different_conversations_are_named():
    other = {"role": "user", "content": "Another?"}
    for record in (
        {"chosen": [ASKED, said(BLUE)], "rejected": [other, said(SEVEN)]},
        {"prompt": "Another?", "chosen": [ASKED, said(BLUE)], "rejected": [ASKED, said(SEVEN)]},
    ):
        with pytest.raises(Unusable, match="different conversations") as error:
            as_preference(record, "f.jsonl:3")
        assert error.value.reason == "other_prompt"


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"prompt": SKY, "chosen": BLUE},
        {"chosen": BLUE, "rejected": SEVEN},
        {"prompt": SKY, "chosen": 5, "rejected": SEVEN},
        {"prompt": SKY, "chosen": [], "rejected": SEVEN},
        {"prompt": SKY, "chosen": [said(BLUE), said(SEVEN)], "rejected": SEVEN},
        {"prompt": SKY, "chosen": [ASKED], "rejected": SEVEN},
        {"prompt": 7, "chosen": BLUE, "rejected": SEVEN},
        {"prompt": [ASKED, said("x")], "chosen": BLUE, "rejected": SEVEN},
        {"messages": [said("x"), ASKED, ASKED], "chosen": BLUE, "rejected": SEVEN},
        {"prompt": SKY, "chosen": {"role": "assistant", "content": None}, "rejected": SEVEN},
        {"instruction": 3, "chosen": BLUE, "rejected": SEVEN},
    ],
)
def test_what_is_no_preference_is_refused_with_its_place(record):
    with pytest.raises(DataError, match=r"^f.jsonl:2: ") as error:
        as_preference(record, "f.jsonl:2")
    assert not isinstance(error.value, Unusable) and "\n" not in str(error.value)


def test_earlier_turns_and_lists_as_text_are_read_in_preferences():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    plain = {"prompt": "q", "chosen": "a", "rejected": "b"}
    earlier = as_preference(plain | {"history": [["x", "y"]]}, "x:1")
    assert [m["content"] for m in earlier["messages"]] == ["x", "y", "q"]
    as_text = {"chosen": json.dumps(turns), "rejected": json.dumps([turns[0], turns[1] | {"content": "b"}])}
    wanted = as_preference(plain, "x:1")
    assert as_preference(as_text, "x:1") == wanted
    assert as_preference(plain | {"prompt": json.dumps(turns[:1])}, "x:1") == wanted


def test_a_score_that_is_no_number_is_refused():
    for score in (float("nan"), float("inf")):
        rated = [{"response": "x", "overall_score": score}, {"response": "y", "overall_score": 3}]
        with pytest.raises(DataError, match="completion 1 must be"):
            as_preference({"instruction": "q", "completions": rated}, "x:1")


@pytest.mark.parametrize("value", [None, 3, [3]])
def test_a_value_of_another_type_is_not_shown_as_a_text(value):
    with pytest.raises(DataError) as refused:
        as_preference({"prompt": SKY, "chosen": BLUE, "rejected": value}, "a.jsonl:2")
    assert f"rejected: {value} must be text" in str(refused.value)
