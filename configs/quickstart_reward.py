"""The reward model: pairs from ranked answers, starting from the SFT model; batch_rows counts prompts.

Model    configs/quickstart_base.py with the extended vocabulary: 2,303 entries padded to 2,304
Data     data_mixtures/embedded/preferences.jsonl
Hardware any CPU
Result   see runs/quickstart/report.html; every size and rate here is our choice
Command  tigerjax quickstart (stage reward)
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
        name="quickstart_reward",
        model=ModelConfig(
            num_layers=4,
            model_dim=128,
            mlp_dim=384,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            vocab_size=2303,
            padded_vocab_size=2304,
            rope_base=10_000.0,
            norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=5e-4,
            final_lr_fraction=0.1,
            warmup_steps=10,
            total_steps=200,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        data=DataConfig(
            mixture="preferences",
            modules=(),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=96,
        ),
        checkpoint=CheckpointConfig(every_steps=200, keep=2, init_from="runs/quickstart/sft"),
        batch_rows=8,
        seed=0,
        log_every_steps=20,
    )
