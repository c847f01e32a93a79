"""One rejection-sampling round: the SFT set with the winners mixed in, from the SFT checkpoint.

Model    configs/quickstart_base.py with the extended vocabulary: 2,303 entries padded to 2,304
Data     quickstart_rejection_sampled
Hardware any CPU
Result   see runs/quickstart/report.html; every size and rate here is our choice
Command  tigerjax train configs/quickstart_rejection_sampled.py --out runs/quickstart/rejection_sampled
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
        name="quickstart_rejection_sampled",
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
            peak_lr=3e-4,
            final_lr_fraction=0.1,
            warmup_steps=5,
            total_steps=60,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        data=DataConfig(
            mixture="quickstart_rejection_sampled",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=64,
        ),
        checkpoint=CheckpointConfig(every_steps=200, keep=2, init_from="runs/quickstart/sft"),
        batch_rows=16,
        seed=0,
        log_every_steps=10,
    )
