"""The config that real_model.py gives to every training of SmolLM2-135M-Instruct. Every size and rate is our choice."""

import dataclasses
from typing import Any

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, ModelConfig, RunConfig
from tigerjax.model.llama.presets import adamw

ROW, ROWS, STEPS, PEAK_LR = 128, 8, 10, 5e-5
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024)


def config(tokenizer: str, cache: str, **optim: Any) -> RunConfig:
    """Rows of 128 tokens, 8 a step; `optim` replaces fields of OptimConfig."""
    rates = adamw(peak_lr=PEAK_LR, warmup_steps=2, total_steps=STEPS, weight_decay=0.0)
    return RunConfig(
        name="real_model",
        model=ModelConfig(
            num_layers=30,
            model_dim=576,
            mlp_dim=1536,
            num_heads=9,
            num_kv_heads=3,
            head_dim=64,
            vocab_size=49152,
            padded_vocab_size=49152,
            rope_base=100_000.0,
            norm_eps=1e-5,
            tied=True,
        ),
        compute=COMPUTE,
        mesh=MeshConfig(),
        optim=dataclasses.replace(rates, **optim),
        data=DataConfig(mixture="real_model", modules=(), tokenizer=tokenizer, cache_dir=cache, seq_len=ROW),
        checkpoint=CheckpointConfig(every_steps=1000, keep=1),
        global_batch_size=ROWS,
        seed=0,
        log_every_steps=4,
    )
