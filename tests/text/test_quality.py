"""The scorer of quality: learns from examples, the same model each time, and says how it does on others."""

import json
import random

import pytest

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.text import quality
from tigerjax.text.quality import score_files, train

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
    again = score_files([tmp_path / "all"], model, tmp_path / "again", least=0.5)
    assert again["counts"] == {"in": 20, "out": 10, "dropped": {"quality_score": 10}}
    assert any(name.startswith("score 0.") for name in json.loads((tmp_path / "again" / "samples.json").read_text()))


def test_a_function_of_ones_own_scores_too(files, tmp_path, monkeypatch):
    (tmp_path / "my_scorer.py").write_text("def odd(texts):\n    return [len(t) % 2 for t in texts]\n\n\nwild = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = score_files([files / "docs.jsonl"], "my_scorer:odd", tmp_path / "out")
    assert set(made["figures"]["by_score"]) <= {"0.0", "0.9"}
    assert any(entry["path"].endswith("my_scorer.py") for entry in made["inputs"])
    for wrong in ("my_scorer:none", "no_such_module:odd"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            score_files([files / "docs.jsonl"], wrong, tmp_path / "no")
    (tmp_path / "loud.py").write_text("def all(texts):\n    return [7 for _ in texts]\n")
    with pytest.raises(DataError, match="scorer loud:all gave 7"):
        score_files([files / "docs.jsonl"], "loud:all", tmp_path / "no")


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
