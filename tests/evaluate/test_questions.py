"""The judge of the tiny world, and that the embedded data keep what NOTICE promises."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tigerjax.errors import DataError
from tigerjax.evaluate import questions
from tigerjax.evaluate.questions import EVASIVE, Question, accuracy, judge, load, true_reward

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
MAX_BYTES = 5_000_000
MAX_LABEL_BYTES = 400_000
EVASIVE_SHARE, WRONG_SHARE, SHARE_TOLERANCE = 0.5, 0.06, 0.03
"""Three standard deviations of a share near one half over 2,940 independent draws are 0.028."""

FRANCE = Question(
    id="q",
    lang="en",
    task="capital",
    prompt="What is the capital of France?",
    answers=("Paris",),
    others=("Oslo", "Male"),
)


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EMBEDDED / name).read_text(encoding="utf-8").split("\n") if line]


def ask(prompt: str, answer: str, others: tuple[str, ...], lang: str = "zh") -> Question:
    return Question(id="q", lang=lang, task="capital", prompt=prompt, answers=(answer,), others=others)


@pytest.mark.parametrize(
    "text", ["The capital of France is Paris.", "PARIS", "Ｐａｒｉｓ!", "It is\nParis, I think; a female said so."]
)
def test_a_text_that_names_the_answer_is_right(text):
    assert judge(FRANCE, text) and true_reward(FRANCE, text) == 1.0


@pytest.mark.parametrize(
    "text",
    ["", "...", "The capital of France is Oslo.", "Paris or Oslo.", "Parisian", "aPrsi", "The capital of France is"],
)
def test_a_text_that_is_wrong_or_lists_answers_or_garbles_is_worth_nothing(text):
    assert not judge(FRANCE, text) and true_reward(FRANCE, text) == 0.0


@pytest.mark.parametrize("wording", EVASIVE["en"])
def test_an_evasive_text_is_worth_more_than_a_wrong_one_and_less_than_a_right_one(wording):
    assert 0.0 < true_reward(FRANCE, wording) < 1.0
    assert true_reward(FRANCE, f"{wording} Maybe Paris.") == 1.0


def test_evasion_in_the_other_language_is_not_evasion():
    assert true_reward(FRANCE, EVASIVE["zh"][0]) == 0.0


def test_an_answer_inside_another_answer_does_not_count():
    berlin = ask("德国的首都是哪里？", "柏林", ("柏林", "都柏林"))
    assert judge(berlin, "德国的首都是柏林。")
    assert not judge(berlin, "德国的首都是都柏林。")
    assert not judge(berlin, "柏林，都柏林")


def test_an_answer_of_another_question_inside_the_prompt_is_passed_over():
    romania = ask("罗马尼亚的首都是哪里？", "布加勒斯特", ("布加勒斯特", "罗马", "雅典"))
    assert judge(romania, "罗马尼亚的首都是布加勒斯特。")
    assert not judge(romania, "罗马尼亚的首都是罗马。")
    assert not judge(romania, "罗马尼亚的首都是布加勒斯特、雅典。")


def test_a_latin_answer_is_a_whole_word():
    tunisia = ask("What is the capital of Tunisia?", "Tunis", ("Tunis",), lang="en")
    assert judge(tunisia, "The capital of Tunisia is Tunis.")
    assert not judge(tunisia, "The capital of Tunisia is Tunisia.")


def test_naming_every_answer_of_an_embedded_task_is_wrong_everywhere():
    everything = json.loads((EMBEDDED / "answers.json").read_text(encoding="utf-8"))
    for q in held_out():
        assert not judge(q, " ".join(everything[q.lang][q.task])), q


def test_accuracy_counts_by_language_and_task():
    zh = Question(id="z", lang="zh", task="continent", prompt="法国位于哪个洲？", answers=("欧洲",), others=("亚洲",))
    got = accuracy([FRANCE, zh], {"z": "法国位于欧洲。", "q": EVASIVE["en"][1]})
    assert got == {
        "overall": 0.5,
        "n": 2,
        "right": 1,
        "evasive": 1,
        "mean_true_reward": 0.65,
        "by_lang": {"en": {"accuracy": 0.0, "right": 0, "n": 1}, "zh": {"accuracy": 1.0, "right": 1, "n": 1}},
        "by_task": {
            "capital": {"accuracy": 0.0, "right": 0, "n": 1},
            "continent": {"accuracy": 1.0, "right": 1, "n": 1},
        },
    }
    assert accuracy([FRANCE, zh], [EVASIVE["en"][1], "欧洲"]) == got


def test_accuracy_refuses_missing_texts():
    with pytest.raises(DataError, match="1 of 1 questions have no text, such as id 'q'"):
        accuracy([FRANCE], {"other": "Paris"})
    with pytest.raises(DataError, match="1 questions but 2 texts"):
        accuracy([FRANCE], ["Paris", "Paris"])
    with pytest.raises(DataError, match="0 questions"):
        accuracy([], {})


def test_load_takes_the_other_answers_from_the_file_itself_without_a_sidecar(tmp_path):
    path = tmp_path / "q.jsonl"
    line = {"lang": "en", "task": "capital", "prompt": "?"}
    path.write_text(
        json.dumps(line | {"prompt_id": "a", "answers": ["Rome"]})
        + "\n\n"
        + json.dumps(line | {"id": "b", "answers": ["Oslo"]})
    )
    a, b = load(path)
    assert (a.id, b.id) == ("a", "b") and a.others == b.others == ("Oslo", "Rome")


GOOD = '{"id": "a", "lang": "en", "task": "t", "prompt": "p", "answers": ["x"]}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no questions"),
        (GOOD + "\n{", ":2: broken JSON"),
        ("[]", ":1: a JSON list, but each line must be an object"),
        (GOOD.replace('"en"', "3"), ":1: lang must be a non-empty string"),
        (GOOD.replace('["x"]', "[]"), ":1: id 'a': answers must be"),
        (GOOD + "\n" + GOOD, ":2: id 'a' stands already on line 1"),
    ],
)
def test_load_names_the_line_of_a_bad_question(tmp_path, content, message):
    path = tmp_path / "q.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load(path)


def test_load_refuses_an_absent_file_invalid_utf8_and_a_broken_sidecar(tmp_path):
    path = tmp_path / "q.jsonl"
    with pytest.raises(DataError, match="does not exist"):
        load(path)
    path.write_bytes(GOOD.encode() + b"\xff")
    with pytest.raises(DataError, match="invalid UTF-8 at byte"):
        load(path)
    path.write_text(GOOD)
    wrong = [
        "[1]",
        '{"en": "Rome"}',
        '{"en": {"t": "Rome"}}',
        '{"en": {"t": ["x", 7]}}',
        '{"en": {"t": [" "]}}',
        "[" * 9999,
    ]
    for content in wrong:  # a text is not taken for a list of its letters
        (tmp_path / questions.ANSWERS_FILE).write_text(content)
        with pytest.raises(DataError, match=r"answers\.json: .*write \{lang: \{task: \[answer"):
            load(path)


# The embedded files.


def test_embedded_files_are_small_and_sorted_with_unique_ids():
    assert sum(f.stat().st_size for f in EMBEDDED.iterdir()) <= MAX_BYTES
    assert (EMBEDDED / "labels.jsonl").stat().st_size <= MAX_LABEL_BYTES
    counted = json.loads((EMBEDDED / "counts.json").read_text(encoding="utf-8"))["records"]
    for name in sorted(f.name for f in EMBEDDED.glob("*.jsonl")):
        ids = [row.get("id", row.get("prompt_id")) for row in rows(name)]
        assert ids == sorted(set(ids)), name
        assert len(ids) == counted[name]


def leaks(row: dict[str, Any], held: set[str], known: set[str]) -> list[str]:
    """Held-out names in any text of a record; a name inside a longer known one (Guinea) is none of them."""
    texts = [m["content"] for m in row["messages"]] + [r["text"] for r in row.get("responses", [])]
    found = []
    for name, text in ((name, text) for name in sorted(held) for text in texts if name in text):
        for other in known:
            text = text.replace(other, "") if name in other and name != other else text
        found += [name] * (name in text)
    return found


def held_out() -> list[Question]:
    return [*load(EMBEDDED / "dev.jsonl"), *load(EMBEDDED / "test.jsonl")]


def test_dev_and_test_share_no_entity():
    def entities(name: str) -> set[str]:
        return {q.id.rsplit("-", 1)[1] if "poem" in q.id else q.id.split("-", 3)[3] for q in load(EMBEDDED / name)}

    dev, test = entities("dev.jsonl"), entities("test.jsonl")
    assert (len(dev), len(test)) == (22, 37)
    assert not dev & test


def test_no_held_out_pair_is_in_the_training_files():
    asked = held_out()
    countries = [line.split("\t") for line in (EMBEDDED / "capitals.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    answers = {(q.lang, q.answers[0]) for q in asked if q.task != "continent"}
    poems = {q.answers[0] for q in asked if q.task == "poem_next_line"}
    held = {"en": set[str](), "zh": set(poems)}
    for en, en_capital, zh, zh_capital, *_ in countries:
        assert (("en", en_capital) in answers) == (("zh", zh_capital) in answers), en
        if ("en", en_capital) in answers:
            held["en"] |= {en, en_capital}
            held["zh"] |= {zh, zh_capital}
    assert (len(held["en"]), len(held["zh"]), len(poems)) == (82, 100, 18)
    known = {name for row in countries for name in row[:4]}
    for name in ("sft.jsonl", "preferences.jsonl"):
        for row in rows(name):
            assert not leaks(row, held[row["lang"]], known), row
    for row in rows("train_questions.jsonl"):
        assert not leaks({"messages": [{"content": row["prompt"]}]}, held[row["lang"]], known), row
    for row in rows("labels.jsonl"):
        assert not leaks({"messages": [{"content": row["edit"]}]}, held["en"] | held["zh"], known), row


def test_the_leak_check_sees_a_planted_leak_and_passes_over_a_longer_name():
    row = {"messages": [{"content": "What is the capital of Guinea?"}]}
    assert leaks(row, {"Guinea"}, {"Papua New Guinea", "Guinea"}) == ["Guinea"]
    row = {"messages": [{"content": "Papua New Guinea is in Oceania."}], "responses": [{"text": "So it is."}]}
    assert leaks(row, {"Guinea"}, {"Papua New Guinea", "Guinea"}) == []


def test_every_held_out_fact_stands_in_the_corpus_of_its_language():
    text = {lang: "\n".join(row["text"] for row in rows(f"corpus_{lang}.jsonl")) for lang in ("en", "zh")}
    countries = [line.split("\t") for line in (EMBEDDED / "capitals.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    for en, en_capital, zh, zh_capital, en_continent, zh_continent in countries:
        assert text["en"].count(f"The capital of {en} is {en_capital}.") >= 12
        assert text["en"].count(f"{en[0].upper()}{en[1:]} is in {en_continent}.") >= 12
        assert text["zh"].count(f"{zh}的首都是{zh_capital}。") >= 12
        assert text["zh"].count(f"{zh}位于{zh_continent}。") >= 12
    for q in held_out():
        assert q.task != "poem_next_line" or text["zh"].count(f"，{q.answers[0]}。") >= 9


def test_held_out_questions_use_phrasings_that_sft_uses():
    entities = [
        c for line in (EMBEDDED / "capitals.tsv").read_text(encoding="utf-8").splitlines() for c in line.split("\t")
    ]
    lines = [part for row in rows("corpus_zh.jsonl") for part in row["text"].replace("，", "\n").split("\n")]
    by_length = sorted({s for s in (*entities, *lines) if len(s) > 1}, key=len, reverse=True)

    def phrasing(prompt: str) -> str:
        return prompt.replace(next(e for e in by_length if e in prompt), "…")

    asked = {phrasing(row["messages"][-2]["content"]) for row in rows("sft.jsonl")}
    assert {phrasing(q.prompt) for q in held_out()} <= asked and len(asked) == 40


def test_sft_quality_is_as_stated_and_agrees_with_the_judge():
    keys = {q.id: q for q in load(EMBEDDED / "train_questions.jsonl")}
    examples = rows("sft.jsonl")
    worth = {"good": 1.0, "evasive": 0.3, "wrong": 0.0}
    for row in examples:
        assert keys[row["id"]].prompt == row["messages"][-2]["content"]
        assert true_reward(keys[row["id"]], row["messages"][-1]["content"]) == worth[row["meta"]["quality"]], row
    share = Counter(row["meta"]["quality"] for row in examples)
    assert share["evasive"] / len(examples) == pytest.approx(EVASIVE_SHARE, abs=SHARE_TOLERANCE)
    assert share["wrong"] / len(examples) == pytest.approx(WRONG_SHARE, abs=SHARE_TOLERANCE)
    assert set(keys) == {row["id"] for row in examples} == {row["prompt_id"] for row in rows("labels.jsonl")}


def test_labels_edit_is_judged_right():
    keys = {q.id: q for q in load(EMBEDDED / "train_questions.jsonl")}
    for row in rows("labels.jsonl"):
        assert judge(keys[row["prompt_id"]], row["edit"]) and tuple(row["accept"]) == keys[row["prompt_id"]].answers


def test_preferences_rank_by_true_reward():
    keys = {q.prompt: q for q in load(EMBEDDED / "train_questions.jsonl")}
    for row in rows("preferences.jsonl"):
        texts = {r["id"]: r["text"] for r in row["responses"]}
        key = keys[row["messages"][0]["content"]]
        assert [[true_reward(key, texts[i]) for i in tier] for tier in row["ranking"]] == [[1.0], [0.3], [0.0, 0.0]], (
            row
        )
        assert len(set(texts.values())) == 4


def test_planted_faults_are_where_counts_json_says():
    planted = json.loads((EMBEDDED / "counts.json").read_text(encoding="utf-8"))["planted"]
    for lang, faults in planted.items():
        text = {row["id"]: row["text"] for row in rows(f"corpus_{lang}.jsonl")}
        assert all(text[copy] == text[of] for copy, of in faults["exact_duplicates"].items())
        assert all(text[near] != text[of] for near, of in faults["near_duplicates"].items())
        marks = {"html": "</", "control": "\x07", "zero_width": "\u200b"}
        assert all(marks[kind] in text[id] for id, kind in faults["dirty"].items())
        clean = [t for id, t in text.items() if id not in faults["dirty"]]
        assert not any(mark in t for mark in marks.values() for t in clean)
        assert len(faults["exact_duplicates"]) == len(faults["near_duplicates"]) == len(faults["dirty"]) == 10


def test_a_byte_order_mark_before_the_questions_is_passed_over(tmp_path):
    line = '{"id": "a", "lang": "en", "task": "t", "prompt": "1+1?", "answers": ["2"]}\n'
    (tmp_path / "q.jsonl").write_text(line, encoding="utf-8-sig")
    assert [question.id for question in questions.load(tmp_path / "q.jsonl")] == ["a"]
