"""The prompts and rules of docs/REAL_MODEL.md, and that the page says its cells."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    for folder in ("speed", "data", "studies"):
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / folder))


def test_the_answers_that_code_writes_keep_their_rules():
    from checkable import FAMILIES, made

    broken = [q for family in FAMILIES for q in (made(family, n) for n in range(400)) if not q.right(f" {q.answer}\n")]
    assert not broken, broken[:3]


def test_no_prompt_stands_in_two_splits():
    from checkable import FAMILIES, SPLITS, by_id, split

    prompts = {name: {q.prompt for q in split(name, 60)} for name in SPLITS}
    for name, own in prompts.items():
        assert len(own) == len(split(name, 60)) > 30 * len(FAMILIES)
        assert not any(own & other for others, other in prompts.items() if others != name)
    one = split("test", 3)[-1]
    assert by_id(one.prompt_id).prompt == one.prompt


WRONG = {
    "short": ("A garden is a place where people grow flowers and trees and walk all day long.", "A garden", "Yes."),
    "include": ("A garden is a place.", "The word is {word}."),
    "begins": ("I like a garden.", "{word} is a word."),
    "question": ("A garden is nice.", "What is it?", "What is a garden? It is a place."),
    "commas": (
        "France",
        "France, France",
        "France and Japan",
        "France, Japan, Kenya",
        "Here are two of them: A, B",
    ),
    "numbered": ("France\nJapan", "1. France", "1. France\n2. France", "1. France\n2. Japan\n3. Kenya", "2. A\n1. B"),
    "json": ("{}", "[]", "no", '{"name": "X", "age": 1}', "null", '"name"'),
    "sum": ("", "I do not know.", "10 + 13 = 22.", "23 or 24"),
    "opposite": ("hot", "I do not know.", "It is one of " + "many words " * 10),
    "capital": ("London.", "I do not know.", "It is one of these cities: " + "Luanda or Paris " * 10),
}


@pytest.mark.parametrize("family", sorted(WRONG))
def test_other_answers_do_not_keep_them(family):
    from checkable import FAMILIES, split

    assert FAMILIES.keys() == WRONG.keys()
    one = next(q for q in split("test", 1) if q.family == family)
    word = one.prompt.split('"')[1] if '"' in one.prompt else ""
    assert one.right(one.answer)
    for text in (*WRONG[family], "", "  \n"):
        assert not one.right(text.format(word=word) if "{word}" in text else text), text


def test_what_is_right_in_another_form_counts():
    from checkable import made

    for family, text in (
        ("json", '{\n  "age": "55",\n  "name": "Karin"\n}'),
        ("sum", "The sum of 10 and 13 is 23"),
        ("commas", "Brazil and Peru, Kenya"),
        ("numbered", "1. Brazil.\n2. Kenya"),
        ("capital", "Luanda is the capital."),
    ):
        assert made(family, 3).right(text), (family, made(family, 3).prompt)


def test_the_page_says_its_cells():
    from real_model_page import KEPT, PAGE, markdown

    assert markdown(json.loads(KEPT.read_text(encoding="utf-8"))) == PAGE.read_text(encoding="utf-8")
