"""The quick start's text: cleaned, de-duplicated, split by source, and the tokenizers that are trained on it."""

import shutil
from pathlib import Path
from typing import Any

from tigerjax.files import manifest
from tigerjax.quickstart.state import EMBEDDED, EXERCISES, Quickstart, read

CHINESE_PIECES = 2300
"""Of the Chinese BPE before the merge: little more than the 2,000 characters that SentencePiece requires of this text.
It ranks characters after all merges. With more merges, common characters and even commas would miss the first 1,300."""
FACTS_SAMPLE = 0.05
"""Share of the Chinese fact documents that the tokenizer sees beside the books. They repeat a few sentence forms: from
all of them BPE would make one piece of "is the capital of" and half a country's name, or even of a whole fact."""

LATER = "later"
"""The source of the instructions that are kept from pretraining, as if they had been collected after it."""


def prepare_text(out: Path) -> dict[str, Any]:
    """Cleans, removes exact and near duplicates, then what the instruction data teaches; returns the counts."""
    from tigerjax.text.clean import clean_files
    from tigerjax.text.dedup import against_sft_files, dedup_files

    corpora = ["corpus_zh.jsonl", "corpus_en.jsonl"]
    sft = clean_files([EXERCISES / "sft.jsonl"], out / "instructions")
    steps = {
        "clean": clean_files([EMBEDDED / name for name in corpora], out / "clean"),
        "exact": dedup_files("exact", [out / "clean" / name for name in corpora], out / "exact"),
        "near": dedup_files("near", [out / "exact" / name for name in corpora], out / "near"),
        "against_sft": against_sft_files(
            [out / "near" / name for name in corpora], [out / "instructions" / "sft.jsonl"], out / "pretrain"
        ),
    }
    split_sources({lang: out / "pretrain" / f"corpus_{lang}.jsonl" for lang in ("zh", "en")}, out / "sources")
    early_instructions(out / "instructions" / "sft.jsonl", out / "early")
    counts = {name: step["counts"] for name, step in steps.items()}
    return {
        "sft": sft["counts"],
        "clean": counts["clean"],
        "dedup": {"exact": counts["exact"], "near": counts["near"]},
        "against_sft": counts["against_sft"],
    }


def split_sources(corpora: dict[str, Path], out: Path) -> None:
    """OUT/LANG_facts.jsonl and OUT/LANG_books.jsonl of each corpus: sources that the mixture weighs apart."""
    from tigerjax.files.jsonl import write_jsonl

    with manifest.stage(out, name="split by source", config={}, inputs=corpora.values()) as run:
        for lang, corpus in corpora.items() if not run.done else []:
            documents = read(corpus)
            write_jsonl(run.tmp / f"{lang}_facts.jsonl", (d for d in documents if d["source"] == "facts"))
            write_jsonl(run.tmp / f"{lang}_books.jsonl", (d for d in documents if d["source"] != "facts"))


def early_instructions(examples: Path, out: Path) -> None:
    """OUT/sft.jsonl: the instructions for pretraining. The source `later` is for SFT alone."""
    from tigerjax.files.jsonl import write_jsonl

    with manifest.stage(out, name="early instructions", config={"without": LATER}, inputs=[examples]) as run:
        if not run.done:
            write_jsonl(run.tmp / "sft.jsonl", (e for e in read(examples) if e["source"] != LATER))


def make_tokenizers(quick: Quickstart) -> dict[str, Any]:
    """A small English vocabulary with Llama-2's settings, extended by Chinese pieces to the exact size."""
    from tigerjax.tokenizer.extend import extend
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.tokenizer.sample import sample
    from tigerjax.tokenizer.train import train_model

    out, before, after = quick.out, quick.config("base").model.vocab_size, quick.config("holistic").model.vocab_size
    # The text before it is cut against the instructions: their names and words need tokens too.
    zh, en = out / "near" / "corpus_zh.jsonl", out / "near" / "corpus_en.jsonl"
    folders = (out / "base_tokenizer", out / "tokenizer")
    old = [manifest.sha256(folder) if folder.is_dir() else None for folder in folders]
    train_model([en], before, out / "base_tokenizer", seed=quick.seed)
    split_sources({"zh": zh}, out / "tokenizer_text")
    books, facts = (out / "tokenizer_text" / f"zh_{name}.jsonl" for name in ("books", "facts"))
    drawn = out / "tokenizer_sample"
    sample(inputs=[facts], out=drawn, fraction=FACTS_SAMPLE, seed=quick.seed, min_sample_bytes=1)
    text = [books, drawn / "sample.txt"]
    train_model(text, CHINESE_PIECES, out / "zh_tokenizer", seed=quick.seed, character_coverage=0.98)
    extend(base=out / "base_tokenizer", new=out / "zh_tokenizer", size=after, out=out / "tokenizer")
    if old != [manifest.sha256(folder) for folder in folders]:
        shutil.rmtree(out / "cache", ignore_errors=True)  # rows of another tokenizer

    base, extended = Tokenizer(out / "base_tokenizer"), Tokenizer(out / "tokenizer")
    texts = {"zh": _texts(zh), "en": _texts(en)}
    characters = {lang: sum(map(len, docs)) for lang, docs in texts.items()}

    def efficiency(tokenizer: Tokenizer) -> dict[str, float]:
        return {
            lang: round(characters[lang] / sum(map(len, tokenizer.encode_batch(docs))), 3)
            for lang, docs in texts.items()
        }

    return {
        "vocab_before": base.size,
        "vocab_after": extended.size,
        "chars_per_token_before": efficiency(base),
        "chars_per_token_after": efficiency(extended),
    }


def _texts(path: Path) -> list[str]:
    return [record["text"] for record in read(path)]
