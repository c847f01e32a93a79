"""Evaluation questions in training data: found in documents and SFT examples, counted by task."""

import json

import pytest

from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.text.decontaminate import decontaminate_files, questions

ENGLISH = (
    "A baker makes twelve trays of nine rolls in the morning and sells all but seventeen of them before noon; how many"
    " rolls does he have to bake again if a school orders a hundred and thirty for its summer feast in the park?"
)
CHINESE = "下列关于光合作用与呼吸作用的叙述中，正确的是哪一项？叶绿体把二氧化碳和水变成葡萄糖，并且放出氧气。"


@pytest.fixture
def files(tmp_path):
    jsonl.write_jsonl(tmp_path / "gsm8k.jsonl", [{"question": ENGLISH, "answer": "39"}])
    (tmp_path / "ceval.csv").write_text(f"id,Question,A,B,C,D,Answer\n0,{CHINESE},甲,乙,丙,丁,A\n", encoding="utf-8")
    rest = "Nothing of the sort stands here, only a walk along the river and what there was to see on it. " * 3
    documents = [
        {"id": "a", "text": rest},
        {"id": "b", "text": f"{rest} {ENGLISH.upper()} {rest}"},
        {"id": "c", "text": "前面的话。" * 20 + CHINESE + "后面的话。" * 20},
    ]
    jsonl.write_jsonl(tmp_path / "docs.jsonl", documents)
    examples = {"x": (CHINESE, "甲。"), "y": ("What is a river?", "Water that runs to the sea.")}
    turns = {i: [{"role": "user", "content": q}, {"role": "assistant", "content": a}] for i, (q, a) in examples.items()}
    jsonl.write_jsonl(tmp_path / "sft.jsonl", ({"id": i, "messages": t} for i, t in turns.items()))
    return tmp_path


def test_documents_and_examples_with_a_question_go_and_tasks_are_counted(files):
    docs, sets = [files / "docs.jsonl", files / "sft.jsonl"], [files / "gsm8k.jsonl", files / "ceval.csv"]
    made = decontaminate_files(docs, sets, files / "out")
    assert made["counts"] == {"in": 5, "out": 2, "dropped": {"decontaminate": 3}}
    assert made["figures"]["by_task"] == {"ceval": 2, "gsm8k": 1}
    assert [r["id"] for _, r in jsonl.read_jsonl(files / "out" / "docs.jsonl")] == ["a"]
    assert [r["id"] for _, r in jsonl.read_jsonl(files / "out" / "sft.jsonl")] == ["y"]
    hits = [r for _, r in jsonl.read_jsonl(files / "out" / "hits" / "hits.jsonl")]
    assert [(h["doc"], h["eval_id"]) for h in hits] == [("b", "gsm8k:1"), ("c", "ceval:2"), ("x", "ceval:2")]


def test_a_report_changes_nothing_and_messages_cannot_be_cut(files):
    made = decontaminate_files([files / "docs.jsonl"], [files / "gsm8k.jsonl"], files / "out", action="report")
    assert made["counts"]["out"] == 3 and made["figures"]["hits"] == 1
    with pytest.raises(DataError, match="record 'x' holds messages, of which nothing can be cut; use drop"):
        decontaminate_files([files / "sft.jsonl"], [files / "ceval.csv"], files / "cut", action="cut")


def test_a_set_without_a_question_is_refused_by_line(files):
    jsonl.write_jsonl(files / "odd.jsonl", [{"stem": "why"}])
    with pytest.raises(DataError, match=r"odd\.jsonl:1: no question in field 'question'; the record has \['stem'\]"):
        decontaminate_files([files / "docs.jsonl"], [files / "odd.jsonl"], files / "out")
    decontaminate_files([files / "docs.jsonl"], [files / "odd.jsonl"], files / "out", field="stem")
    (files / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl: is empty"):
        decontaminate_files([files / "docs.jsonl"], [files / "empty.jsonl"], files / "none")


def test_a_question_that_holds_its_stem_and_choices_is_opened(tmp_path):
    choices = [{"text": "cold", "label": "A"}, {"text": "hot", "label": "B"}]
    path = tmp_path / "openbookqa.jsonl"
    path.write_text(json.dumps({"id": "1", "question": {"stem": "Ice is", "choices": choices}}) + "\n")
    (unit,) = questions(path)
    assert unit["text"] == "Ice is\nA. cold\nB. hot"
