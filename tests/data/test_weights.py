"""Documents with a weight are in the rows of their source as often as it says, by their ids."""

import pytest

from tigerjax.data import mixture
from tigerjax.data.caching import Caching
from tigerjax.data.tasks import Source, add_documents_task, row_maker
from tigerjax.data.weights import times
from tigerjax.errors import DataError
from tigerjax.files import jsonl, manifest


def test_a_document_is_taken_as_often_as_its_weight_in_the_mean_and_stays_when_the_weight_grows():
    ids = [f"d{n}" for n in range(4000)]
    for weight in (0.0, 0.3, 1.0, 2.5):
        taken = [times(identity, weight) for identity in ids]
        assert sum(taken) / len(ids) == pytest.approx(weight, abs=0.03)
        assert max(taken) - min(taken) <= 1
        assert all(times(identity, weight + 0.1) >= count for identity, count in zip(ids, taken, strict=True))


def test_rows_hold_documents_by_their_weights_and_the_counts_are_said(tmp_path, work, capfd):
    text = "The tiger walks in the mountains of the north. "
    given = [{"id": f"d{n}", "text": text, "weight": (0, 0.5, 1, 3)[n % 4]} for n in range(80)]
    jsonl.write_jsonl(tmp_path / "docs.jsonl", given)
    wanted = [times(one["id"], one["weight"]) for one in given]
    name = mixture.pretraining(
        "weighed", tokenizer=work / "tokenizer", sources={"docs": Source(str(tmp_path / "docs.jsonl"))}
    )
    (task,) = mixture.get_mixture(name or "weighed").tasks
    assert [one["id"] for one in row_maker(task).taken(given)] == [
        one["id"] for one, count in zip(given, wanted, strict=True) for _ in range(count)
    ]
    folders = mixture.cache("weighed", Caching(tokenizer=work / "tokenizer", cache_dir=tmp_path / "rows", seq_len=64))
    figures = manifest.read(folders[task.name])["figures"]
    assert figures["records"] == sum(wanted) and figures["not taken"] == wanted.count(0)
    assert figures["taken again"] == sum(count - 1 for count in wanted if count > 1) == 40
    assert f"{wanted.count(0)} are in no row, and there are 40 copies of others" in capfd.readouterr().err


def test_a_weight_that_is_no_number_is_one_line(tmp_path, work):
    jsonl.write_jsonl(tmp_path / "docs.jsonl", [{"id": "d1", "text": "a", "weight": "3 kg"}])
    add_documents_task("wrong_weight", Source(str(tmp_path / "docs.jsonl")), tokenizer=work / "tokenizer")
    import seqio

    maker = row_maker(seqio.TaskRegistry.get("wrong_weight"))
    with pytest.raises(DataError, match="document 'd1': weight '3 kg' must be a number"):
        list(maker.make(maker.read(), 8))
