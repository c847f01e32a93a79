"""The quick start's stand-in for Llama-2: a small English model.

Model    1.2 M weights, vocabulary 1,000 padded to 1,024
Data     quickstart_base: English text of data_mixtures/embedded
Hardware any CPU
Result   see runs/quickstart/report.html; every size and rate here is our choice
Command  tigerjax train configs/quickstart_base.py --out runs/quickstart/base
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
        name="quickstart_base",
        model=ModelConfig(
            num_layers=4,
            model_dim=128,
            mlp_dim=384,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            vocab_size=1000,
            padded_vocab_size=1024,
            rope_base=10_000.0,
            norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=2e-3,
            final_lr_fraction=0.1,
            warmup_steps=40,
            total_steps=600,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        data=DataConfig(
            mixture="quickstart_base",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/quickstart/base_tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=64,
        ),
        checkpoint=CheckpointConfig(every_steps=1000, keep=2),
        batch_rows=8,
        seed=0,
        log_every_steps=50,
    )
