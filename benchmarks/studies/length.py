"""Rows longer than those of the training, for each kind of rope: `tigerjax evaluate --length` on small models.

    python benchmarks/studies/length.py --seeds 0 1 2 --out runs/length   trains and measures; resumes
    python benchmarks/studies/length.py --write                           tables and pictures of docs/LONG_CONTEXT.md
                                                                         and of its Chinese page

For each seed a tiny model is trained on rows of 128 tokens: a quarter of them the embedded Chinese and English text,
the others the same text with hidden numbers and their questions. It is then measured at 1 to 16 times this length with
every kind of rope, by each of FACTORS, without further training. The text and the questions that are measured are not
those of the training. Seeds that OUT/figures.json has already, and that are not named, stay in it.
"""

import argparse
import json
import os
import random
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "speed"))

from turns import commit

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, ModelConfig, OptimConfig, RunConfig
from tigerjax.config.rope import RopeKind
from tigerjax.files import manifest

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED, DOCS = ROOT / "data_mixtures/embedded", ROOT / "docs"
KINDS: tuple[RopeKind, ...] = ("default", "linear", "dynamic", "yarn", "llama3")
FACTORS = (4.0, 16.0)
TRAINED, TIMES = 128, (1, 2, 4, 8, 16)
PIECES, COVERAGE = 2_400, 0.98  # further characters are bytes
STEPS, BATCH = 1_500, 8
ROWS, NEEDLES = 6, 4
HELD_OUT = 5  # one document in five
START, END = "<!-- measured -->", "<!-- /measured -->"
PAGE, CHINESE_PAGE = DOCS / "LONG_CONTEXT.md", DOCS / "zh/LONG_CONTEXT.md"
SPREAD = "Each figure is a mean over the seeds, and in brackets is their standard deviation."
NO_SPREAD = "It is one seed: how much chance there is in the figures is not known."
IN_CHINESE = {
    r"Written by (`[^`]+`) from \[(\S+)\]\(\S+\): ": r"由 \1 根据 [\2](../\2) 写出：",
    r"seeds? ([\d, ]+); ([\d,]+) steps of training, commits? ([\w+, ]+)\. ": r"种子 \1，训练 \2 步，提交 \3。",
    r"A hidden number .* (\d+) times in each language and length\. ": r"每种语言、每个长度各查找 \1 次隐藏数字。",
    re.escape(SPREAD): "表中是各种子的均值，括号里是标准差。",
    re.escape(NO_SPREAD): "只有一个种子，所以还不知道这些数字受偶然因素影响有多大。",
    r"### Factor ": "### 缩放因子 ",
    r"!\[Loss and hidden numbers, factor (\d+)\]\(": r"![损失与隐藏数字，缩放因子 \1](../",
    r"\| English: ": "| 英文：",
    r"\| Chinese: ": "| 中文：",
    r"loss of the last (\d+) tokens, nats": r"最后 \1 个 token 的损失，nats",
    r"hidden numbers found, %": "找到的隐藏数字，%",
}
"""Patterns of `measured`, in order, and what the Chinese page has instead."""


def run_config(seed: int, out: Path, steps: int, entries: int) -> RunConfig:
    return RunConfig(
        name="length",
        model=ModelConfig(
            num_layers=2,
            model_dim=64,
            mlp_dim=176,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            vocab_size=entries,
            padded_vocab_size=-(-entries // 64) * 64,
            rope_base=10_000.0,
            norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=3e-3, final_lr_fraction=0.1, warmup_steps=min(100, steps // 4 + 1), total_steps=steps, beta1=0.9,
            beta2=0.95, eps=1e-8, weight_decay=0.01, clip_norm=1.0,
        ),
        data=DataConfig(
            mixture="length",
            modules=(),
            tokenizer=str(out / "tokenizer"),
            cache_dir=str(out / "cache"),
            seq_len=TRAINED,
        ),
        checkpoint=CheckpointConfig(every_steps=100, keep=1),
        global_batch_size=BATCH,
        seed=seed,
        log_every_steps=50,
    )  # fmt: skip


class Rows:
    """Batches of text and of hidden numbers; each batch follows from the seed and its number alone."""

    def __init__(self, tokenizer: Any, texts: dict[str, list[str]], seed: int):
        from tigerjax.evaluate.needles import sentences

        self._tokenizer, self._seed, self._at = tokenizer, seed, 0
        self.vocab_size, self.tokenizer_sha256 = tokenizer.size, tokenizer.sha256
        self._streams = {
            lang: [i for text in own for i in (*tokenizer.encode(text), tokenizer.eos)] for lang, own in texts.items()
        }
        self._sentences = {lang: sentences(tokenizer, own) for lang, own in texts.items()}

    def __iter__(self) -> "Rows":
        return self

    def __next__(self) -> Any:
        from tigerjax.data.rows import make_batch

        drawn = random.Random(f"{self._seed} {self._at}")
        self._at += 1
        return make_batch([self._row(drawn, n) for n in range(BATCH)])

    def _row(self, drawn: random.Random, n: int) -> Any:
        from tigerjax.data.rows import make_row
        from tigerjax.evaluate.needles import needle

        lang = ("en", "zh")[n % 2]
        if n < 2:
            stream = self._streams[lang]
            start = drawn.randrange(len(stream) - TRAINED)
            return make_row(stream[start : start + TRAINED], [1] * TRAINED, [1.0] * TRAINED)
        parts = 2 if n < 6 else 1  # a short row is learnt from sooner
        ids, segments, weights = list[int](), list[int](), list[float]()
        for part in range(parts):
            one = needle(
                self._tokenizer,
                lang,
                self._sentences[lang],
                length=TRAINED // parts,
                depth=drawn.random(),
                seed=f"training {drawn.random()}",
            )
            ids += one.ids
            segments += [part + 1] * len(one.ids)
            # Only the number counts: the text around it is that of the other rows.
            weights += [8.0 * (at >= one.first) for at in range(len(one.ids))]
        return make_row(ids, segments, weights)

    def state(self) -> dict[str, int]:
        return {"at": self._at}

    def restore(self, state: dict[str, int]) -> None:
        self._at = state["at"]


def documents() -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """(language, whether it is held out, record) of the embedded text."""
    for lang in ("en", "zh"):
        lines = (EMBEDDED / f"corpus_{lang}.jsonl").read_text(encoding="utf-8").splitlines()
        for n, line in enumerate(lines):
            yield lang, n % HELD_OUT == 0, json.loads(line)


def prepare(out: Path) -> Any:
    """The tokenizer of all seeds, and OUT/held_out.jsonl."""
    from tigerjax.evaluate.needles import WORDINGS
    from tigerjax.files.jsonl import write_jsonl
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.tokenizer.train import train_model

    out.mkdir(parents=True, exist_ok=True)
    asked = [
        (of.hidden + of.question + of.answer).format(name=name, number=f"{number}")
        for of in WORDINGS.values()
        for name in of.names
        for number in range(1000, 10_000, 250)
    ]
    kept = [record["text"] for _, held, record in documents() if not held]
    write_jsonl(out / "tokenizer_text.jsonl", ({"id": str(n), "text": text} for n, text in enumerate([*kept, *asked])))
    write_jsonl(out / "held_out.jsonl", (record | {"lang": lang} for lang, held, record in documents() if held))
    train_model([out / "tokenizer_text.jsonl"], PIECES, out / "tokenizer", character_coverage=COVERAGE)
    return Tokenizer(out / "tokenizer")


def one_seed(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Trains the model of a seed unless it is there, and measures it: {factor: figures of `length.measure`}."""
    from tigerjax.checkpoint.loaded import load
    from tigerjax.evaluate import length
    from tigerjax.train.loop import train
    from tigerjax.train.metrics import Reporting

    tokenizer = prepare(out)
    config = run_config(seed, out, steps, tokenizer.size)
    texts: dict[str, list[str]] = {"en": [], "zh": []}
    for lang, held, record in documents():
        if not held:
            texts[lang].append(record["text"])
    run_dir = out / f"seed_{seed}"
    train(config, Rows(tokenizer, texts, seed), run_dir=run_dir, reporting=Reporting(progress=False, echo=say))
    model = load(run_dir, tokenizer, compute=config.compute)
    found = {}
    for factor in FACTORS:
        how = length.LengthConfig(trained=TRAINED, times=TIMES, ropes=KINDS, factor=factor, rows=ROWS, needles=NEEDLES)
        of_lang = length.read_texts([out / "held_out.jsonl"], tokenizer, how)
        say(f"seed {seed}, factor {factor:g}")
        found[f"{factor:g}"] = length.measure(
            model, of_lang, how, batch_rows=2, cache=run_dir / "length" / "cache.jsonl"
        )
    return found


def mean(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One figures object with the means over seeds; what is equal in all of them stays."""

    def of(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: of([value[name] for value in values]) for name in values[0]}
        if isinstance(values[0], list):
            return [of(list(each)) for each in zip(*values, strict=True)]
        return values[0] if all(value == values[0] for value in values) else statistics.mean(values)

    averaged: dict[str, Any] = of(list(found))
    return averaged


def write(record: dict[str, Any]) -> None:
    """The tables between the marks of docs/LONG_CONTEXT.md and its Chinese page, and their pictures."""
    from tigerjax.evaluate import length_page

    folder = DOCS / "long_context"
    folder.mkdir(exist_ok=True)
    manifest.write_json(folder / "figures.json", record)
    for factor in FACTORS:
        own = [found[f"{factor:g}"] for found in record["seeds"].values()]
        length_page.write_pictures(folder / f"factor_{factor:g}.svg", mean(own))
    for page, text in ((PAGE, measured(record)), (CHINESE_PAGE, in_chinese(measured(record)))):
        before, _, rest = page.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def measured(record: dict[str, Any]) -> str:
    """What stands between the marks of the page."""
    from tigerjax.evaluate import length_page
    from tigerjax.evaluate.needles import DEPTHS

    seeds = ", ".join(sorted(record["seeds"]))
    of = list(dict.fromkeys(record["seeds"][seed]["commit"] for seed in sorted(record["seeds"])))
    commits = f"{'commits' if len(of) > 1 else 'commit'} {', '.join(of)}"
    lines = [
        "Written by `python benchmarks/studies/length.py --write` from"
        " [long_context/figures.json](long_context/figures.json):"
        f" {'seeds' if len(record['seeds']) > 1 else 'seed'} {seeds}; {record['steps']:,} steps of training,"
        f" {commits}. A hidden number was looked for {NEEDLES * len(DEPTHS)} times in each language and"
        f" length. {SPREAD if len(record['seeds']) > 1 else NO_SPREAD}",
    ]
    for factor in FACTORS:
        own = [found[f"{factor:g}"] for found in record["seeds"].values()]
        title = f"Loss and hidden numbers, factor {factor:g}"
        lines += ["", f"### Factor {factor:g}", "", f"![{title}](long_context/factor_{factor:g}.svg)"]
        for lang in ("en", "zh"):
            language = length_page.named(lang)
            lines += ["", *_table(own, lang, "last_nats", f"{language}: loss of the last {TRAINED // 2} tokens, nats")]
            lines += ["", *_table(own, lang, "right", f"{language}: hidden numbers found, %")]
    return "\n".join(lines)


def in_chinese(text: str) -> str:
    """`measured`, as the Chinese page has it."""
    for english, chinese in IN_CHINESE.items():
        text = re.sub(english, chinese, text)
    return text


def _table(found: Sequence[dict[str, Any]], lang: str, what: str, caption: str) -> list[str]:
    rows = [f"| {caption} | {' | '.join(f'{times}x' for times in TIMES)} |", "|---" * (len(TIMES) + 1) + "|"]
    for kind in KINDS:
        cells = []
        for n in range(len(TIMES)):
            at = [one["ropes"][kind][lang]["lengths"][n] for one in found]
            values = [100 * one["needles"]["right"] if what == "right" else one[what] for one in at]
            digits = 0 if what == "right" else 2
            spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}")
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return rows


def say(text: object) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/length"))
    parser.add_argument("--steps", type=int, default=STEPS, help="of training; other numbers show only that it runs")
    parser.add_argument("--write", action="store_true", help="write the page from OUT/figures.json, and run nothing")
    args = parser.parse_args()
    out = args.out.resolve()
    if args.write:
        write(json.loads((out / "figures.json").read_text(encoding="utf-8")))
        return
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    record: dict[str, Any] = {"steps": args.steps, "seeds": {}}
    if (out / "figures.json").is_file():
        there = json.loads((out / "figures.json").read_text(encoding="utf-8"))
        record = there if there["steps"] == args.steps else record
    for seed in args.seeds:
        record["seeds"][str(seed)] = {"commit": commit()} | one_seed(out, seed, args.steps)
        manifest.write_json(out / "figures.json", record)
        from tigerjax.evaluate import length_page
        from tigerjax.pages.tables import plain

        for factor in FACTORS:
            for caption, table in length_page.tables(record["seeds"][str(seed)][f"{factor:g}"]):
                say(f"seed {seed}, factor {factor:g}. {caption}\n{plain(table)}")


if __name__ == "__main__":
    main()
