"""How the cost and the memory of the data stages grow with the corpus: CPU seconds, the fitted exponent, and the peak.

    python benchmarks/speed/corpus_growth.py [--sizes 40 160 640] [--stages clean exact near …] [--work DIR]
        [--workers 1] [--json FILE]

Each stage is its command in a process of its own, over the same files of about 40 MB each. CPU seconds are those of the
command and of its workers, so that other work on the machine matters little. The peak is the resident memory of the
largest of these processes. A start (`tigerjax data clean --help`) costs the same for every size, so it is taken off
before the exponent is fitted: the slope of log(seconds) over log(megabytes). 1.0 is linear. For a cost that
grows faster, the memory or the exponent would grow from one size to the next.

Documents are those of data_throughput.py, written one after another: sentences of the embedded text in a random order,
2% exact copies and 1% shortened ones. The evaluation set of decontaminate is embedded questions. `cache` cuts
rows of 2,048 tokens with a tokenizer of 4,000 pieces.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_throughput import EMBEDDED, SENTENCES, SEQ_LEN, exponent, tokenizer

from tigerjax import records
from tigerjax.files import jsonl

FILE_MB = 40
RECENT = 2000  # documents of which a copy may be planted
STAGES = ("clean", "exact", "near", "against-sft", "decontaminate", "cache")
MIXTURE = """from tigerjax.data.mixture import Source, pretraining
pretraining("growth", tokenizer={tokenizer!r}, sources={{"all": Source({files!r})}})
"""
CONFIG = """import dataclasses
from tigerjax.config import files
def config():
    run = files.load({base!r})
    data = dataclasses.replace(run.data, mixture="growth", modules=("growth_mixture",), tokenizer={tokenizer!r},
                               cache_dir={cache!r}, seq_len={seq_len})
    return dataclasses.replace(run, data=data)
"""


def documents(megabytes: float, seed: int) -> Iterator[records.Record]:
    """Documents of about so many MB of text, half of it Chinese, of which only RECENT are held."""
    rng = random.Random(seed)
    sentences = {}
    for lang in ("zh", "en"):
        texts = [d["text"] for d in records.documents(EMBEDDED / f"corpus_{lang}.jsonl")]
        sentences[lang] = [s for t in texts for s in re.split(r"(?<=[。！？.!?\n])", t) if len(s.strip()) > 4]
    recent: deque[str] = deque(maxlen=RECENT)
    number = size = 0
    while size < megabytes * 1e6:
        lang = "zh" if rng.random() < 0.5 else "en"
        text = "".join(rng.choices(sentences[lang], k=SENTENCES))
        if recent and rng.random() < 0.03:
            text = recent[rng.randrange(len(recent))]
            text = text if rng.random() < 0.67 else text[: int(0.97 * len(text))]
        recent.append(text)
        yield {"id": f"d{seed}-{number}", "text": text, "source": "bench", "lang": lang, "meta": {}}
        number += 1
        size += len(text.encode())


def corpus_files(folder: Path, megabytes: float) -> list[Path]:
    """Files of FILE_MB each, of which a larger corpus has more. They are made once."""
    folder.mkdir(parents=True, exist_ok=True)
    made, left, number = [], megabytes, 0
    while left > 0:
        size = min(left, FILE_MB)
        path = folder / f"text-{number:03}-{size:g}.jsonl"
        if not path.is_file():
            jsonl.write_jsonl(path, documents(size, seed=number))
        made.append(path)
        left, number = left - size, number + 1
    return made


def measured(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """(CPU seconds of a command and of all that it started, the peak memory of the largest of these in GB)."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{said.read().decode(errors='replace')[-2000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


class Stages:
    """The commands of the stages in a folder of work."""

    def __init__(self, work: Path, workers: int):
        self.work, self.workers = work, workers
        root = str(EMBEDDED.parents[1])
        path = os.pathsep.join([root, str(work), os.environ.get("PYTHONPATH", "")])
        self.env = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.tigerjax = [sys.executable, "-m", "tigerjax"]
        self.base = str(EMBEDDED.parents[1] / "configs" / "llama2_tiny.py")

    def start_s(self) -> float:
        """CPU seconds of a start without work."""
        return measured([*self.tigerjax, "data", "clean", "--help"], self.env)[0]

    def command(self, stage: str, files: list[Path], out: Path) -> list[str]:
        given, rest = list(map(str, files)), ["--out", str(out), "--workers", str(self.workers)]
        data = [*self.tigerjax, "data"]
        match stage:
            case "clean":
                return [*data, "clean", "--input", *given, *rest]
            case "exact" | "near":
                return [*data, "dedup", stage, "--input", *given, *rest]
            case "against-sft":
                return [*data, "dedup", "against-sft", "--docs", *given, "--sft", str(EMBEDDED / "sft.jsonl"), *rest]
            case "decontaminate":
                return [*data, "decontaminate", "--docs", *given, "--evaluation-sets", str(self.questions()), *rest]
        return [*data, "cache", str(self.config(files, out))]

    def questions(self) -> Path:
        """An evaluation set: the longest questions of the embedded instruction data."""
        path = self.work / "questions.jsonl"
        if not path.is_file():
            given = {m["content"] for _, r in jsonl.read_jsonl(EMBEDDED / "sft.jsonl") for m in r["messages"][::2]}
            longest = sorted(given, key=lambda text: (-len(text), text))[:500]
            jsonl.write_jsonl(path, ({"id": f"q{i}", "question": text} for i, text in enumerate(longest)))
        return path

    def config(self, files: list[Path], out: Path) -> Path:
        """A config whose mixture reads the files."""
        made = self.work / "tokenizer"
        if not made.is_dir():
            tokenizer(self.work)
        text = MIXTURE.format(tokenizer=str(made), files=tuple(map(str, files)))
        (self.work / "growth_mixture.py").write_text(text, encoding="utf-8")
        path = self.work / "growth_config.py"
        text = CONFIG.format(base=self.base, tokenizer=str(made), cache=str(out), seq_len=SEQ_LEN)
        path.write_text(text, encoding="utf-8")
        return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[40, 160, 640], help="MB of text")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--work", type=Path, default=Path("runs/corpus_growth"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = args.work.resolve()
    corpora = {size: corpus_files(work / "text", size) for size in args.sizes}
    stages = Stages(work, args.workers)
    start = stages.start_s()
    print(f"a start without work: {start:.1f} CPU seconds")
    raw: dict[str, Any] = {"start_s": start, "stages": {}}
    for stage in args.stages:
        seconds, peaks = [], []
        for size in args.sizes:
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            taken, peak = measured(stages.command(stage, corpora[size], out), stages.env)
            shutil.rmtree(out, ignore_errors=True)
            seconds.append(taken)
            peaks.append(peak)
            print(
                f"{stage:14} {size:6g} MB {taken:8.1f} s {size / (taken - start):7.2f} MB/s/core {peak:6.2f} GB",
                flush=True,
            )
        slope = exponent(args.sizes, [taken - start for taken in seconds]) if len(seconds) > 1 else float("nan")
        print(f"{stage:14} exponent {slope:.3f}, peak x {peaks[-1] / peaks[0]:.2f}", flush=True)
        raw["stages"][stage] = {"seconds": seconds, "peak_gb": peaks, "exponent": slope}
    if args.json:
        args.json.write_text(json.dumps({"megabytes": args.sizes, **raw}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
