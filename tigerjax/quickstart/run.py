"""The recipe from raw text to an aligned model in Hugging Face's format, stage by stage, then its report.

Every stage writes a folder below OUT with a manifest and is skipped when its inputs and config are unchanged, so an
interrupted quick start continues where it was. Every figure of the report is measured in the run.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import tigerjax
from tigerjax.config import RunConfig, dump
from tigerjax.files import manifest
from tigerjax.quickstart import rejection, training

EMBEDDED = Path(tigerjax.__file__).parent.parent / "data_mixtures" / "embedded"
DEV, TEST = EMBEDDED / "dev.jsonl", EMBEDDED / "test.jsonl"
"""Held-out questions: the gate of a round asks DEV, as do those who change the recipe; TEST is for the report only."""
ANSWER_TOKENS = 32  # the longest right answer of the embedded questions has fewer
PARITY_PROMPTS = 16
CHINESE_PIECES = 2300
"""Of the Chinese BPE before the merge: little more than the 2,000 characters that SentencePiece requires of this text.
It ranks characters after all merges, so more would leave common characters, commas even, out of the first 1,300."""
FACTS_SAMPLE = 0.05
"""Share of the Chinese fact documents that the tokenizer sees beside the books. They repeat a few sentence forms: with
all of them BPE makes one piece of "is the capital of" and half a country's name, even of whole facts."""
SECONDS = "seconds.json"  # of each stage; written first, so that it also says whose folder this is
XLA_FLAGS = "--xla_cpu_experimental_ynn_fusion_type="
"""At these sizes XLA's own products on a CPU are faster than the YNNPACK fusions that it makes by default:
`benchmarks/train_step.py --dtype float32 --remat none --rows 8 --seq-len 64 --vocab 2304` with and without."""


class Work(NamedTuple):
    """Where a quick start writes, and what it has measured so far."""

    out: Path
    seed: int
    adjust: training.Adjust
    console: Console
    report: dict[str, Any]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage; a skipped one keeps the time of the run that did the work."""
        kept = self.out / SECONDS
        seconds = json.loads(kept.read_text(encoding="utf-8"))
        self.console.print(f"[bold]{name}[/bold]")
        start = time.perf_counter()
        yield
        seconds[name] = max(seconds.get(name, 0.0), round(time.perf_counter() - start, 1))
        manifest.write_json(kept, seconds)
        self.report["seconds"] = seconds

    def config(self, name: str) -> RunConfig:
        return training.run_config(name, self.out, seed=self.seed, adjust=self.adjust)

    def signature(self, name: str) -> list[str]:
        """Changes whenever the config does."""
        return dump(self.config(name))


def quickstart(out: Path, *, seed: int, adjust: training.Adjust = lambda config: config) -> dict[str, Any]:
    """Runs all stages and returns the report; `adjust` changes the training configs (tests make them shorter)."""
    from data_mixtures import quickstart as mixtures

    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)  # read when JAX looks for devices, later
    claim(out)
    report: dict[str, Any] = {"version": tigerjax.__version__, "seed": seed, "config": {}, "curves": {}, "accuracy": {}}
    work = Work(out, seed, adjust, Console(stderr=True), report)
    mixtures.register(out)

    with work.stage("clean and deduplicate"):
        report["data"] = prepare_text(out)
    with work.stage("tokenizer"):
        report["tokenizer"] = make_tokenizers(work)
    models = {}
    for name in ("base", "holistic", "sft"):
        models[name] = out / name
        with work.stage(f"train {name}"):
            train(work, name)
        with work.stage(f"ask {name}"):
            report["accuracy"][name] = accuracy(work, models[name], chat=name == "sft")
    with work.stage("reward model"):
        rejection.train_reward(work)
    with work.stage("rejection sampling round"):
        models["rejection_sampled"] = rejection.run_round(work)
        report["curves"]["rejection_sampled"] = training.curve(models["rejection_sampled"])
        report["accuracy"]["rejection_sampled"] = accuracy(work, models["rejection_sampled"], chat=True)
    with work.stage("control: as many steps, no winners"):
        train(work, "control")
        report["accuracy"]["control"] = accuracy(work, out / "control", chat=True)
    before, after = (report["accuracy"][name] for name in ("sft", "rejection_sampled"))
    report["true_reward"] = [
        {"round": 1, "before": before["mean_true_reward"], "after": after["mean_true_reward"], "n": after["n"]}
    ]
    with work.stage("Hugging Face export and parity"):
        report |= hugging_face(work, models["rejection_sampled"])

    report["samples"] = samples(work, models)
    report["total_seconds"] = round(sum(report["seconds"].values()), 1)
    from tigerjax.report import lineage, print_table, render, runs

    report |= {"runs": runs.collect(out), "lineage": lineage.collect(out)}

    manifest.write_json(out / "report.json", report)
    render(report, out / "report.html")
    print_table(report)
    work.console.print(f"wrote {out}/report.json and {out}/report.html; the Hugging Face model is in {out}/hf")
    return report


def claim(out: Path) -> None:
    """Makes the folder of a quick start, or goes on with one; ConfigError for one that holds something else."""
    kept = out / SECONDS
    manifest.refuse(out, "quickstart", manifest.read(out) or ({"stage": "quickstart"} if kept.is_file() else None))
    out.mkdir(parents=True, exist_ok=True)
    if not kept.is_file():
        manifest.write_json(kept, {})


def prepare_text(out: Path) -> dict[str, Any]:
    """Cleans, removes exact and near duplicates, then what the instruction data teaches; returns the counts."""
    from tigerjax.text.clean import clean_files
    from tigerjax.text.dedup import against_sft_files, dedup_files

    corpora = ["corpus_zh.jsonl", "corpus_en.jsonl"]
    sft = clean_files([EMBEDDED / "sft.jsonl"], out / "instructions")
    steps = {
        "clean": clean_files([EMBEDDED / name for name in corpora], out / "clean"),
        "exact": dedup_files("exact", [out / "clean" / name for name in corpora], out / "exact"),
        "near": dedup_files("near", [out / "exact" / name for name in corpora], out / "near"),
        "against_sft": against_sft_files(
            [out / "near" / name for name in corpora], [out / "instructions" / "sft.jsonl"], out / "pretrain"
        ),
    }
    split_sources({lang: out / "pretrain" / f"corpus_{lang}.jsonl" for lang in ("zh", "en")}, out / "sources")
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


def make_tokenizers(work: Work) -> dict[str, Any]:
    """A small English vocabulary with Llama-2's settings, extended by Chinese pieces to the exact size."""
    from tigerjax.tokenizer.extend import extend
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.tokenizer.sample import sample
    from tigerjax.tokenizer.train import train_model

    out, before, after = work.out, work.config("base").model.vocab_size, work.config("holistic").model.vocab_size
    # The text before it is cut against the instructions: their names and words need tokens too.
    zh, en = out / "near" / "corpus_zh.jsonl", out / "near" / "corpus_en.jsonl"
    folders = (out / "base_tokenizer", out / "tokenizer")
    old = [manifest.sha256(folder) if folder.is_dir() else None for folder in folders]
    train_model([en], before, out / "base_tokenizer", seed=work.seed)
    split_sources({"zh": zh}, out / "tokenizer_text")
    books, facts = (out / "tokenizer_text" / f"zh_{name}.jsonl" for name in ("books", "facts"))
    drawn = out / "tokenizer_sample"
    sample(inputs=[facts], out=drawn, fraction=FACTS_SAMPLE, seed=work.seed, min_sample_bytes=1)
    text = [books, drawn / "sample.txt"]
    train_model(text, CHINESE_PIECES, out / "zh_tokenizer", seed=work.seed, character_coverage=0.98)
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


def train(work: Work, name: str) -> None:
    """One of the quick start's configs; the holistic run starts from the resized base."""
    config, run_dir = work.config(name), work.out / name
    inputs = [Path(config.data.tokenizer)]
    inputs += {
        "base": [work.out / "sources"],
        "holistic": [work.out / "sources", work.out / "instructions"],
        "sft": [work.out / "instructions"],
        "control": [work.out / "instructions"],
    }[name]
    if name == "holistic":
        _resize(work)
    if config.checkpoint.init_from is not None:
        inputs.append(Path(config.checkpoint.init_from) / manifest.FILE)
    done = training.train_once(config, run_dir, inputs=inputs)
    work.report["curves"][name] = training.curve(run_dir)
    if name == "holistic":
        work.report["shares"] = {"wanted": done["wanted"], "realised": done["shares"]}
        work.report["config"] = {
            "parameters": done["parameters"],
            "tokens": config.batch_rows * config.data.seq_len * config.optim.total_steps,
        }


def _resize(work: Work) -> None:
    """The base checkpoint with rows for the new vocabulary: the mean of the sub-tokens that it replaces."""
    from tigerjax.checkpoint.model import load_model, save_model
    from tigerjax.convert.vocab import resize
    from tigerjax.tokenizer.load import Tokenizer

    out, wanted = work.out, work.config("holistic").model
    tokenizers = [out / "base_tokenizer", out / "tokenizer"]
    with manifest.stage(
        out / "base_resized", name="resize", config={}, inputs=[out / "base" / manifest.FILE, *tokenizers]
    ) as run:
        if run.done:
            return
        model = load_model(out / "base")
        base, extended = map(Tokenizer, tokenizers)
        multiple = wanted.padded_vocab_size if wanted.padded_vocab_size > model.config.padded_vocab_size else 128
        weights, config = resize(model.weights, model.config, base, extended, multiple=multiple)
        save_model(run.tmp / "checkpoints" / "0", weights, config, tokenizer_sha256=extended.sha256)


def answers(work: Work, run_dir: Path, *, chat: bool, asked: Path = TEST) -> list[dict[str, Any]]:
    """Greedy answers of a run's model to held-out questions, kept in OUT/answers/."""
    from tigerjax.checkpoint.loaded import load_for
    from tigerjax.evaluate import questions
    from tigerjax.sample.engine import Batching, SamplingConfig
    from tigerjax.sample.folder import sample_prompts

    config = work.config("base" if run_dir.name == "base" else "sft")
    folder = work.out / "answers" / asked.stem / "_".join(run_dir.relative_to(work.out).parts)
    with manifest.stage(folder, name="answers", config={"chat": chat}, inputs=[run_dir / manifest.FILE, asked]) as run:
        if not run.done:
            prompts = [
                {"prompt_id": q.id, "messages": [{"role": "user", "content": q.prompt}]} for q in questions.load(asked)
            ]
            sampling = SamplingConfig(
                n=1,
                temperature=0.0,
                max_new_tokens=ANSWER_TOKENS,
                context=config.data.seq_len,
                seed=work.seed,
                chat=chat,
            )
            model, batching = load_for(config, run_dir), Batching(prompts=64, rows=64)
            sample_prompts(model, prompts, run.tmp / "sample", sampling, batching=batching)
    return read(folder / "sample" / "candidates.jsonl")


def accuracy(work: Work, run_dir: Path, *, chat: bool, asked: Path = TEST) -> dict[str, Any]:
    """Share of held-out questions answered rightly, by language and task."""
    from tigerjax.evaluate import questions

    texts = {r["prompt_id"]: r["candidates"][0]["text"] for r in answers(work, run_dir, chat=chat, asked=asked)}
    return questions.accuracy(questions.load(asked), texts)


def samples(work: Work, models: dict[str, Path], count: int = 8) -> list[dict[str, Any]]:
    """The same held-out questions answered by every model, evenly spread over the file."""
    from tigerjax.evaluate import questions

    asked = questions.load(TEST)
    texts = {
        name: {
            r["prompt_id"]: r["candidates"][0]["text"]
            for r in answers(work, run_dir, chat=name in ("sft", "rejection_sampled"))
        }
        for name, run_dir in models.items()
    }
    chosen = asked[:: max(1, len(asked) // count)][:count]
    return [
        {
            "lang": q.lang,
            "prompt": q.prompt,
            "answers": {name: texts[name][q.id] for name in models},
            "right": {name: questions.judge(q, texts[name][q.id]) for name in models},
        }
        for q in chosen
    ]


def hugging_face(work: Work, run_dir: Path) -> dict[str, Any]:
    """Exports the last model and compares logits, greedy ids and token ids with `transformers` on the export."""
    from tigerjax.checkpoint.model import load_model
    from tigerjax.convert.hf import Export, to_hf
    from tigerjax.quickstart import parity

    out = work.out
    with manifest.stage(
        out / "parity",
        name="parity",
        config={"prompts": PARITY_PROMPTS},
        inputs=[run_dir / manifest.FILE, out / "tokenizer"],
    ) as run:
        if run.done and (out / "hf").is_dir():
            assert run.manifest is not None
            return run.manifest["figures"]
        model = load_model(run_dir)
        lineage = {"checkpoint": str(run_dir.relative_to(out))}
        to_hf(model.weights, model.config, out / "hf", Export(tokenizer=out / "tokenizer", lineage=lineage))
        run.figures = parity.compare(model, out / "tokenizer", out / "hf", run.tmp, _prompts(), ANSWER_TOKENS)
        return run.figures


def _prompts() -> list[str]:
    from tigerjax.evaluate import questions

    asked = questions.load(TEST)
    return [q.prompt for q in asked[:: max(1, len(asked) // PARITY_PROMPTS)]][:PARITY_PROMPTS]


def _texts(path: Path) -> list[str]:
    return [record["text"] for record in read(path)]


def read(path: Path) -> list[dict[str, Any]]:
    from tigerjax.files.jsonl import read_jsonl

    return [record for _, record in read_jsonl(path)]
