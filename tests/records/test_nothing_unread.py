"""Fields of SFT examples that mean a weight or a system text are read; those without a form here are counted."""

import json

import pytest

from tigerjax import records
from tigerjax.errors import DataError

ASKED, ANSWERED = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}
AGAIN, BETTER = {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "No, 4."}


def sft(record, counts=None):
    return records.as_sft(record, "x.jsonl:1", counts=counts)


@pytest.mark.parametrize(
    ("field", "value", "weight"),
    [
        ("loss_weight", 0.5, 0.5),
        ("loss_scale", 0, 0.0),
        ("loss_scale", 2.0, 2.0),
        ("trainable", False, 0.0),
        ("training", False, 0.0),
        ("trainable", True, None),
    ],
)
def test_a_weight_by_any_name_is_that_of_the_turn_and_of_the_example(field, value, weight):
    turn = sft({"messages": [ASKED, {**ANSWERED, field: value}, AGAIN, BETTER]})["messages"]
    assert (turn[1].get("weight"), turn[3].get("weight")) == (weight, None)
    example = sft({"messages": [ASKED, ANSWERED], field: value})
    assert example.get("weight") == weight
    assert field not in example


def test_the_weights_of_a_table_are_numbers_and_empty_ones_are_none(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("instruction,output,weight,train\na,b,0.25,\nc,d,,\ne,f,3,False\n", encoding="utf-8")
    assert [example.get("weight") for example in records.sft_examples(path)] == [0.25, None, 0.0]
    path.write_text("instruction,output,weight\na,b,high\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.csv:2: the example: weight 'high' must be a number"):
        list(records.sft_examples(path))


def test_two_weights_that_differ_and_weights_that_are_none_are_refused():
    with pytest.raises(DataError, match="names of one weight"):
        sft({"messages": [ASKED, {**ANSWERED, "weight": 1, "loss_scale": 2}]})
    with pytest.raises(DataError, match="message 2: loss_scale"):
        sft({"messages": [ASKED, {**ANSWERED, "loss_scale": "high"}]})
    with pytest.raises(DataError, match="the example: weight -1"):
        sft({"messages": [ASKED, ANSWERED], "weight": -1})


@pytest.mark.parametrize("field", ["system", "system_prompt", "system_message"])
def test_a_system_text_by_any_name_opens_the_first_question(field):
    example = sft({field: "Be brief.", "instruction": "2+2?", "output": "4"})
    assert example["messages"][0]["content"] == "Be brief.\n\n2+2?" and field not in example
    with pytest.raises(DataError, match="hold different system texts"):
        sft({field: "Be brief.", "instruction": "2+2?", "output": "4"} | {"system": "A", "system_prompt": "B"})


def test_fields_without_a_form_are_counted_and_said_in_one_line(tmp_path, capsys):
    thinking = {**ANSWERED, "reasoning_content": "Two and two.", "thinking": "", "name": None, "mask": False}
    rows = [
        {"messages": [ASKED, thinking], "tools": [{"name": "search"}], "loss": 1.25},
        {"messages": [ASKED, {**BETTER, "reasoning_content": "Three and one."}], "tools": []},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    counts = {}
    made = list(records.sft_examples(path, counts=counts))
    assert made[0]["loss"] == 1.25 and "weight" not in made[0]
    assert counts == {
        "unread messages.reasoning_content": 2,
        "unread messages.mask": 1,
        "unread tools": 1,
        "unread loss": 1,
    }
    list(records.sft_examples(path))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "not read, as the chat encoding has no form for them" in lines[0]
    assert "'messages.reasoning_content' of 2 examples" in lines[0] and "'tools' of 1 examples" in lines[0]


def test_many_different_fields_do_not_fill_the_memory():
    counts = {}
    for n in range(100):
        sft({"messages": [ASKED, {**ANSWERED, f"field{n}": n + 1}]}, counts)
    assert len(counts) == 21 and counts["unread others"] == 80


TEMPLATE = "Below is an instruction.\n\n### Instruction:\n2+2?\n\n### Response:\n4"


def test_alpaca_with_its_text_column_is_an_sft_example():
    row = {"instruction": "2+2?", "input": "", "output": "4", "text": TEMPLATE}
    made = records.as_record(row, "x.jsonl:1")
    assert [m["content"] for m in made["messages"]] == ["2+2?", "4"] and "text" not in made


@pytest.mark.parametrize("empty", [{"messages": ""}, {"instruction": "", "output": ""}, {"conversations": None}])
def test_a_document_of_a_table_with_empty_columns_of_dialogues_stays_a_document(empty):
    assert records.as_record({"text": "The tiger.", **empty}, "x.csv:2")["text"] == "The tiger."
