"""A Llama of the shape of the big presets, small enough to train on one CPU in a minute.

Model    387,392 weights, vocabulary 2,303 padded to 2,304
Data     quickstart_holistic; `tigerjax quickstart` writes its tokenizer and rows
Hardware any CPU
Result   not yet run
Command  tigerjax train configs/llama2_tiny.py

Every number here is our choice.
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
        name="llama2_tiny",
        model=ModelConfig(
            num_layers=2,
            model_dim=64,
            mlp_dim=176,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            vocab_size=2303,
            padded_vocab_size=2304,
            rope_base=10_000.0,
            norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=3e-3,
            final_lr_fraction=0.1,
            warmup_steps=10,
            total_steps=100,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        data=DataConfig(
            mixture="quickstart_holistic",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=128,
        ),
        checkpoint=CheckpointConfig(every_steps=50, keep=2),
        batch_rows=16,
        seed=0,
        log_every_steps=10,
    )
