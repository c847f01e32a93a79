"""A tiny world for reward tests: a tokenizer of single characters, a tiny model, and runs of a few seconds."""

import hashlib
import json

from face import Face

from tigerjax.align.config import RewardConfig
from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)

ALPHABET = "abcdefghijklmnopqrstuvwxyz "


class Letters(Face):
    """The interface of tokenizer.load.Tokenizer for lower-case letters: one id a character."""

    bos, eos = 1, 2
    ins, res, pad = 30, 31, 32
    size = 33
    folder = "letters"
    sha256 = hashlib.sha256(b"letters").hexdigest()

    def encode(self, text):
        return [3 + ALPHABET.index(c) for c in text]


MODEL = ModelConfig(
    num_layers=2,
    model_dim=24,
    mlp_dim=40,
    num_heads=3,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=33,
    padded_vocab_size=36,
    rope_base=777.0,
    norm_eps=1e-5,
)
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=64)
USER = [{"role": "user", "content": "hi"}]
REWARD = RewardConfig(eval_fraction=0.25, centering=0.0, truncation_penalty=1.0, score_batch_size=8)


def run_config(steps, batch_rows=16, seq_len=24, every=1000):
    return RunConfig(
        name="reward",
        model=MODEL,
        compute=COMPUTE,
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=5e-3,
            final_lr_fraction=0.1,
            warmup_steps=2,
            total_steps=steps,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=1.0,
        ),
        data=DataConfig(mixture="none", modules=(), tokenizer="none", cache_dir="none", seq_len=seq_len),
        checkpoint=CheckpointConfig(every_steps=every, keep=2),
        global_batch_size=batch_rows,
        seed=0,
        log_every_steps=10,
    )


def write(tmp_path, records):
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return [file]


def ranked(prompt, texts, ranking, **more):
    responses = [{"id": f"r{i}", "text": t} for i, t in enumerate(texts)]
    messages = [{"role": "user", "content": prompt}]
    return {"prompt_id": prompt, "messages": messages, "responses": responses, "ranking": ranking} | more
