"""A small corpus in several files, the stages that run over it, and how their outputs are compared."""

import json
from pathlib import Path

from tigerjax.files import jsonl

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
FILES = 6
"""Of each language: a block each, so that there is work for several workers."""


def documents(folder: Path) -> Path:
    """Documents in several files, some of them twice, SFT examples, and a file of questions."""
    for lang in ("en", "zh"):
        lines = [json.loads(line) for line in (EMBEDDED / f"corpus_{lang}.jsonl").read_text().splitlines()][:1200]
        for n in range(FILES):
            own = lines[n::FILES] + [{**line, "id": f"again-{n}-{line['id']}"} for line in lines[n : n + 40]]
            jsonl.write_jsonl(folder / f"{lang}-{n}.jsonl", own)
    sft = [json.loads(line) for line in (EMBEDDED / "sft.jsonl").read_text().splitlines()][:400]
    jsonl.write_jsonl(folder / "sft.jsonl", sft)
    asked = [{"id": f"q{n}", "question": one["messages"][0]["content"]} for n, one in enumerate(sft[:60])]
    jsonl.write_jsonl(folder / "asked.jsonl", asked)
    return folder


def stages(corpus: Path) -> dict[str, list[str]]:
    """The words of each stage but for --out."""
    docs = sorted(str(path) for lang in ("en", "zh") for path in corpus.glob(f"{lang}-*.jsonl"))
    sft = str(corpus / "sft.jsonl")
    return {
        "clean": ["clean", "--input", *docs, "--on", "repetition"],
        "exact": ["dedup", "exact", "--input", *docs],
        "near": ["dedup", "near", "--input", *docs],
        "soft": ["dedup", "soft", "--input", *docs],
        "substrings": ["dedup", "substrings", "--input", *docs],
        "against-sft": ["dedup", "against-sft", "--docs", *docs, "--sft", sft],
        "decontaminate": ["decontaminate", "--docs", sft, "--evaluation-sets", str(corpus / "asked.jsonl")],
    }


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
