"""Cleaning: exact rules, counts that balance, and nothing lost from clean text."""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tigerjax import records
from tigerjax.command.cli import main
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.stages.runner import Runner
from tigerjax.text.clean import clean_files
from tigerjax.text.rules import REWRITES, RULES, rule_set

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
    "漢語",
    "Ã©",
    "â€™",
    "All rights reserved.\n",
    "a",
    " ",
]


def clean_text(text, *, sft=False, code=False, zh=False, on=()):
    return rule_set(on).rewritten(text, sft=sft, code=code, zh=zh)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\x00b\x9bc\td", "abc\td"),
        ("\ufeff天\u200b地\ue000", "天地"),
        ("Tom &amp; Jerry &lt;3 ?a=1&copy=2", "Tom & Jerry <3 ?a=1&copy=2"),
        ("<p class='x'>one</p>two<br/>three a<b and c>d", "one\ntwo\nthree a<b and c>d"),
        ("a\n\n\n\n\n\nb\n\n\nc", "a\n\n\nb\n\n\nc"),
        ("家庭👨‍👩‍👧 می‌خواهم \u200fשלום", "家庭👨‍👩‍👧 می‌خواهم \u200fשלום"),
        ("全角，！：（１）ＡＢ", "全角，！：（１）ＡＢ"),
        ("cafÃ© â€œquotedâ€\x9d", "café “quoted”"),
        ("Ã vous, Ãngel, ¿qué?", "Ã vous, Ãngel, ¿qué?"),
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
    once = clean_text(text, sft=sft, zh=True, on=["all"])
    assert clean_text(once, sft=sft, zh=True, on=["all"]) == once


def test_counts_balance_and_each_drop_has_its_reason(tmp_path):
    def turns(user, answer):
        return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}

    bad = [turns("q", " \u200b"), turns("q <noinput>", "a"), turns("same", "same"), turns("q2", "http://a.b/c")]
    good = [turns("q", f"answer {i}") for i in range(6)]
    jsonl.write_jsonl(tmp_path / "sft.jsonl", bad + good)
    jsonl.write_jsonl(tmp_path / "docs.jsonl", [{"text": "\x00 \n"}, {"text": "kept", "lang": "en"}])
    made = clean_files([tmp_path / "sft.jsonl", tmp_path / "docs.jsonl"], tmp_path / "out")
    assert made["counts"] == {"in": 12, "out": 7, "dropped": {"echo": 1, "empty": 2, "placeholder": 1, "url_only": 1}}
    assert [r["text"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "docs.jsonl")] == ["kept"]
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


def test_the_command_says_where_the_bad_lines_are(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\nno record\n{"text": "b"}\n')
    words = ["data", "clean", "--input", str(path), "--max-bad-fraction", "0.5", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    place = tmp_path / "out" / "quarantine.json"
    assert f"1 lines are no records; they stand with their errors in {place}" in said.out + said.err
    path.write_text('{"text": "a"}\n')
    assert main([*words, str(tmp_path / "fine")]) == 0
    assert "quarantine" not in "".join(capsys.readouterr())


def test_a_denied_source_is_an_error_unless_drops_are_asked_for(tmp_path):
    jsonl.write_jsonl(tmp_path / "x.jsonl", [{"text": "a", "source": "wiki"}, {"text": "b", "source": "C4/en"}])
    with pytest.raises(DataError, match=r"x\.jsonl:2: id '.{32}': source 'C4/en' is denied"):
        clean_files([tmp_path / "x.jsonl"], tmp_path / "out")
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "out", drop_denied=True)
    assert made["counts"]["dropped"] == {"denied": 1}


def test_an_unknown_rule_and_colliding_names_are_config_errors(tmp_path):
    path = tmp_path / "x.jsonl"
    jsonl.write_jsonl(path, [{"text": string.ascii_letters}])
    with pytest.raises(ConfigError, match="no such cleaning rules"):
        clean_files([path], tmp_path / "out", off=["tagz"])
    (tmp_path / "b").mkdir()
    jsonl.write_jsonl(tmp_path / "b" / "x.jsonl", [{"text": "b"}])
    with pytest.raises(ConfigError, match="have one name"):
        clean_files([path, tmp_path / "b" / "x.jsonl"], tmp_path / "out")


def test_rules_that_are_off_by_default_are_switched_on_by_name(tmp_path):
    long = "The river rose in the night and took the bridge, the mill and both of the old ferries with it. "
    documents = {
        "fine": (long, "en"),
        "short": ("Too short to be a document.", "en"),
        "language": ("这是一篇中文的文章，可是它被标成了英文。" * 4, "en"),
        "letters": ("-- * ++ // == .. ;; :: || " * 9 + long[:90], "en"),
        "repetition": ("Buy now and save.\n" * 9 + long, "en"),
    }
    given = [{"id": name, "text": text, "lang": lang} for name, (text, lang) in documents.items()]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given)
    assert clean_files([tmp_path / "x.jsonl"], tmp_path / "plain")["counts"]["dropped"] == {}
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "web", on=["all"])
    assert made["counts"]["dropped"] == {"language": 1, "letters": 1, "repetition": 1, "short": 1}
    assert made["config"]["rules"]["repetition"] == 1  # its version
    page = (tmp_path / "web" / "report.html").read_text()
    assert all(f"{name} v{rule.version}" in page for name, rule in RULES.items()) and "Buy now and save." in page


def test_simplification_and_boilerplate_are_for_those_who_ask():
    assert clean_text("漢語很難", zh=True) == "漢語很難"
    assert clean_text("漢語很難", zh=True, on=["simplified"]) == "汉语很难"
    assert clean_text("漢語 kanji", on=["simplified"]) == "漢語 kanji"  # neither declared nor mostly Chinese
    text = (
        "A story.\n© 2020 Some Press\nThe copyright of the story is long expired, she said, and went on.\n下一篇：别的"
    )
    assert clean_text(text, on=["boilerplate"]) == "\n".join(text.split("\n")[::2])


def test_rules_about_languages_find_a_language_that_is_not_declared_and_say_how_many_had_none(tmp_path, capsys):
    given = [
        {"id": "a", "text": "漢語", "lang": "zh"},
        {"id": "b", "text": "這是一篇繁體中文的文章，講述臺灣的歷史與文化。"},
        {"id": "c", "text": "語", "lang": None},
        {"id": "d", "text": "漢語", "lang": "zh-TW"},
        {"id": "e", "text": "これは日本語の文章です。漢字と仮名がある。"},
        {"id": "f", "text": "An English text that quotes 漢語."},
        {"id": "g", "messages": [{"role": "user", "content": "漢語？"}, {"role": "assistant", "content": "語"}]},
    ]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given)
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "out", on=["simplified", "language"])
    assert made["figures"]["simplified_without_lang"] == 2 and made["figures"]["simplified_by_text"] == 3
    assert made["figures"]["language_without_lang"] == 5
    kept = [r.get("text") or r["messages"][0]["content"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "x.jsonl")]
    simple = ["汉语", "这是一篇繁体中文的文章，讲述台湾的历史与文化。", "语", "汉语"]
    assert kept == [*simple, given[4]["text"], given[5]["text"], "汉语？"]
    said = capsys.readouterr().err
    assert "5 records have no lang; rule simplified took 3 of them for Chinese" in said
    assert "5 records have no lang, so rule language passed over them" in said
    figures = clean_files([tmp_path / "x.jsonl"], tmp_path / "plain")["figures"]
    assert not [name for name in figures if name.endswith(("_lang", "_by_text"))] and capsys.readouterr().err == ""


def test_sensitive_words_count_by_1000_characters_and_latin_ones_as_whole_words(tmp_path):
    (tmp_path / "words.txt").write_text("ass\n赌博\n", encoding="utf-8")
    texts = {"a": "The class passed the assembly. " * 4, "b": "网上赌博网站。" * 4, "c": "An ass, said the ass. " * 4}
    jsonl.write_jsonl(tmp_path / "x.jsonl", ({"id": i, "text": t} for i, t in texts.items()))
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "out", sensitive=tmp_path / "words.txt")
    assert made["counts"]["dropped"] == {"sensitive": 2}
    assert [r["id"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "x.jsonl")] == ["a"]
    (tmp_path / "words.txt").write_text("\n")
    with pytest.raises(DataError, match="no sensitive word"):
        clean_files([tmp_path / "x.jsonl"], tmp_path / "again", sensitive=str(tmp_path / "words.txt"))


HARD = {
    "mixed scripts": "天 and אבג and देवनागरी and ไทย",
    "code with tabs": "def f():\n\treturn 1\n",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈",
    "right to left": "\u200fשלום\u200e",
    "ten megabytes": "long line " * 1_000_000,
}


def test_hard_but_good_texts_pass_as_they_are_and_halves_of_surrogates_are_quarantined(tmp_path):
    given = [{"id": name, "text": text, "lang": "code" if "code" in name else ""} for name, text in HARD.items()]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given)
    with open(tmp_path / "x.jsonl", "a") as file:
        file.write('{"id": "half", "text": "\\ud83d alone"}\n{"id": "crlf", "text": "a\\r\\nb"}\r\n')
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "out", max_bad_fraction=0.2)
    assert made["counts"] == {"in": 7, "out": 6, "dropped": {"bad": 1}}
    assert "x.jsonl:6" in json.loads((tmp_path / "out" / "quarantine.json").read_text())[0]["error"]
    left = {r["id"]: r["text"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "x.jsonl")}
    assert left == {name: text.strip(" ") for name, text in HARD.items()} | {"crlf": "a\nb"}


def test_an_id_that_comes_twice_is_an_error_with_both_places(tmp_path):
    jsonl.write_jsonl(tmp_path / "x.jsonl", [{"id": "1", "text": "a"}])
    jsonl.write_jsonl(tmp_path / "y.jsonl", ({"id": i, "text": i} for i in ("3", "2", "2")))
    with pytest.raises(DataError, match=r"y\.jsonl:3: id '2' occurs a second time; the first is at .*y\.jsonl:2"):
        clean_files([tmp_path / "x.jsonl", tmp_path / "y.jsonl"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_bytes_from_small_blocks_and_two_workers(tmp_path, monkeypatch):
    given = [{"id": str(i), "text": f"<b>{i}</b> &amp; more\r\n" + "x" * (i % 40), "lang": "en"} for i in range(300)]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given)
    clean_files([tmp_path / "x.jsonl"], tmp_path / "one")
    monkeypatch.setattr(block, "BLOCK_BYTES", 2_000)
    monkeypatch.setattr(block, "SCAN_BYTES", 500)
    clean_files([tmp_path / "x.jsonl"], tmp_path / "two", runner=Runner(workers=2))
    for name in ("x.jsonl", "samples.json", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_every_rule_says_what_it_does_and_names_are_unique():
    assert len(RULES) == len({*RULES}) and all(rule.version >= 1 for rule in RULES.values())
    assert all(rule.apply.__doc__ for rule in REWRITES)
