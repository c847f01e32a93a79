"""One tokenizer pair and one quick-start work folder a session, made from the embedded data."""

from pathlib import Path

import pytest

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder as the quick start leaves it before training: tokenizers, clean documents, SFT examples."""
    from tigerjax.data import records
    from tigerjax.data.clean import clean_files
    from tigerjax.data.dedup import against_sft_files, dedup_files
    from tigerjax.tokenizer.extend import extend
    from tigerjax.tokenizer.train import train_model

    folder = tmp_path_factory.mktemp("quickstart")
    raw = folder / "raw"
    raw.mkdir()
    for lang in ("en", "zh"):
        documents = list(records.documents(EMBEDDED / f"corpus_{lang}.jsonl"))
        records.write_jsonl(raw / f"corpus_{lang}.jsonl", documents[::4])  # a part of it, for speed
    (folder / "sft").mkdir()
    examples = list(records.sft_examples(EMBEDDED / "sft.jsonl"))
    records.write_jsonl(folder / "sft" / "sft.jsonl", examples[::8])
    names = ("corpus_en.jsonl", "corpus_zh.jsonl")
    clean_files([raw / n for n in names], folder / "cleaned")
    dedup_files("near", [folder / "cleaned" / n for n in names], folder / "dedup")
    against_sft_files([folder / "dedup" / n for n in names], [folder / "sft" / "sft.jsonl"], folder / "pretrain")
    train_model([raw / "corpus_en.jsonl"], 600, folder / "base_tokenizer")
    train_model([raw / "corpus_zh.jsonl"], 2600, folder / "zh_bpe")
    extend(folder / "base_tokenizer", folder / "zh_bpe", 1200, folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def corpus():
    """The embedded documents by language."""
    from tigerjax.data import records

    return {lang: list(records.documents(EMBEDDED / f"corpus_{lang}.jsonl")) for lang in ("en", "zh")}
