"""MB/s/core of the text stages over three sizes, and the exponent of their cost: 1.0 is linear.

    python benchmarks/speed/data_throughput.py [--sizes 4 8 16] [--json FILE]

Also tokens per second: of rows made from raw text, and of the same rows read back by the loader in batches of 64.

Documents are made of sentences of the embedded Chinese and English text in a random order, so that few are duplicates.
2% exact copies and 1% changed copies are planted. CPU seconds of this one process are counted instead of the clock's,
so that other work on the machine matters little. `signature` is the MinHash signature alone, of texts in memory; the
others are whole stages, from files to files.
"""

import argparse
import json
import math
import random
import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tigerjax import records
from tigerjax.data import row_files
from tigerjax.data.loader import Loader
from tigerjax.data.tasks import RowMaker
from tigerjax.files import jsonl, manifest
from tigerjax.stages import scan
from tigerjax.text import minhash
from tigerjax.text.clean import clean_files
from tigerjax.text.dedup import against_sft_files, dedup_files
from tigerjax.tokenizer.extend import extend
from tigerjax.tokenizer.train import train_model

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
SEQ_LEN, BATCH_ROWS = 2048, 64
SENTENCES = 24  # of a document: about 1,400 characters, as the design's documents have


def corpus(megabytes: float, seed: int) -> list[records.Record]:
    """Documents of about so many MB of text, half of it Chinese."""
    rng = random.Random(seed)
    sentences = {}
    for lang in ("zh", "en"):
        texts = [d["text"] for d in records.documents(EMBEDDED / f"corpus_{lang}.jsonl")]
        sentences[lang] = [s for t in texts for s in re.split(r"(?<=[。！？.!?\n])", t) if len(s.strip()) > 4]
    out: list[records.Record] = []
    size = 0
    while size < megabytes * 1e6:
        lang = "zh" if rng.random() < 0.5 else "en"
        text = "".join(rng.choices(sentences[lang], k=SENTENCES))
        if out and rng.random() < 0.03:
            text = rng.choice(out)["text"]
            text = text if rng.random() < 0.67 else text[: int(0.97 * len(text))]
        out.append({"id": f"{lang}{len(out)}", "text": text, "source": "bench", "lang": lang, "meta": {}})
        size += len(text.encode())
    return out


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def signature(documents: list[records.Record]) -> None:
    for batch in scan.batches([d["text"] for d in documents]):
        minhash.signatures(*minhash.shingles(batch), len(batch))


def tokenizer(folder: Path) -> Path:
    """An extended tokenizer of the embedded text."""
    for lang, size in (("en", 1500), ("zh", 4600)):
        train_model([EMBEDDED / f"corpus_{lang}.jsonl"], size, folder / lang)
    extend(folder / "en", folder / "zh", 4000, folder / "tokenizer")
    return folder / "tokenizer"


def tokens(documents: list[records.Record], seq_len: int) -> dict[str, float]:
    """Tokens a CPU second, in thousands: "raw text" to rows, and "cached rows" to batches, all rows once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jsonl.write_jsonl(folder / "x.jsonl", documents)
        maker = RowMaker("documents", (str(folder / "x.jsonl"),), str(tokenizer(folder)), None)
        next(maker.make(maker.read(), seq_len))  # imports
        made: list[Any] = []
        raw = cpu(lambda: made.extend(maker.make(maker.read(), seq_len)))
        (folder / "rows").mkdir()
        figures = row_files.write(folder / "rows", made) | {"seq_len": seq_len}
        manifest.write_json(folder / "rows" / manifest.FILE, {"figures": figures})
        loader = Loader({"x": folder / "rows"}, {"x": 1.0}, BATCH_ROWS, seq_len, seed=0)
        batches = len(made) // BATCH_ROWS
        cached = cpu(lambda: [next(loader) for _ in range(batches)])
    return {
        "raw text": maker.counts["tokens"] / raw / 1e3,
        "cached rows": batches * BATCH_ROWS * seq_len / cached / 1e3,
    }


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Slope of log(seconds) over log(size), by least squares."""
    x, y = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[4, 8, 16], help="MB of text")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    real_sizes = []
    signature(corpus(0.2, 99))  # imports and tables
    for megabytes in args.sizes:
        documents = corpus(megabytes, seed=0)
        real_sizes.append(sum(len(d["text"].encode()) for d in documents) / 1e6)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            jsonl.write_jsonl(work / "x.jsonl", documents)
            given, sft = [work / "x.jsonl"], [EMBEDDED / "sft.jsonl"]
            steps: dict[str, Callable[[], Any]] = {
                "signature": partial(signature, documents),
                "clean": partial(clean_files, given, work / "clean"),
                "dedup exact": partial(dedup_files, "exact", given, work / "exact"),
                "dedup near": partial(dedup_files, "near", given, work / "near"),
                "against-sft": partial(against_sft_files, given, sft, work / "sft"),
            }
            for name, step in steps.items():
                seconds.setdefault(name, []).append(cpu(step))
    print(f"{'stage':14}" + "".join(f"{size:10.1f} MB" for size in real_sizes) + f"{'exponent':>12}")
    figures = {}
    for name, taken in seconds.items():
        rates = [size / s for size, s in zip(real_sizes, taken, strict=True)]
        slope = exponent(real_sizes, taken) if len(taken) > 1 else float("nan")
        print(f"{name:14}" + "".join(f"{rate:8.2f} MB/s" for rate in rates) + f"{slope:12.3f}")
        figures[name] = {"mb_per_s_per_core": [round(r, 2) for r in rates], "exponent": round(slope, 3)}
    by_kind = tokens(corpus(max(args.sizes), seed=0), SEQ_LEN)
    for name, thousands in by_kind.items():
        print(f"{name:14}{thousands:10,.0f}K tokens/s/core")
    if args.json:
        args.json.write_text(
            json.dumps({"megabytes": real_sizes, "stages": figures, "thousand_tokens_per_s": by_kind}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
