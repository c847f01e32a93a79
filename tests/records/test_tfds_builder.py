"""TFDS datasets from local files, by the command; read by name and by folder, in a mixture, record for record."""

import json

import pytest

from tigerjax import records
from tigerjax.command.cli import main
from tigerjax.data import mixture
from tigerjax.data.caching import Caching
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.records import tfds_builder

L = 64


@pytest.fixture
def files(tmp_path):
    """Documents and dialogues with every kind of field: numbers as ids, more turns, weights, meta, others."""
    documents = [
        {"id": "a", "text": "第一章 天地玄黄\n" * 9, "source": "book", "lang": "zh", "meta": {"quality": 0.5}},
        {"id": 7, "text": "Plain words. " * 20, "url": ["x", "y"]},
        {"text": "没有编号 " * 30},
    ] + [{"id": f"d{n}", "text": f"Document {n}. " * 9} for n in range(11)]
    turns = [{"role": "user", "content": "一？"}, {"role": "assistant", "content": "二。"}]
    examples = [
        {"id": "x", "messages": turns, "task": "sum", "lang": "zh", "weight": 0.5},
        {"id": "y", "messages": turns * 2, "n": 3},
        {"id": "w", "messages": [turns[0], turns[1] | {"weight": 0.0}, *turns]},
        {"instruction": "Say", "input": "it", "output": "It."},
    ]
    jsonl.write_jsonl(tmp_path / "docs.jsonl", documents)
    jsonl.write_jsonl(tmp_path / "sft.jsonl", examples)
    return tmp_path


def test_the_command_writes_what_is_read_back_by_name_and_by_folder(files, monkeypatch, capsys):
    for kind, read in (("documents", records.documents), ("sft", records.sft_examples)):
        source = files / {"documents": "docs.jsonl", "sft": "sft.jsonl"}[kind]
        command = ["data", "tfds", "--input", str(source), "--name", f"my_{kind}", "--out", str(files / "tfds")]
        assert main([*command, "--kind", kind, "--json", str(files / "figures.json")]) == 0
        want = list(read(source))
        assert json.loads((files / "figures.json").read_text())["records"] == len(want)
        monkeypatch.setenv("TFDS_DATA_DIR", str(files / "tfds"))
        for name in (f"tfds:my_{kind}", f"tfds:my_{kind}:1.0.0", files / "tfds" / f"my_{kind}" / "1.0.0"):
            assert list(read(name)) == want, name
    capsys.readouterr()
    before = (files / "tfds/my_sft/1.0.0/manifest.json").read_bytes()
    assert main([*command, "--kind", "sft"]) == 0  # unchanged: nothing is written again
    assert (files / "tfds/my_sft/1.0.0/manifest.json").read_bytes() == before
    assert not list(files.rglob("*.partial")) and not list(files.rglob("*incomplete*"))


def test_a_mixture_of_tfds_datasets_has_the_rows_of_the_mixture_of_files(work, files, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(files / "tfds"))
    tfds_builder.build([files / "docs.jsonl"], files / "tfds", "my_docs")
    made = {}
    for name, source in (("by_file", files / "docs.jsonl"), ("by_name", "tfds:my_docs")):
        mixture.pretraining(name, tokenizer=work / "tokenizer", sources={"docs": mixture.Source(source)})
        (folder,) = mixture.cache(
            name, Caching(tokenizer=work / "tokenizer", cache_dir=files / "cache", seq_len=L)
        ).values()
        made[name] = json.loads((folder / "manifest.json").read_text())["figures"]
    assert made["by_file"] == made["by_name"] and made["by_file"]["rows"] > 5 and made["by_file"]["rows_sha256"]


def test_what_cannot_be_built_or_found_is_said_in_one_line(files, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"tfds:absent is not on disk .*make it with `tigerjax data tfds`"):
        records.expand("tfds:absent")
    with pytest.raises(ConfigError, match=r"TFDS dataset My-Docs:1.0.0: a name must be lower-case"):
        tfds_builder.build([files / "docs.jsonl"], files, "My-Docs")
    (files / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl: is empty"):
        tfds_builder.build([files / "empty.jsonl"], files / "tfds", "empty")
    (files / "bad.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b"}\n')
    with pytest.raises(
        DataError,
        match=r"bad\.jsonl:2: id 'b': a document needs its text in 'text', 'content' or 'raw_content'; has \['id'\]",
    ):
        tfds_builder.build([files / "bad.jsonl"], files / "tfds", "bad")
    assert not (files / "tfds" / "bad").exists() or not list((files / "tfds" / "bad").iterdir())
