"""Tokenizer, JSONL sources and rows on gs://: the same batches as from a disk, on a stand-in for the service."""

import numpy as np
import pytest
from bucket import served

from tigerjax.config import DataConfig
from tigerjax.data import mixture
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.records import expand
from tigerjax.tokenizer.load import Tokenizer

FAR = "gs://bucket/data"


@pytest.fixture
def cloud(work, tmp_path, monkeypatch):
    """The session's tokenizer and SFT examples, in a bucket; nothing may end in a folder of the disk named gs:."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with served() as bucket:
        paths.upload(work / "tokenizer", paths.of(f"{FAR}/tokenizer"))
        paths.upload(work / "sft", paths.of(f"{FAR}/sft"))
        yield bucket
    assert not list(tmp_path.glob("gs:*"))


def batches(name, root, cache_dir, count=6):
    """Of a mixture of one source; its name is in the order of the rows."""
    mixture.sft(name, tokenizer=f"{root}/tokenizer", examples=mixture.Source(f"{root}/sft/*.jsonl"))
    data = DataConfig(mixture=name, modules=(), tokenizer=f"{root}/tokenizer", cache_dir=str(cache_dir), seq_len=128)
    loader = mixture.open_loader(data, batch_rows=4, seed=0)
    return [next(loader) for _ in range(count)]


def test_rows_made_and_read_in_a_bucket_give_the_batches_of_a_disk(cloud, work, tmp_path):
    near = batches("one", work, tmp_path / "rows")
    far = batches("one", FAR, f"{FAR}/rows")
    for one, other in zip(near, far, strict=True):
        for array, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, same)
    written = cloud.names("bucket/data/rows/one.sft/")
    assert "manifest.json" in written and any(name.endswith(".rows") for name in written)
    order = [name for method, name in cloud.asked if method == "POST" and "/rows/" in name]
    assert order[-1].endswith("manifest.json")
    inputs = manifest.read(f"{FAR}/rows/one.sft")["inputs"]
    assert inputs[0]["path"] == f"{FAR}/sft/sft.jsonl"

    cloud.asked.clear()
    again = batches("one", FAR, f"{FAR}/rows", count=1)  # nothing is made a second time, and no file of rows is copied
    np.testing.assert_array_equal(again[0].tokens_BT, far[0].tokens_BT)
    assert {method for method, _ in cloud.asked} == {"GET"}
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.suffix == ".rows"]


def test_rows_whose_upload_was_cut_short_are_made_again(cloud):
    first = batches("cut", FAR, f"{FAR}/rows", count=1)
    root = "bucket/data/rows/cut.sft/manifest.json"
    cloud.objects[f"{root}.begun"] = cloud.objects.pop(root)
    assert manifest.read(f"{FAR}/rows/cut.sft") is None
    np.testing.assert_array_equal(batches("cut", FAR, f"{FAR}/rows", count=1)[0].tokens_BT, first[0].tokens_BT)
    assert manifest.read(f"{FAR}/rows/cut.sft") is not None


def test_a_tokenizer_and_patterns_in_a_bucket(cloud, work):
    assert Tokenizer(f"{FAR}/tokenizer").sha256 == Tokenizer(work / "tokenizer").sha256
    for pattern in (f"{FAR}/sft/sft.jsonl", f"{FAR}/*/s*.jsonl"):
        assert [str(path) for path in expand(pattern)] == [f"{FAR}/sft/sft.jsonl"]
    with pytest.raises(ConfigError, match=r"input gs://bucket/data/sft/sft\.jsonl is given twice"):
        expand([f"{FAR}/sft/sft.jsonl", f"{FAR}/*/s*.jsonl"])
    with pytest.raises(DataError, match=r"gs://bucket/data/nothing-\*: no such file"):
        expand(f"{FAR}/nothing-*")
