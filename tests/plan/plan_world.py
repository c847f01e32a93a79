"""A config small enough to compile for four described chips in seconds, and a 7B-shaped one for arithmetic."""

import dataclasses

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)

MODEL = ModelConfig(
    num_layers=4,
    model_dim=256,
    mlp_dim=512,
    num_heads=2,
    num_kv_heads=2,
    head_dim=128,
    vocab_size=500,
    padded_vocab_size=512,
    rope_base=10_000.0,
    norm_eps=1e-5,
)


def config() -> RunConfig:
    """Also what `tigerjax plan tests/plan/plan_world.py` reads."""
    return RunConfig(
        name="plan_world",
        model=MODEL,
        compute=ComputeConfig(attention="reference", remat="full", dtype="bfloat16", loss_chunk_tokens=512),
        mesh=MeshConfig(fsdp=4),
        optim=OptimConfig(
            peak_lr=3e-4,
            final_lr_fraction=0.1,
            warmup_steps=10,
            total_steps=100,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        data=DataConfig(mixture="none", modules=(), tokenizer="none", cache_dir="none", seq_len=128),
        checkpoint=CheckpointConfig(every_steps=10, keep=1),
        global_batch_size=8,
        seed=0,
        log_every_steps=10,
    )


def seven_billion() -> RunConfig:
    base = config()
    model = dataclasses.replace(
        base.model,
        num_layers=32,
        model_dim=4096,
        mlp_dim=11008,
        num_heads=32,
        num_kv_heads=32,
        vocab_size=32_000,
        padded_vocab_size=32_000,
    )
    return dataclasses.replace(
        base,
        model=model,
        mesh=MeshConfig(fsdp=64),
        global_batch_size=512,
        data=dataclasses.replace(base.data, seq_len=4096),
    )
