"""Cleaning: exact rules, counts that balance, and nothing lost from clean text."""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tigerjax.data import records
from tigerjax.data.clean import clean_files, clean_text
from tigerjax.errors import ConfigError, DataError

PIECES = [
    "&lt;",
    "&amp;",
    "<b>",
    "</p>",
    "&#10;",
    "\r",
    "\n",
    "\u200b",
    "\x00",
    "### Response:",
    "<pad>",
    "天",
    "a",
    " ",
]


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\x00b\x85c\td", "abc\td"),
        ("\ufeff天\u200b地\ue000", "天地"),
        ("Tom &amp; Jerry &lt;3 ?a=1&copy=2", "Tom & Jerry <3 ?a=1&copy=2"),
        ("<p class='x'>one</p>two<br/>three a<b and c>d", "one\ntwo\nthree a<b and c>d"),
        ("a\n\n\n\n\n\nb\n\n\nc", "a\n\n\nb\n\n\nc"),
        ("家庭👨‍👩‍👧 می‌خواهم \u200fשלום", "家庭👨‍👩‍👧 می‌خواهم \u200fשלום"),
        ("全角，！：（１）ＡＢ", "全角，！：（１）ＡＢ"),
    ],
)
def test_each_rewrite_does_what_it_says(dirty, clean):
    assert clean_text(dirty, sft=False) == clean


def test_markers_go_from_sft_text_only_and_html_stays_in_code():
    assert clean_text("q\n\n### Response:\na", sft=True) == "q\na"
    assert clean_text("q\n\n### Response:\na", sft=False) == "q\n\n### Response:\na"
    assert clean_text("    if a &lt; <b>:\n", sft=False, code=True) == "    if a &lt; <b>:\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=20).map("".join), st.booleans())
def test_cleaning_twice_is_cleaning_once(text, sft):
    once = clean_text(text, sft=sft)
    assert clean_text(once, sft=sft) == once


def test_counts_balance_and_each_drop_has_its_reason(tmp_path):
    def turns(user, answer):
        return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}

    bad = [turns("q", " \u200b"), turns("q <noinput>", "a"), turns("same", "same"), turns("q2", "http://a.b/c")]
    good = [turns("q", f"answer {i}") for i in range(6)]
    records.write_jsonl(tmp_path / "sft.jsonl", bad + good)
    records.write_jsonl(tmp_path / "docs.jsonl", [{"text": "\x00 \n"}, {"text": "kept", "lang": "en"}])
    made = clean_files([tmp_path / "sft.jsonl", tmp_path / "docs.jsonl"], tmp_path / "out")
    assert made["counts"] == {"in": 12, "out": 7, "dropped": {"echo": 1, "empty": 2, "placeholder": 1, "url_only": 1}}
    assert [r["text"] for _, r in records.read_jsonl(tmp_path / "out" / "docs.jsonl")] == ["kept"]
    assert len(list(records.sft_examples(tmp_path / "out" / "sft.jsonl"))) == 6


def test_bad_lines_are_quarantined_up_to_a_fraction(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(b'{"text": "%d"}\n' % i for i in range(99)) + b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:100: invalid UTF-8.*1 of 100 records are bad"):
        clean_files([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    made = clean_files([path], tmp_path / "out", max_bad_fraction=0.01)
    assert made["counts"] == {"in": 100, "out": 99, "dropped": {"bad": 1}}
    assert "\\xff" in json.loads((tmp_path / "out" / "quarantine.json").read_text())[0]["line"]


def test_a_denied_source_is_an_error_unless_drops_are_asked_for(tmp_path):
    records.write_jsonl(tmp_path / "x.jsonl", [{"text": "a", "source": "wiki"}, {"text": "b", "source": "C4/en"}])
    with pytest.raises(DataError, match=r"x\.jsonl:2: source 'C4/en'"):
        clean_files([tmp_path / "x.jsonl"], tmp_path / "out")
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "out", drop_denied=True)
    assert made["counts"]["dropped"] == {"denied": 1}


def test_an_unknown_rule_and_colliding_names_are_config_errors(tmp_path):
    path = tmp_path / "x.jsonl"
    records.write_jsonl(path, [{"text": string.ascii_letters}])
    with pytest.raises(ConfigError, match="no such cleaning rules"):
        clean_files([path], tmp_path / "out", off=["tagz"])
    (tmp_path / "b").mkdir()
    records.write_jsonl(tmp_path / "b" / "x.jsonl", [{"text": "b"}])
    with pytest.raises(ConfigError, match="have one name"):
        clean_files([path, tmp_path / "b" / "x.jsonl"], tmp_path / "out")
