"""The config that align_world.py gives to `tigerjax align init`. Every size and rate is our choice."""

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)

PIECES, ROUND_STEPS = 443, 100


def config() -> RunConfig:
    return RunConfig(
        name="align_world",
        model=ModelConfig(
            num_layers=2,
            model_dim=96,
            mlp_dim=256,
            num_heads=4,
            num_kv_heads=2,
            head_dim=24,
            vocab_size=PIECES,
            padded_vocab_size=448,
            rope_base=10_000.0,
            norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=1e-3,
            final_lr_fraction=0.1,
            warmup_steps=10,
            total_steps=ROUND_STEPS,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=1.0,
        ),
        data=DataConfig(mixture="align_world", modules=(), tokenizer="tokenizer", cache_dir="cache", seq_len=64),
        checkpoint=CheckpointConfig(every_steps=1000, keep=1),
        global_batch_size=32,
        seed=0,
        log_every_steps=20,
    )
