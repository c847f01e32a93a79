"""Continued pretraining of the 13B that configs/tiger_13b_pretrain.py trains, on rows of 131,072 tokens.

Model    13,312,087,040 parameters, vocabulary 60,515 padded to 60,928
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_holistic stands in
Hardware 64 v5p chips (v5p:4x4x4)
Result   not yet run
Command  tigerjax train configs/tiger_13b_long.py --checkpoint.init-from CHECKPOINT

Plan     53.7 of 102.8 GB per chip; a step of 4,194,304 tokens in 54.58 s
         (static 21.85, attention 31.60, not hidden 1.12 of 7.90 s of traffic);
         MFU at most 62.5%, at most 1,201 tokens/s/chip;
         2e+10 tokens in 3.01 days
         tigerjax plan configs/tiger_13b_long.py --topology v5p:4x4x4 --tokens 20e9

Each row is cut over the chips of mesh.sequence (docs/TPU.md, "Long rows"). Sizes and vocabulary are those of TigerBot's
published configs, the rope is YaRN's for 131,072 tokens. Everything else is our choice: learning rate, schedule,
betas, decay, clipping, batch (4.2M tokens, 32 rows), steps (20B tokens), mesh, remat, kernel blocks and how often to
save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig, SplashConfig
from tigerjax.model.llama.presets import adamw, tiger_13b_long


def config() -> RunConfig:
    return RunConfig(
        name="tiger_13b_long",
        model=tiger_13b_long(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_dots",
            dtype="bfloat16",
            loss_chunk_tokens=65536,
            splash=SplashConfig(fused_backward=True, block_kv_dkv=4096),
        ),
        mesh=MeshConfig(fsdp=4, sequence=16),
        optim=adamw(peak_lr=2e-5, warmup_steps=100, total_steps=4_800, weight_decay=0.1, gradient_accumulation_steps=8),
        data=DataConfig(
            mixture="quickstart_holistic",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/tiger/tokenizer",
            cache_dir="runs/tiger/cache",
            seq_len=131_072,
        ),
        checkpoint=CheckpointConfig(every_steps=500, keep=3),
        global_batch_size=32,
        seed=0,
        log_every_steps=10,
    )
