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
    with pytest.raises(DataError, match=r"sft\.jsonl:1: id 'x': holds messages, of which nothing can be cut"):
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


def units(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return [unit["text"] for unit in questions(path)]


def test_a_csv_file_of_mmlu_has_no_line_of_names(tmp_path):
    path = tmp_path / "law_test.csv"
    assert units(path, "What is law?,1,2,2,z,C", '"And, now?",a,b,c,d,A') == [
        "What is law?\nA. 1\nB. 2\nC. 2\nD. z",
        "And, now?\nA. a\nB. b\nC. c\nD. d",
    ]
    named = ["What is law?\nA. w\nB. x\nC. y\nD. z"]
    assert units(path, "question,A,B,C,D,answer", "What is law?,w,x,y,z,C") == named
    assert units(path, "id,Question,A,B,C,D,Answer", "1,What is law?,w,x,y,z,C") == named


@pytest.mark.parametrize(
    ("record", "question"),
    [
        ({"instruction": "Translate.", "input": "The river runs.", "output": "x"}, "Translate.\nThe river runs."),
        ({"instruction": "Translate.", "input": ""}, "Translate."),
        ({"input": "Where?", "target": "Here"}, "Where?"),
        ({"question_id": 81, "turns": ["Write a post.", "Write it again."]}, "Write a post.\nWrite it again."),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Why?"}]},
            "Why?",
        ),
        ({"input": [{"role": "system", "content": "s"}, {"role": "user", "content": "Why?"}], "ideal": "x"}, "Why?"),
        ({"prompt": [{"role": "user", "content": "Why?"}]}, "Why?"),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}, "Why?"),
    ],
)
def test_a_question_in_any_form_is_what_the_user_says(tmp_path, record, question):
    assert units(tmp_path / "x.jsonl", json.dumps(record)) == [question]


def test_a_form_that_holds_no_question_is_refused_by_the_name_of_its_field(tmp_path):
    for wrong in ({"turns": [1, 2]}, {"messages": [{"role": "assistant", "content": "x"}]}, {"turns": []}):
        with pytest.raises(DataError, match=f"no question in field '{next(iter(wrong))}'.*--field"):
            units(tmp_path / "x.jsonl", json.dumps(wrong))


def test_questions_that_are_too_short_are_counted_and_said(files, capsys):
    jsonl.write_jsonl(files / "mix.jsonl", [{"question": ENGLISH}, {"question": "?"}, {"question": "!"}])
    made = decontaminate_files([files / "docs.jsonl"], [files / "mix.jsonl"], files / "short")
    assert made["figures"]["units_too_short"] == 2
    assert "mix.jsonl: 2 questions are too short to be searched for" in capsys.readouterr().err
