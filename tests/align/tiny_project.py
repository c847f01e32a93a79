"""An alignment whose models are real and untrained: what `tigerjax align` needs, built in seconds."""

import json
from pathlib import Path

import flax.linen as nn
import jax

from tigerjax.checkpoint.model import save_model
from tigerjax.command.cli import main
from tigerjax.config import ComputeConfig, ModelConfig, stored_fields
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.model.reward import RewardModel
from tigerjax.tokenizer.extend import extend
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.train import train_model

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "data_mixtures" / "embedded"
SIZE = 643
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=64)
MODEL = ModelConfig(
    num_layers=1,
    model_dim=24,
    mlp_dim=40,
    num_heads=3,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=SIZE,
    padded_vocab_size=648,
    rope_base=777.0,
    norm_eps=1e-5,
)


def materials(folder: Path) -> None:
    """tokenizer/, chat/, reward/, sft.jsonl (50 examples) and questions.jsonl below `folder`."""
    train_model([EMBEDDED / "corpus_en.jsonl"], 600, folder / "base")
    train_model([EMBEDDED / "corpus_zh.jsonl"], 3300, folder / "zh")
    extend(folder / "base", folder / "zh", SIZE, folder / "tokenizer")
    sha = Tokenizer(folder / "tokenizer").sha256

    def born(model: nn.Module, seed: int) -> dict:
        return jax.jit(lambda key: nn.unbox(init(model, key)))(jax.random.key(seed))

    save_model(folder / "chat", born(decoder.LanguageModel(MODEL, COMPUTE), 0), MODEL, tokenizer_sha256=sha)
    extra = {"calibration": {"mean": 0.0, "std": 1.0, "n": 9}, "truncation_penalty": 1.0}
    scorer = born(RewardModel(MODEL, COMPUTE), 1)
    save_model(folder / "reward", scorer, MODEL, kind="reward", tokenizer_sha256=sha, extra=extra)
    asked = [{"role": "user", "content": "Say 你好"}, {"role": "assistant", "content": "你好"}]
    lines = [
        {"id": f"e{i}", "messages": [{**asked[0], "content": f"Say 你好 {i} times"}, asked[1]], "task": "say"}
        | {"lang": "en", "source": "s"}
        for i in range(50)
    ]
    (folder / "sft.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    question = {"id": "q", "lang": "en", "task": "say", "prompt": "Say no", "answers": ["no"]}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")


def build(folder: Path) -> Path:
    """The folder of an alignment after `align queue`: 5 prompts of 50, 2 to rank, one of them to edit too."""
    materials(folder)
    words = ["init", ROOT / "configs" / "quickstart_rejection_sampled.py", "--out", folder / "align"]
    words += ["--sft", folder / "sft.jsonl", "--models", folder / "chat", "--reward", folder / "reward"]
    words += [
        "--evaluation-set",
        folder / "questions.jsonl",
        "--n",
        4,
        "--max-new-tokens",
        8,
        "--align.rank-fraction",
        0.4,
    ]
    words += [*config_words(folder, 4, 8), "--align.edit-fraction", 0.2]
    align(*words)
    for step in ("prompts", "sample", "score", "queue"):
        align(step, folder / "align")
    return folder / "align"


def config_words(root: object, steps: int, rows: int) -> list[object]:
    """The quick start's config with the sizes of the tiny models; `root` has the materials."""
    sizes = {f"--model.{name.replace('_', '-')}": value for name, value in stored_fields(MODEL).items()}
    words = [word for pair in sizes.items() for word in pair]
    words += ["--data.tokenizer", f"{root}/tokenizer", "--data.seq-len", 64, "--global-batch-size", rows]
    return [*words, "--optim.total-steps", steps, "--optim.warmup-steps", 1, "--log-every-steps", 1]


def align(*words: object, code: int = 0) -> None:
    """`tigerjax align WORDS`, which must end with `code`."""
    assert main(["align", *map(str, words)]) == code, words
