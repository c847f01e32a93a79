"""The real commands over all the real text that `real_sources.py` installs: from pages to rows, with figures.

    python benchmarks/data/real_text.py --out runs/real_text          resumes where it stopped; --again begins anew
    python benchmarks/data/real_text.py --out runs/real_text --write      the table of docs/DATA.md from its figures

It runs sample, train, extend and verify; then clean, dedup exact, near and against-sft, cache and stats. All the prose
is sampled, a third of the dictionaries and a fiftieth of the verse, so that the pieces are those of modern Chinese. The
Chinese model is trained twice, because the first run finds the size at which exactly 28,512 pieces survive. A model of
the newspaper alone shows what a vocabulary does on the text that it is made for. Each step is a process of its own, on
one core. OUT/figures/<step>.json holds its CPU seconds, its memory and its figures. A step that has such a file is run
again only if a step before it was.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax import records
from tigerjax.text.grams import key
from tigerjax.text.short_units import SHORTEST

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "DATA.md"
SIZE, FIRST_SIZE = 60_515, 46_000
SEQ_LEN = 2048
VERSE = ("tang_zh", "song_zh", "ci_zh")
DICTIONARY = ("char_dictionary_zh", "word_dictionary_zh", "xiehouyu_zh")
NEWSPAPER = "newspaper_zh"
MODERN = (NEWSPAPER, "reviews_bad_zh", "reviews_good_zh")
"""Held-out prose that is not of manuals, whose English says little of a Chinese vocabulary."""
LLAMA2_HAN = 700
"""Han characters among Llama-2's pieces, as the design counted them; the base here has twice as many."""
FRACTIONS = {"prose": 1.0, "dictionary": 0.3, "verse": 0.02}
"""Of each kind of text, what the vocabulary is trained on."""
MIXTURE = '''"""The holistic recipe over the real text."""

from pathlib import Path

from tigerjax.data.mixture import Source, holistic

HERE = Path(__file__).parent
holistic(
    "real_text",
    tokenizer=HERE / "tokenizer",
    zh={{"prose": Source({prose}, weight=3), "verse": Source({verse}, weight=1)}},
    en={{"prose": Source({english}, weight=3), "code": Source(str(HERE / "pretrain" / "python_code.jsonl"), weight=1)}},
    instruct=Source((str(HERE / "sft" / "words.jsonl"), str(HERE / "sft" / "chat.jsonl"))),
    instruct_fraction=0.05,
)
'''
CONFIG = '''"""What `tigerjax data cache` needs: the mixture, its tokenizer and the length of a row."""

import dataclasses

from configs import llama2_tiny
from tigerjax.config import DataConfig, RunConfig


def config() -> RunConfig:
    data = DataConfig(
        mixture="real_text", modules=("real_mixture",), tokenizer={tokenizer!r}, cache_dir={cache!r}, seq_len={seq_len}
    )
    return dataclasses.replace(llama2_tiny.config(), data=data)
'''


class Steps:
    """Runs commands once each and keeps their figures."""

    def __init__(self, out: Path, again: bool):
        self.out, self._again = out, again
        (out / "figures").mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self.out / "figures" / f"{name.replace(' ', '_')}.json"

    def run(self, name: str, command: Sequence[str], fresh: Path | None = None) -> dict[str, Any]:
        """The figures of one step: what it wrote with --json, and the seconds and memory of its process."""
        path = self.path(name)
        if path.is_file() and not self._again:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if earlier["command"] == list(command):
                return earlier
        self._again = True  # what comes after depends on it
        print(f"{name} …", flush=True)
        made = [value for flag, value in itertools.pairwise(command) if flag == "--out"]
        for folder in [fresh] if fresh else made:  # a finished stage would be skipped, in the seconds of nothing
            shutil.rmtree(folder, ignore_errors=True)
        written = self.out / "written.json"
        written.unlink(missing_ok=True)
        paths = os.pathsep.join([str(self.out), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        whole = [sys.executable, "-m", "tigerjax", *command, "--json", str(written)]
        started = time.perf_counter()
        process = subprocess.Popen(whole, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{name} ended with exit code {code}: {' '.join(command)}")
        figures = {
            "command": list(command),
            "cpu_s": round(used.ru_utime + used.ru_stime, 1),
            "wall_s": round(time.perf_counter() - started, 1),
            "peak_rss_gb": round(used.ru_maxrss * 1024 / 1e9, 2),
            "figures": json.loads(written.read_text(encoding="utf-8")) if written.is_file() else None,
        }
        path.write_text(json.dumps(figures, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return figures


def _files(folder: Path, *, lang: str = "", kinds: Sequence[str] = tuple(FRACTIONS)) -> list[str]:
    names = sorted(p for p in folder.glob("*.jsonl") if p.stem.endswith(lang) and p.stat().st_size)
    return [str(p) for p in names if _kind(p.stem) in kinds]


def _kind(name: str) -> str:
    return "verse" if name in VERSE else "dictionary" if name in DICTIONARY else "prose"


def vocabulary(steps: Steps, out: Path) -> None:
    """sample, train (twice), extend, verify; stats by source of what was held out."""
    text = out / "text"
    given = []
    for kind, fraction in FRACTIONS.items():
        folder = out / f"sample_{kind}"
        sample_it = ["tokenizer", "sample", "--input", *_files(text, lang="_zh", kinds=[kind])]
        steps.run(f"sample {kind}", [*sample_it, "--fraction", str(fraction), "--out", str(folder)])
        given.append(str(folder / "sample.txt"))

    def train(name: str, size: int, model: Path, tokenizer: Path, given: Sequence[str]) -> dict[str, Any]:
        train_it = ["tokenizer", "train", "--input", *given, "--vocab-size", str(size), "--out", str(model)]
        steps.run(f"train {name}", train_it)
        extend_it = ["tokenizer", "extend", "--base", str(out / "base.model"), "--new", str(model)]
        return steps.run(f"extend {name}", [*extend_it, "--vocab-size", str(SIZE), "--out", str(tokenizer)])["figures"]

    fitting = train("first", FIRST_SIZE, out / "zh_bpe_first", out / "tokenizer_first", given)["fitting_size"]
    train("fitting", fitting, out / "zh_bpe", out / "tokenizer", given)
    held = _files(out / "held_out")
    english = [f for f in _files(text) if not f.endswith("_zh.jsonl")]
    verify = ["tokenizer", "verify", str(out / "tokenizer"), "--base", str(out / "base.model"), "--text"]
    steps.run("verify", [*verify, *held, *english])
    for path in held:
        name = Path(path).stem
        if name.endswith("_zh") and Path(path).stat().st_size:
            steps.run(f"verify {name}", [*verify, path])
    steps.run("verify modern prose", [*verify, *(path for path in held if Path(path).stem in MODERN)])
    alone, folder = [str(text / f"{NEWSPAPER}.jsonl")], out / "tokenizer_newspaper"
    fitting = train("newspaper first", FIRST_SIZE, out / "newspaper_bpe_first", folder, alone)["fitting_size"]
    train("newspaper", fitting, out / "newspaper_bpe", folder, alone)
    own = ["tokenizer", "verify", str(folder), "--base", str(out / "base.model"), "--text"]
    steps.run("verify newspaper alone", [*own, str(out / "held_out" / f"{NEWSPAPER}.jsonl")])


def documents(steps: Steps, out: Path) -> None:
    """clean, the three kinds of dedup, cache and stats."""
    previous = _files(out / "text")
    for name, command in (
        ("clean", ["data", "clean", "--on", "language", "--input"]),
        ("exact", ["data", "dedup", "exact", "--input"]),
        ("near", ["data", "dedup", "near", "--input"]),
    ):
        steps.run(name, [*command, *previous, "--out", str(out / name)])
        previous = _files(out / name)  # what a stage dropped whole is an empty file
    sft = [str(out / "sft" / f"{name}.jsonl") for name in ("words", "chat")]
    steps.run(
        "against-sft",
        ["data", "dedup", "against-sft", "--docs", *previous, "--sft", *sft, "--out", str(out / "pretrain")],
    )
    sources = {
        "prose": _files(out / "pretrain", lang="_zh", kinds=["prose", "dictionary"]),
        "verse": _files(out / "pretrain", lang="_zh", kinds=["verse"]),
        "english": _files(out / "pretrain", lang="_en"),
    }
    texts = {name: repr(tuple(paths)) for name, paths in sources.items()}
    (out / "real_mixture.py").write_text(MIXTURE.format(**texts), encoding="utf-8")
    values = {"tokenizer": str(out / "tokenizer"), "cache": str(out / "cache"), "seq_len": SEQ_LEN}
    (out / "real_config.py").write_text(CONFIG.format(**values), encoding="utf-8")
    steps.run("cache", ["data", "cache", str(out / "real_config.py")], fresh=out / "cache")
    more = ["--modules", "real_mixture", "--seq-len", str(SEQ_LEN), "--cache-dir", str(out / "cache")]
    steps.run("stats", ["data", "stats", "real_text", *more])


def summary(steps: Steps, out: Path) -> dict[str, Any]:
    """Everything that was measured, and how many words of the instructions were found in the text."""
    figures = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((out / "figures").glob("*.json"))}
    with open(out / "pretrain" / "hits" / "hits.jsonl", encoding="utf-8") as file:
        hits = {hit["sft_id"] for line in file if (hit := json.loads(line))["sft_id"].startswith("words/")}
    documents = (d["text"] for d in records.documents(out / "near" / "word_dictionary_zh.jsonl"))
    text, shortest = "\0".join(map(key, documents)), SHORTEST["characters"]
    answers = {e["id"]: key(e["messages"][1]["content"]) for e in records.sft_examples(out / "sft" / "words.jsonl")}
    held = {i for i, answer in answers.items() if len(answer) >= shortest and answer in text}
    found = {answers[i] for i in hits & set(answers)}  # equal answers are one unit, named by one of them
    megabytes = sum(Path(path).stat().st_size for path in _files(out / "text")) / 1e6
    held_out = [out / "held_out" / f"{name}.jsonl" for name in MODERN]
    return {
        "megabytes": round(megabytes, 1),
        "before_with_llama2_han": with_fewer_han(out / "base.model", held_out, LLAMA2_HAN),
        "words_held": len(held),
        "words_found": sum(answers[i] in found for i in held),
        "steps": figures,
    }


def with_fewer_han(base: Path, paths: Sequence[Path], count: int) -> float:
    """Characters per token of Chinese text by a base in which only its `count` first Han characters are pieces: an
    estimate, each of the others being three bytes."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(base))
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
    fallen = set([p for p in pieces if len(p) == 1 and "\u4e00" <= p <= "\u9fff"][count:])
    lines = [line for path in paths for d in records.documents(path) for line in d["text"].split("\n") if line.strip()]
    tokens = sum(map(len, model.encode(lines))) + 2 * sum(c in fallen for line in lines for c in line)
    return sum(map(len, lines)) / tokens


def table(made: dict[str, Any]) -> list[str]:
    """The lines of docs/DATA.md."""
    steps, megabytes = made["steps"], made["megabytes"]
    verify, extend = steps["verify"]["figures"], steps["extend_fitting"]["figures"]
    lines = ["| step | in | out | dropped | CPU s | MB/s/core | peak GB |", "|---|---|---|---|---|---|---|"]
    for name in ("clean", "exact", "near", "against-sft"):
        step = steps[name]
        figures = step["figures"]
        dropped = ", ".join(f"{k} {n:,}" for k, n in figures["dropped"].items() if n) or "0"
        rate = megabytes / step["cpu_s"]  # of what the first of them read
        counts = f"{figures['in']:,} | {figures['out']:,} | {dropped}"
        lines.append(f"| {name} | {counts} | {step['cpu_s']} | {rate:.1f} | {step['peak_rss_gb']} |")
    stats, cache = steps["stats"]["figures"], steps["cache"]
    lines.append(
        f"| cache | {len(cache['figures']['rows'])} sources"
        f" | {stats['rows']:,} rows of {SEQ_LEN:,}, fill {stats['fill']:.1%} |"
        f" {stats['tokens']:,} tokens, {stats['tokens'] / cache['cpu_s'] / 1e3:.0f}K tokens/s/core |"
        f" {cache['cpu_s']} | | {cache['peak_rss_gb']} |"
    )
    worst = max(abs(stats["realised"][name] - wanted) for name, wanted in stats["wanted"].items())
    seconds = steps["train_fitting"]["cpu_s"]
    lines += [
        "",
        f"{megabytes:,} MB of documents. Vocabulary: {verify['vocab_size']:,} = 32,000 + {extend['new_pieces']:,} + 3,"
        f" from {steps['train_fitting']['figures']['characters']:,} characters in {seconds} CPU seconds;"
        f" {extend['characters_left_out']} characters left out."
        f" `verify`: {verify['old_ids_changed']} old pieces changed, {verify['plain_lines_changed']} of"
        f" {verify['plain_lines']:,} lines of English and code and {verify['mixed_lines_changed']} of"
        f" {verify['mixed_lines']:,} mixed ones, {verify['dead_rows']} dead rows, {verify['round_trip_failures']} round"
        f" trips failed, {verify['hf_mismatches']} Hugging Face mismatches on {verify['lines']:,} lines. Token shares"
        f" of one epoch are within {100 * worst:.2f} points. against-sft found {made['words_found']:,} of the"
        f" {made['words_held']:,} definitions of at least {SHORTEST['characters']} characters that are instructions"
        " and stand in the dictionary's documents, and cut them out of"
        f" {steps['against-sft']['figures']['cut']:,} documents. `--on language` drops pages of help and manuals that"
        " are less than 30% Chinese.",
        "",
        "| held out | characters per token before | after | ratio |",
        "|---|---|---|---|",
    ]
    named = {
        "verify_modern_prose": "newspaper and reviews",
        "verify_newspaper_alone": "newspaper, by its own vocabulary",
    }
    for name, step in steps.items():
        if name.startswith("verify_") and name not in named:
            lines.append(_ratio(name.removeprefix("verify_"), step["figures"]["chars_per_token"]))
    lines += [_ratio(shown, steps[name]["figures"]["chars_per_token"]) for name, shown in named.items()]
    fewer = {
        "before": {"zh": made["before_with_llama2_han"]},
        "after": steps["verify_modern_prose"]["figures"]["chars_per_token"]["after"],
    }
    lines.append(_ratio(f"newspaper and reviews, by a base of {LLAMA2_HAN} Han characters (estimate)", fewer))
    lines.append(_ratio("all Chinese", verify["chars_per_token"]))
    return lines


def _ratio(name: str, shown: dict[str, dict[str, float]]) -> str:
    before, after = shown["before"]["zh"], shown["after"]["zh"]
    return f"| {name} | {before:.3f} | {after:.3f} | {after / before:.2f} |"


def write(lines: list[str]) -> None:
    """Puts the table into docs/DATA.md, between its marks."""
    block = "\n".join(["<!-- real_text -->", "", *lines, "", "<!-- /real_text -->"])
    text, replaced = re.subn(
        "<!-- real_text -->.*<!-- /real_text -->", lambda _: block, DOC.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if replaced != 1:
        raise SystemExit(f"{DOC} must hold <!-- real_text --> … <!-- /real_text --> once")
    DOC.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/real_text"))
    parser.add_argument("--again", action="store_true", help="run every step, also those that have figures")
    parser.add_argument("--write", action="store_true", help="run nothing; put the table into docs/DATA.md")
    args = parser.parse_args()
    out = args.out.resolve()
    steps = Steps(out, args.again)
    if not args.write:
        import real_sources

        real_sources.make(out)
        vocabulary(steps, out)
        documents(steps, out)
    made = summary(steps, out)
    (out / "real_text.json").write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(made)))
    if args.write:
        write(table(made))


if __name__ == "__main__":
    main()
