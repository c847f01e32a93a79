"""Continued pretraining of Llama-2-13B at 2,048 tokens a row.

Model    Llama-2-13B: 13,015,864,320 weights, vocabulary 32,000
Data     quickstart_holistic stands in; name your own with --data.mixture, --data.modules and --data.tokenizer
Hardware a mesh of 64 devices
Result   not yet run
Command  tigerjax train configs/llama2_13b.py --checkpoint.init-from CHECKPOINT

Sizes are those of the published Llama-2 config. Everything else is our choice: learning rate, schedule, betas, decay,
clipping, batch, steps, mesh, remat and how often to save.
"""

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)


def config() -> RunConfig:
    return RunConfig(
        name="llama2_13b",
        model=ModelConfig(
            num_layers=40,
            model_dim=5120,
            mlp_dim=13824,
            num_heads=40,
            num_kv_heads=40,
            head_dim=128,
            vocab_size=32_000,
            padded_vocab_size=32_000,
            rope_base=10_000.0,
            norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="full", dtype="bfloat16", loss_chunk_tokens=8192),
        mesh=MeshConfig(fsdp=64, tensor=1),
        optim=OptimConfig(
            peak_lr=3e-4,
            final_lr_fraction=0.1,
            warmup_steps=1000,
            total_steps=76_000,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
            accumulate=15,
        ),
        data=DataConfig(
            mixture="quickstart_holistic",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/llama2/tokenizer",
            cache_dir="runs/llama2/cache",
            seq_len=2048,
        ),
        checkpoint=CheckpointConfig(every_steps=500, keep=3),
        batch_rows=1920,
        seed=0,
        log_every_steps=10,
    )
