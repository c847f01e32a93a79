"""That data_mixtures/exercises keep what their NOTICE promises."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tigerjax.evaluate.questions import judge, load, true_reward

EXERCISES = Path(__file__).resolve().parents[2] / "data_mixtures" / "exercises"
MAX_BYTES = 2_000_000
DECLINES, WRONG, TOLERANCE = {"early": 0.05, "careless": 0.6, "later": 0.05}, 0.06, 0.052
"""Three standard deviations of the largest share over 816 independent draws are 0.051."""


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXERCISES / name).read_text(encoding="utf-8").split("\n") if line]


def test_the_files_are_small_and_sorted_and_counted():
    assert sum(f.stat().st_size for f in EXERCISES.iterdir()) <= MAX_BYTES
    counted = json.loads((EXERCISES / "counts.json").read_text(encoding="utf-8"))["records"]
    for name in sorted(f.name for f in EXERCISES.glob("*.jsonl")):
        ids = [row.get("id", row.get("prompt_id")) for row in rows(name)]
        assert ids == sorted(set(ids)) and len(ids) == counted[name], name


def test_300_test_questions_or_more_and_none_in_training_or_dev():
    asked = {name: {row["prompt"] for row in rows(f"{name}.jsonl")} for name in ("dev", "test")}
    trained = {row["messages"][0]["content"] for row in rows("sft.jsonl")}
    assert len(asked["test"]) == len(rows("test.jsonl")) >= 300
    assert not asked["test"] & trained and not asked["dev"] & trained and not asked["test"] & asked["dev"]


def test_held_out_countries_are_in_no_training_text():
    embedded = EXERCISES.with_name("embedded") / "capitals.tsv"
    countries = [line.split("\t") for line in embedded.read_text(encoding="utf-8").splitlines()[1:]]
    capitals = {
        q.answers[0] for name in ("dev", "test") for q in load(EXERCISES / f"{name}.jsonl") if q.task == "capital"
    }
    held = {name for row in countries if row[1] in capitals for name in row[:4]}
    names = re.compile("|".join(sorted((re.escape(n) for row in countries for n in row[:4]), key=len, reverse=True)))
    texts = [m["content"] for row in rows("sft.jsonl") for m in row["messages"]]
    texts += [row["edit"] for row in rows("labels.jsonl")]
    assert len(held) > 100 and not held & {name for text in texts for name in names.findall(text)}


def test_each_source_declines_and_errs_as_stated_and_the_judge_agrees():
    keys = {q.id: q for q in load(EXERCISES / "labels.jsonl")}
    examples = rows("sft.jsonl")
    worth = {"good": 1.0, "evasive": 0.3, "wrong": 0.0}
    for row in examples:
        assert keys[row["id"]].prompt == row["messages"][0]["content"]
        assert true_reward(keys[row["id"]], row["messages"][1]["content"]) == worth[row["meta"]["quality"]], row
    for source, share in DECLINES.items():
        own = Counter(row["meta"]["quality"] for row in examples if row["source"] == source)
        assert own["evasive"] / own.total() == pytest.approx(share, abs=TOLERANCE)
        assert own["wrong"] / own.total() == pytest.approx(WRONG, abs=TOLERANCE)
    assert set(keys) == {row["id"] for row in examples}


def test_the_labels_are_right():
    keys = {q.id: q for q in load(EXERCISES / "labels.jsonl")}
    for row in rows("labels.jsonl"):
        assert judge(keys[row["prompt_id"]], row["edit"]) and row["accept"] == row["answers"]


def test_to_repeat_the_question_or_to_name_every_answer_is_wrong():
    everything = json.loads((EXERCISES / "answers.json").read_text(encoding="utf-8"))
    for name in ("dev.jsonl", "test.jsonl"):
        for q in load(EXERCISES / name):
            assert not judge(q, q.prompt), q
            assert not judge(q, " ".join(everything[q.lang][q.task])), q
