"""The scorer of quality: learns from examples, the same model each time, and says how it does on others."""

import json
import random
import re
import sys

import pytest

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.text import quality
from tigerjax.text.quality import scorer, train
from tigerjax.text.quality_scores import Use, score_files

DRAW = random.Random(4)
KNOWN = "theorem energy river dynasty cell orbit 定理 能量 朝代 细胞 轨道 证明".split()
CHAT = "lol omg buy now click wow 哈哈 呵呵 亲 包邮 点击 赶快".split()


def text(words):
    return " ".join(DRAW.choice([*words, "the", "of", "的", "是"]) for _ in range(30))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    for name, words in (("good", KNOWN), ("bad", CHAT)):
        jsonl.write_jsonl(folder / f"{name}.jsonl", [{"id": f"{name}{n}", "text": text(words)} for n in range(120)])
    mixed = [{"id": f"m{n}", "text": text(KNOWN if n % 2 else CHAT), "meta": {"page": n}} for n in range(20)]
    jsonl.write_jsonl(folder / "docs.jsonl", mixed)
    return folder


@pytest.fixture(scope="module")
def model(files):
    train([files / "good.jsonl"], [files / "bad.jsonl"], files / "model")
    return files / "model"


def test_what_it_learnt_holds_for_examples_that_it_has_not_seen(files, model, tmp_path):
    figures = json.loads((model / "manifest.json").read_text())["figures"]
    assert figures["area"] > 0.99 and figures["accuracy"] > 0.95 and figures["held_out"] > 30
    assert figures["good"] + figures["bad"] + figures["held_out"] == 240
    train([files / "good.jsonl"], [files / "bad.jsonl"], tmp_path / "again")
    assert (model / "model.npy").read_bytes() == (tmp_path / "again" / "model.npy").read_bytes()


def test_scores_stand_in_the_documents_and_drop_those_below_the_least(files, model, tmp_path):
    made = score_files([files / "docs.jsonl"], model, tmp_path / "all")
    got = {record["id"]: record["meta"] for _, record in jsonl.read_jsonl(tmp_path / "all" / "docs.jsonl")}
    assert all((got[f"m{n}"]["quality"] > 0.5) == bool(n % 2) and got[f"m{n}"]["page"] == n for n in range(20))
    assert sum(made["figures"]["by_score"].values()) == 20
    again = score_files([tmp_path / "all"], model, tmp_path / "again", use=Use(least=0.5))
    assert again["counts"] == {"in": 20, "out": 10, "dropped": {"quality_score": 10}}
    assert any(name.startswith("score 0.") for name in json.loads((tmp_path / "again" / "samples.json").read_text()))


def test_a_function_of_ones_own_scores_too(files, tmp_path, monkeypatch):
    (tmp_path / "my_scorer.py").write_text("def odd(texts):\n    return [len(t) % 2 for t in texts]\n\n\nwild = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = score_files([files / "docs.jsonl"], "my_scorer:odd", tmp_path / "out")
    assert set(made["figures"]["by_score"]) <= {"0.0", "0.9"}
    assert any(entry["path"].endswith("my_scorer.py") for entry in made["inputs"])
    (tmp_path / "loud.py").write_text("def all(texts):\n    return [7 for _ in texts]\n")
    with pytest.raises(DataError, match=r"docs\.jsonl:\d+: id '.*': scorer loud:all gave 7"):
        score_files([files / "docs.jsonl"], "loud:all", tmp_path / "no")


WRONG = """import sys


def leaves(texts):
    sys.exit(0)


def fails(texts):
    raise ValueError("boom")


def alone(texts):
    return 0.5


def words(texts):
    return ["0.5"] * len(texts)


def table(texts):
    return {0.5: text for text in texts}


def sorts(texts):
    texts.sort(reverse=True)
    return [0.5 for _ in texts]


five = 5
"""


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("wrong:leaves", DataError, r"failed with SystemExit: 0 \(.*wrong.py:5\); correct the function"),
        ("wrong:fails", DataError, r"failed with ValueError: boom \(.*wrong.py:9\); correct the function"),
        ("wrong:alone", DataError, "gave 0.5, which is no list of scores"),
        ("wrong:words", DataError, r"gave '0.5' for text 1 of \d+; a score is a number from 0 to 1"),
        ("wrong:table", DataError, r"gave \{0.5: '.*, which is no list of scores; correct the function"),
        ("wrong:sorts", DataError, "changed the list that it was given, so which score belongs to what is not known"),
        ("wrong:five", ConfigError, "wrong has no function five; correct the name"),
        ("wrong:none", ConfigError, "wrong has no function none; correct the name"),
        ("broken:f", ConfigError, "broken cannot be imported: SyntaxError: .*; correct the name"),
        ("ends:f", ConfigError, "ends cannot be imported: SystemExit: 0; correct the name"),
        ("no_such_module:odd", ConfigError, "no_such_module cannot be imported: ModuleNotFoundError"),
        ("./wrong.py:fails", ConfigError, "is neither a folder nor MODULE:FUNCTION"),
        (":fails", ConfigError, "is neither a folder nor MODULE:FUNCTION"),
    ],
)
def test_a_function_that_cannot_score_is_one_line(files, tmp_path, monkeypatch, name, error, said):
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "broken.py").write_text("def f(texts:\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("wrong", "broken", "ends"):  # each test has files of its own
        monkeypatch.delitem(sys.modules, module, raising=False)
    scorer.cache_clear()
    with pytest.raises(error, match=f"scorer {re.escape(name)}:? {said}"):
        score_files([files / "docs.jsonl"], name, tmp_path / "no")


def test_a_csv_holds_weights_as_text_and_none_where_a_field_is_empty(tmp_path, monkeypatch):
    (tmp_path / "same.py").write_text("def half(texts):\n    return [0.5 for _ in texts]\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "docs.csv").write_text("id,text,weight\na,The tiger walks,0.5\nb,The tiger sleeps,\n")
    score_files([tmp_path / "docs.csv"], "same:half", tmp_path / "out", use=Use(power=1.0))
    assert {r["id"]: r["weight"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "docs.jsonl")} == {"a": 0.25, "b": 0.5}
    (tmp_path / "docs.csv").write_text("id,text,weight\na,The tiger walks,much\n")
    with pytest.raises(DataError, match=r"docs\.csv:2: id 'a': weight 'much' must be a number from 0 to 100, which"):
        score_files([tmp_path / "docs.csv"], "same:half", tmp_path / "no", use=Use(power=1.0))


def test_a_weight_that_would_be_above_the_limit_is_cut_to_it_and_counted(tmp_path, monkeypatch, capsys):
    (tmp_path / "all.py").write_text("def whole(texts):\n    return [1.0 for _ in texts]\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = [{"id": str(n), "text": f"Tiger {n}.", "source": "web", "weight": n} for n in (0, 40, 50, 60, 100)]
    jsonl.write_jsonl(tmp_path / "docs.jsonl", given)
    made = score_files([tmp_path / "docs.jsonl"], "all:whole", tmp_path / "out", use=Use(factors={"web": 2.0}))
    weights = {r["id"]: r["weight"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "docs.jsonl")}
    assert weights == {"0": 0, "40": 80, "50": 100, "60": 100, "100": 100}
    assert made["figures"]["capped"] == 2 and "2 weights would be above 100" in capsys.readouterr().err


def test_what_cannot_be_learnt_from_is_one_line(files, model, tmp_path):
    few = tmp_path / "few.jsonl"
    jsonl.write_jsonl(few, [{"id": str(n), "text": "a text"} for n in range(12)])
    with pytest.raises(DataError, match=r"few.jsonl: \d+ (held-out )?bad texts, but 10 are needed"):
        train([files / "good.jsonl"], [few], tmp_path / "no")
    with pytest.raises(ConfigError, match="held_out=0 must be"):
        train([files / "good.jsonl"], [files / "bad.jsonl"], tmp_path / "no", held_out=0)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no model"):
        score_files([files / "docs.jsonl"], tmp_path / "none", tmp_path / "no")
    (tmp_path / "none" / "model.npy").write_bytes((model / "model.npy").read_bytes()[:500])
    quality.scorer.cache_clear()
    with pytest.raises(DataError, match="holds no model"):
        score_files([files / "docs.jsonl"], tmp_path / "none", tmp_path / "no")


def test_texts_that_are_called_good_and_bad_are_counted(files, tmp_path, capfd):
    train([files / "good.jsonl"], [files / "bad.jsonl", files / "docs.jsonl"], tmp_path / "apart")
    assert "too, from which" not in capfd.readouterr().err
    train([files / "good.jsonl", files / "docs.jsonl"], [files / "bad.jsonl", files / "docs.jsonl"], tmp_path / "both")
    assert "20 of 140 bad texts are good ones too" in capfd.readouterr().err


def test_the_area_is_the_share_of_pairs_in_order():
    import numpy as np

    good, bad = np.array([0.9, 0.5, 0.4]), np.array([0.5, 0.1])
    pairs = [(g > b) + (g == b) / 2 for g in good for b in bad]
    assert quality._area(good, bad) == pytest.approx(sum(pairs) / len(pairs))


def test_each_source_has_its_threshold_its_histogram_and_its_factor(model, tmp_path, capfd):
    made = [{"id": f"m{n}", "text": text(KNOWN if n % 2 else CHAT), "source": "web"} for n in range(20)]
    made += [{"id": f"b{n}", "text": text(CHAT), "source": "books", "weight": 0.5} for n in range(5)]
    jsonl.write_jsonl(tmp_path / "docs.jsonl", [*made, {"id": "x", "text": text(KNOWN)}])
    use = Use(least=0.5, least_of={"books": 0.0, "boks": 1.0}, power=2.0, factors={"books": 4.0})
    found = score_files([tmp_path / "docs.jsonl"], model, tmp_path / "out", use=use)
    assert "no document has the source 'boks'; there are (none), books, web" in capfd.readouterr().err
    by_source = found["figures"]["by_source"]
    assert [(name, by_source[name]["in"], by_source[name]["out"]) for name in ("(none)", "books", "web")] == [
        ("(none)", 1, 1), ("books", 5, 5), ("web", 20, 10),
    ]  # fmt: skip
    assert all(sum(of["by_score"].values()) == of["in"] for of in by_source.values())
    got = {record["id"]: record for _, record in jsonl.read_jsonl(tmp_path / "out" / "docs.jsonl")}
    for name, record in got.items():
        score, base, factor = record["meta"]["quality"], *((0.5, 4.0) if name[0] == "b" else (1.0, 1.0))
        assert record["weight"] == pytest.approx(base * factor * score**2, abs=1e-3)
    assert by_source["web"]["weight"] == pytest.approx(sum(r["weight"] for n, r in got.items() if n[0] == "m"))
    assert "Scores by source" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    score_files([tmp_path / "out"], model, tmp_path / "again", use=use)
    assert (tmp_path / "again" / "docs.jsonl").read_bytes() == (tmp_path / "out" / "docs.jsonl").read_bytes()
    score_files([tmp_path / "out"], model, tmp_path / "plain")
    plain = {record["id"]: record for _, record in jsonl.read_jsonl(tmp_path / "plain" / "docs.jsonl")}
    assert plain["b0"]["weight"] == 0.5 and set(plain["b0"]["meta"]) == {"quality"}


def test_a_weight_that_another_stage_gave_since_is_taken_as_it_is(model, tmp_path):
    meta = {"weight_before": 0.5, "weight_by_quality": 2.0}
    jsonl.write_jsonl(tmp_path / "docs.jsonl", [{"id": "a", "text": text(KNOWN), "weight": 0.3, "meta": meta}])
    score_files([tmp_path / "docs.jsonl"], model, tmp_path / "out", use=Use(factors={"(none)": 2.0}))
    (record,) = [record for _, record in jsonl.read_jsonl(tmp_path / "out" / "docs.jsonl")]
    assert record["weight"] == 0.6 and record["meta"]["weight_before"] == 0.3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"least_of": {"web": 2.0}}, "least score web=2.0"),
        ({"factors": {"web": 0.0}}, "factor web=0.0"),
        ({"power": 0.0}, "power=0.0"),
    ],
)
def test_thresholds_and_factors_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Use(**wrong)
