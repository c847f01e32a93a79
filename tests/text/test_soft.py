"""Soft de-duplication: weights by how much of a text others have, the same ones however the work is divided."""

import json
import random
import string

import pytest

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.stages.runner import Runner
from tigerjax.text import grams, soft
from tigerjax.text.soft import soft_files

DRAW = random.Random(0)


def words(count):
    return " ".join("".join(DRAW.choices(string.ascii_lowercase, k=6)) for _ in range(count))


def han(count):
    return "".join(chr(DRAW.randrange(0x4E00, 0x9000)) for _ in range(count))


def weights_of(folder, name="docs.jsonl"):
    return {record["id"]: record["weight"] for _, record in jsonl.read_jsonl(folder / name)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    once, twice, half, zh = words(300), words(300), words(300), han(900)
    texts = {"once": once, "twice": twice, "twice again": twice.upper(), "short": "Too short.", "zh": zh}
    texts |= {f"zh-{n}": zh for n in range(3)} | {"half": half, "half again": half[: len(half) // 2] + words(150)}
    jsonl.write_jsonl(folder / "docs.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    return folder


def test_copies_share_one_weight_and_a_text_that_is_half_another_has_three_quarters(corpus, tmp_path):
    made = soft_files([corpus / "docs.jsonl"], tmp_path / "out")
    got = weights_of(tmp_path / "out")
    assert got["once"] == got["short"] == 1 and got["twice"] == got["twice again"] == 0.5
    assert all(got[name] == 0.25 for name in ("zh", "zh-0", "zh-1", "zh-2"))
    assert got["half"] == pytest.approx(0.75, abs=0.1) and got["half again"] == pytest.approx(0.75, abs=0.1)
    assert made["counts"] == {"in": 10, "out": 10, "dropped": {}}
    figures = made["figures"]
    assert figures["weight"] == pytest.approx(sum(got.values())) and figures["too_short"] == 1
    assert sum(figures["by_weight"].values()) == 10 and figures["by_weight"]["1"] == 2
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())["weights"]
    assert {"weight 0.25", "weight 0.5"} <= {pair["after"] for pair in samples}


def test_by_commonness_a_weight_is_the_inverse_of_the_geometric_mean(corpus, tmp_path):
    soft_files([corpus / "docs.jsonl"], tmp_path / "out", by="commonness")
    got = weights_of(tmp_path / "out")
    assert got["once"] == 1 and got["twice"] == 0.5 and got["zh"] == 0.25
    assert got["half"] == pytest.approx(0.5**0.5, abs=0.1)


def test_a_weight_is_never_below_the_least_one(corpus, tmp_path):
    soft_files([corpus / "docs.jsonl"], tmp_path / "out", least=0.4)
    assert min(weights_of(tmp_path / "out").values()) == 0.4
    for least in (0, 1.1, -1):
        with pytest.raises(ConfigError, match="least_weight"):
            soft_files([corpus / "docs.jsonl"], tmp_path / "no", least=least)


def test_weighing_again_changes_nothing_and_says_that_weights_were_replaced(corpus, tmp_path):
    soft_files([corpus / "docs.jsonl"], tmp_path / "one")
    made = soft_files([tmp_path / "one"], tmp_path / "two")
    assert (tmp_path / "one" / "docs.jsonl").read_bytes() == (tmp_path / "two" / "docs.jsonl").read_bytes()
    assert made["figures"]["replaced"] == 10


def test_the_work_may_be_divided_as_one_likes(corpus, tmp_path, monkeypatch):
    soft_files([corpus / "docs.jsonl"], tmp_path / "one")
    monkeypatch.setattr(block, "BLOCK_BYTES", 2000)
    lines = (corpus / "docs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "docs.jsonl").write_text("".join(reversed(lines)))
    soft_files([tmp_path / "docs.jsonl"], tmp_path / "two", shards=3, runner=Runner(workers=2))
    for name in ("docs.jsonl", "samples.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_weights_are_those_of_a_simple_count_of_all_documents(tmp_path):
    parts = [words(40) for _ in range(6)]
    texts = [" ".join(DRAW.sample(parts, 3)) for _ in range(12)]
    jsonl.write_jsonl(tmp_path / "docs.jsonl", [{"id": str(n), "text": text} for n, text in enumerate(texts)])
    soft_files([tmp_path / "docs.jsonl"], tmp_path / "out")
    of = []
    for text in texts:
        hashes, _ = grams.shingles([text], soft.CHARACTERS, soft.WORDS)
        of.append({gram for gram in hashes.tolist() if gram % soft.EVERY == 0})
    want = [sum(1 / sum(gram in other for other in of) for gram in mine) / len(mine) for mine in of]
    assert [weights_of(tmp_path / "out")[str(n)] for n in range(12)] == pytest.approx(want, abs=1e-4)


def test_instruction_data_is_refused(tmp_path):
    jsonl.write_jsonl(tmp_path / "sft.jsonl", [{"id": "s", "instruction": "a", "output": "b"}])
    with pytest.raises(DataError, match=r"sft\.jsonl:1: id 's': an SFT example, but this stage takes documents"):
        soft_files([tmp_path / "sft.jsonl"], tmp_path / "out")
