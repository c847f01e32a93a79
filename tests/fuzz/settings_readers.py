"""Readers of what people write by hand: a config, text for tokenizers, the files of a new project."""

import importlib.util
from pathlib import Path

from hand_tokenizer import INS, PAD, RES, write_added
from model_readers import foreign, models, scoring, words_of_config
from reader import Reader
from text_readers import SFT, TEXTS, lines, written

CONFIG = '''"""A run."""

import dataclasses

from tigerjax.config import (
    CheckpointConfig, ComputeConfig, DataConfig, EvalConfig, MeshConfig, ModelConfig, OptimConfig, RunConfig,
)


def config() -> RunConfig:
    return RunConfig(
        name="fuzzed",
        model=ModelConfig(
            num_layers=2, model_dim=8, mlp_dim=12, num_heads=2, num_kv_heads=1, head_dim=4, vocab_size=40,
            padded_vocab_size=48, rope_base=500.0, norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=16),
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=1e-3, final_lr_fraction=0.1, warmup_steps=2, total_steps=9, beta1=0.9, beta2=0.95, eps=1e-8,
            weight_decay=0.1, clip_norm=1.0, gradient_accumulation_steps=1,
        ),
        data=DataConfig(mixture="{mixture}", modules=(), tokenizer="{tok}", cache_dir="rows", seq_len=16),
        checkpoint=CheckpointConfig(every_steps=5, keep=2),
        global_batch_size=4,
        seed=1,
        log_every_steps=1,
    )
'''
QUESTIONS = [
    {"id": "q1", "lang": "en", "task": "say", "prompt": "Say no", "answers": ["no"]},
    {"id": "q2", "lang": "zh", "task": "sum", "prompt": "12 加 5？", "answers": ["17", "十七"]},
]


def config_file(folder: Path) -> None:
    (folder / "in").mkdir()
    write_added(folder / "tok")
    text = CONFIG.replace("{tok}", str(folder / "tok")).replace("{mixture}", "quickstart_sft")
    (folder / "in" / "run.py").write_text(text.replace("modules=()", 'modules=("data_mixtures.quickstart",)'))


def with_text(folder: Path) -> None:
    """Text for a tokenizer, as records and plain."""
    written(docs=lines(TEXTS))(folder)
    (folder / "in" / "plain.txt").write_text("The tiger walks.\n老虎在山里走。\n" * 30, encoding="utf-8")


def extended(folder: Path) -> None:
    """base/, the same with the markers of a chat in tok/, and a text. transformers gives other ids without a
    tokenizer.json."""
    with_text(folder)
    write_added(folder / "base")
    write_added(folder / "tok", INS, RES, PAD)


def of_project(folder: Path) -> None:
    """What `tigerjax new` reads."""
    foreign(folder)
    (folder / "in").mkdir()
    (folder / "in" / "sft.jsonl").write_bytes(lines(SFT))
    (folder / "in" / "q.jsonl").write_bytes(lines(QUESTIONS))


def calibrated(folder: Path) -> None:
    models(folder)
    (folder / "in").mkdir()
    (folder / "in" / "sft.jsonl").write_bytes(lines(SFT))


IN = {"files": ("in/*",), "json": ("in/*.jsonl",)}
READERS: dict[str, Reader] = {
    "config": Reader(
        make=config_file,
        words=lambda f: ["train", f / "in/run.py", "--out", f / "run", "--dry-run"],
        files=("in/run.py",),
    ),
    "new": Reader(
        make=of_project,
        words=lambda f: [
            "new", f / "made", "--base", f / "hf", "--sft", f / "in/sft.jsonl", "--evaluation-set", f / "in/q.jsonl",
            "--device", "cpu",
        ],
        files=("in/*", "hf/*.json"),
        json=("in/*.jsonl", "hf/*.json"),
    ),
    "tokenizer train": Reader(
        make=with_text,
        words=lambda f: [
            "tokenizer", "train", "--input", f / "in/docs.jsonl", f / "in/plain.txt", "--vocab-size", 300,
            "--out", f / "out",
        ],
        **IN,
    ),
    "tokenizer verify": Reader(
        make=extended,
        words=lambda f: ["tokenizer", "verify", f / "tok", "--base", f / "base", "--text", f / "in/docs.jsonl"],
        files=("in/docs.jsonl", "tok/*", "base/*"),
        json=("in/*.jsonl", "tok/*.json"),
        codes=(0, 5),
        good=5 if importlib.util.find_spec("transformers") else 0,
    ),
    "reward calibrate": Reader(
        make=calibrated,
        words=lambda f: [
            "reward", "calibrate", *words_of_config(f), "--model", f / "reward",
            "--calibration-set", f / "in/sft.jsonl",
        ],
        files=("in/sft.jsonl", "reward/meta.json"),
        json=("in/sft.jsonl", "reward/meta.json"),
        may_change=("reward/*",),
        codes=(5,),
        around=scoring,
    ),
}  # fmt: skip
