"""Files with the names that examples use, small enough for each example to be run in a second or two."""

import dataclasses
import json
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from tigerjax import config as config_lib
from tigerjax.checkpoint.model import save_model
from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig, RunConfig
from tigerjax.convert import hf
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.model.reward import RewardModel
from tigerjax.tokenizer.extend import extend
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.train import train_model

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "data_mixtures" / "embedded"
BASE, SIZE = 600, 900
"""Entries of the tokenizers that stand in for Llama-2's and for the extended one."""
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=64)
MODEL = ModelConfig(
    num_layers=1,
    model_dim=24,
    mlp_dim=40,
    num_heads=3,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=SIZE,
    padded_vocab_size=904,
    rope_base=777.0,
    norm_eps=1e-5,
)
STARTS = ("runs/sft", *(f"runs/quickstart/{run}" for run in ("base_resized", "holistic", "sft")))
"""Where examples and their configs expect a chat model."""
STAND_IN = '''"""Stands in for {source}: the same data and objective, with a model of one layer and a few steps."""

import small_world


def config():
    return small_world.{how}({source!r})
'''


def small(source: str) -> RunConfig:
    """A config of the repository with the tiny model and a few steps."""
    real = config_lib.load(ROOT / source)
    steps = 100 if real.name == "llama2_tiny" else 24 if "reward" in real.name else 4
    return dataclasses.replace(
        real,
        model=MODEL,
        compute=COMPUTE,
        mesh=MeshConfig(),
        optim=dataclasses.replace(
            real.optim, total_steps=steps, warmup_steps=1, gradient_accumulation_steps=1, peak_lr=5e-3
        ),
        data=dataclasses.replace(
            real.data, tokenizer="runs/quickstart/tokenizer", cache_dir="runs/quickstart/cache", seq_len=96
        ),
        global_batch_size=8,
        log_every_steps=50,
    )


def planned(source: str) -> RunConfig:
    """A config of the repository with its mesh, batch and kernels, and a model of two narrow layers."""
    real = config_lib.load(ROOT / source)
    sizes = {"num_layers": 2, "model_dim": 512, "mlp_dim": 1024, "num_heads": 4, "num_kv_heads": 4, "head_dim": 128}
    model = dataclasses.replace(real.model, **sizes, vocab_size=1000, padded_vocab_size=1024)
    return dataclasses.replace(real, model=model)


def configs(folder: Path, how: str) -> None:
    """Writes configs/ with a stand-in of the same name for every config of the repository."""
    (folder / "configs").mkdir(parents=True)
    for path in sorted((ROOT / "configs").glob("*.py")):
        source = f"configs/{path.name}"
        (folder / source).write_text(STAND_IN.format(source=source, how=how), encoding="utf-8")


def texts(folder: Path) -> None:
    """Documents, instructions, comparisons and questions, as a reader has them."""
    for lang in ("zh", "en"):
        part = _head(EMBEDDED / f"corpus_{lang}.jsonl", 200)
        (folder / f"{lang}.jsonl").write_text(part, encoding="utf-8")
        (folder / lang).mkdir()
        (folder / lang / f"{lang}_1.jsonl").write_text(part, encoding="utf-8")
    shutil.copy(folder / "zh.jsonl", folder / "zh_books.jsonl")
    (folder / "sft.jsonl").write_text(_head(EMBEDDED / "sft.jsonl", 100), encoding="utf-8")
    (folder / "dev.jsonl").write_text(_head(EMBEDDED / "dev.jsonl", 2), encoding="utf-8")
    (folder / "en.txt").write_text("A line of plain English text.\n", encoding="utf-8")
    (folder / "gsm8k.jsonl").write_text('{"question": "How many legs have seven cats?", "answer": "28"}\n', "utf-8")
    (folder / "ceval.csv").write_text("id,question,answer\n1,世界上最高的山峰是哪一座？,A\n", encoding="utf-8")
    (folder / "prompts.jsonl").write_text('{"prompt_id": "1", "text": "Say 你好"}\n', encoding="utf-8")
    _write(folder / "pairs.jsonl", [_comparison(number) for number in range(40)])


def models(folder: Path) -> None:
    """Tokenizers, a Llama-2 in the form of Hugging Face, chat models, a reward model, and the quick start's sources."""
    train_model([folder / "en.jsonl"], BASE, folder / "llama2")
    train_model([folder / "zh.jsonl"], 2200, folder / "zh_pieces")
    extend(folder / "llama2", folder / "zh_pieces", SIZE, folder / "runs" / "quickstart" / "tokenizer")
    shutil.copytree(folder / "runs" / "quickstart" / "tokenizer", folder / "tok")
    shutil.copy(folder / "llama2" / "tokenizer.model", folder / "tokenizer.model")
    llama2 = dataclasses.replace(MODEL, vocab_size=BASE, padded_vocab_size=BASE)
    hf.to_hf(_born(decoder.LanguageModel(llama2, COMPUTE)), llama2, folder / "Llama-2-7b-hf", hf.Export(tokenizer=None))
    shutil.copy(folder / "tokenizer.model", folder / "Llama-2-7b-hf" / "tokenizer.model")
    sha = Tokenizer(folder / "tok").sha256
    chat = _born(decoder.LanguageModel(MODEL, COMPUTE))
    for start in STARTS:
        save_model(folder / start, chat, MODEL, tokenizer_sha256=sha)
    extra = {"calibration": {"mean": 0.0, "std": 1.0, "n": 9}, "truncation_penalty": 1.0}
    scorer = _born(RewardModel(MODEL, COMPUTE))
    save_model(folder / "runs/reward/model", scorer, MODEL, kind="reward", tokenizer_sha256=sha, extra=extra)
    quick = folder / "runs" / "quickstart"
    for name in ("sources", "instructions", "early", "mixed"):
        (quick / name).mkdir()
    for lang in ("zh", "en"):
        for kind in ("facts", "books"):
            shutil.copy(folder / f"{lang}.jsonl", quick / "sources" / f"{lang}_{kind}.jsonl")
    for name in ("instructions", "early", "mixed"):
        shutil.copy(folder / "sft.jsonl", quick / name / "sft.jsonl")


def _born(model: nn.Module) -> dict:
    """Random weights of the model's shapes, drawn without compiling anything."""
    shapes, rng = jax.eval_shape(lambda key: nn.unbox(init(model, key)), jax.random.key(0)), np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes)


def _comparison(number: int) -> dict:
    """A prompt whose better answer is always the same word, which a tiny reward model learns in a few steps."""
    answers = [{"id": "good", "text": "right"}, {"id": "bad", "text": "wrong wrong"}]
    messages = [{"role": "user", "content": f"Is {number} a number?"}]
    return {"prompt_id": f"p{number}", "messages": messages, "lang": "en", "task": "say", "responses": answers} | {
        "ranking": [["good"], ["bad"]]
    }


def _head(path: Path, count: int) -> str:
    return "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:count])


def _write(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
