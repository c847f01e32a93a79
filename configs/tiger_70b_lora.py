"""Fine-tuning of the 70B that configs/tiger_70b_pretrain.py trains, by adapters beside its frozen weights.

Model    69,450,604,544 parameters, vocabulary 60,515 padded to 60,928; trained are 207,093,760 in adapters
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_sft stands in
Hardware 64 v5e chips (v5e:8x8)
Result   not yet run
Command  tigerjax train configs/tiger_70b_lora.py

Plan     13.3 of 16.9 GB per chip; a step of 262,144 tokens in 11.53 s
         (static 10.16, attention 0.89, not hidden 0.48 of 3.20 s of traffic);
         MFU at most 52.9%, at most 355 tokens/s/chip
         tigerjax plan configs/tiger_70b_lora.py --topology v5e:8x8

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: rank, scale, learning
rate, schedule, betas, decay, clipping, batch, row length, steps, mesh, remat, kernel blocks and how often to save.
"""

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    LoraConfig,
    MeshConfig,
    RunConfig,
    WeightsConfig,
)
from tigerjax.model.llama.presets import adamw, tiger_70b


def config() -> RunConfig:
    return RunConfig(
        name="tiger_70b_lora",
        model=tiger_70b(),
        compute=ComputeConfig(attention="splash", remat="full", dtype="bfloat16", loss_chunk_tokens=32768),
        mesh=MeshConfig(fsdp=64),
        optim=adamw(peak_lr=1e-4, warmup_steps=100, total_steps=10_000, weight_decay=0.0),
        data=DataConfig(
            mixture="quickstart_sft",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/tiger/tokenizer",
            cache_dir="runs/tiger/cache",
            seq_len=4096,
        ),
        checkpoint=CheckpointConfig(every_steps=500, keep=3, init_from="runs/tiger_70b_pretrain"),
        global_batch_size=64,
        seed=0,
        log_every_steps=10,
        weights=WeightsConfig(frozen_dtype="bfloat16"),
        lora=LoraConfig(rank=16, alpha=32.0),
    )
