"""Documents of a weight: how often each is read, the same whatever stands beside it, and what a user is told."""

import itertools

import numpy as np
import pytest

from tigerjax import records
from tigerjax.config import DataConfig
from tigerjax.data import mixture, weighted
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, manifest
from tigerjax.tokenizer.load import Tokenizer

L = 32


def test_over_all_passes_a_document_stands_as_often_as_its_weight_says():
    for weight, passes in itertools.product((0.0, 0.1, 0.25, 0.5, 1.0, 1.7, 3.0), (1, 2, 4, 10)):
        for name in map(str, range(50)):
            given = [weighted.times(name, weight, number, passes) for number in range(passes)]
            assert set(given) <= {int(weight), int(weight) + 1} and abs(sum(given) - weight * passes) < 1
    taken = [weighted.times(str(i), 0.3, 0, 1) for i in range(10_000)]
    assert abs(np.mean(taken) - 0.3) < 0.02  # 4 standard deviations of 10,000 draws
    assert {weighted.times("a", 0.5, number, 2) for number in (0, 1)} == {0, 1}


@pytest.mark.parametrize("weight", [-0.1, "much", 101, float("inf"), True])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(DataError, match=r"x\.jsonl:7: id 'a': weight .* must be a number from 0 to 100"):
        records.document_weight({"id": "a", "weight": weight}, "x.jsonl:7")


def test_a_csv_holds_a_weight_as_text_and_an_empty_field_is_none():
    assert records.document_weight({"weight": "2"}, "") == 2.0 and records.document_weight({"weight": ""}, "") is None


@pytest.mark.parametrize("runner", ["local", "DirectRunner"])
def test_a_weight_that_is_none_is_refused_by_its_place_by_whoever_makes_the_rows(work, tmp_path, runner):
    given = [{"id": "a", "text": "The tiger walks."}, {"id": "b", "text": "It sleeps.", "weight": 101}]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given)
    with pytest.raises(
        DataError, match=r"x\.jsonl:2: id 'b': weight 101 must be a number from 0 to 100, which says how"
    ):
        rows_of("weighted_wrong", (tmp_path / "x.jsonl", work / "tokenizer", tmp_path / "rows"), runner, passes=1)


def test_an_empty_weight_of_a_csv_is_not_counted_as_one_that_is_not_read(work, tmp_path, capsys):
    rows = "".join(f"{n},The tiger walks {n} times.,{'2' if n == 3 else ''}\n" for n in range(40))
    (tmp_path / "x.csv").write_text("id,text,weight\n" + rows)
    rows_of("weighted_csv", (tmp_path / "x.csv", work / "tokenizer", tmp_path / "rows"))
    assert "1 documents have a weight, which is not read" in capsys.readouterr().err


WEIGHTS = {"none": 0.0, "half": 0.5, "one": 1.0, "twice": 2.0}


@pytest.fixture(scope="module")
def source(work, tmp_path_factory):
    """A file of 40 documents of each weight; a document begins with the name of its weight and its number."""
    folder = tmp_path_factory.mktemp("weighted")
    made = (
        {"id": f"{name}{i}", "text": f"{name} {i:03} tiger walks", "weight": weight}
        for i in range(40)
        for name, weight in WEIGHTS.items()
    )
    jsonl.write_jsonl(folder / "x.jsonl", made)
    return folder / "x.jsonl", work / "tokenizer", folder / "rows"


def rows_of(name, source, runner="local", **more):
    path, tokenizer, rows = source
    mixture.pretraining(name, tokenizer=tokenizer, sources={"x": mixture.Source(path, **more)})
    data = DataConfig(mixture=name, modules=(), tokenizer=str(tokenizer), cache_dir=str(rows), seq_len=L)
    return mixture.open_loader(data, batch_rows=1, seed=0, runner=runner)


def texts(tok, rows_B3T):
    text = tok.decode(rows_B3T[:, 0].ravel().tolist())
    return {name: text.count(f"{name} ") for name in WEIGHTS}


def test_each_epoch_has_its_own_choice_and_all_of_them_the_weights(source, capsys):
    loader = rows_of("weighted_2", source, passes=2)
    said = capsys.readouterr().err
    assert "by their weights, 120 documents are left out and 80 copies are added, over 2 passes" in said
    (cached,) = loader.sources
    passes = cached.figures["passes"]
    assert len(passes) == 2 and sum(passes) == cached.rows and cached.epoch_rows == cached.rows / 2
    tok = Tokenizer(source[1])
    first, second = (texts(tok, cached.read(range(*span))) for span in ((0, passes[0]), (passes[0], cached.rows)))
    for found in (first, second):
        assert found["none"] == 0 and 0 < found["half"] < 40
        assert 38 <= found["one"] <= 40 and 77 <= found["twice"] <= 80  # less what filled no row
    assert 38 <= first["half"] + second["half"] <= 40
    epochs = [[cached.index(at, 0) for at in range(start, start + count)] for start, count in (
        (0, passes[0]), (passes[0], passes[1]), (cached.rows, passes[0]))]  # fmt: skip
    assert sorted(epochs[0]) == sorted(epochs[2]) == list(range(passes[0])) and epochs[0] != epochs[2]
    assert sorted(epochs[1]) == list(range(passes[0], cached.rows))


def test_without_passes_weights_are_not_read_and_a_line_says_so(source, capsys):
    loader = rows_of("weighted_0", source)
    assert "160 documents have a weight, which is not read; Source(passes=…) reads it" in capsys.readouterr().err
    assert "passes" not in loader.sources[0].figures and loader.sources[0].epoch_rows == loader.sources[0].rows


def test_passes_are_of_documents(source):
    path, tokenizer, _ = source
    with pytest.raises(ConfigError, match="reads the weights of documents"):
        mixture.sft("weighted_sft", tokenizer=tokenizer, examples=mixture.Source(path, passes=2))


def test_passes_that_are_not_all_rows_of_a_folder_are_refused(source):
    (cached,) = rows_of("weighted_2", source, passes=2).sources
    made = manifest.read(cached.folder)
    made["figures"]["passes"][0] += 1
    before = (cached.folder / manifest.FILE).read_bytes()
    manifest.write_json(cached.folder / manifest.FILE, made)
    with pytest.raises(DataError, match=r"passes of \[.*\] rows are not its"):
        type(cached)("x", cached.folder, L)
    (cached.folder / manifest.FILE).write_bytes(before)
