"""Continued pretraining of the 70B that configs/tiger_70b_pretrain.py trains, on rows of 32,768 tokens.

Model    69,450,604,544 parameters, vocabulary 60,515 padded to 60,928
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_holistic stands in
Hardware 256 v5p chips (v5p:4x8x8)
Result   not yet run
Command  tigerjax train configs/tiger_70b_long.py --checkpoint.init-from CHECKPOINT

Plan     71.2 of 102.8 GB per chip; a step of 4,194,304 tokens in 25.27 s
         (static 17.60, attention 6.88, not hidden 0.78 of 3.71 s of traffic);
         MFU at most 76.6%, at most 648 tokens/s/chip;
         2e+10 tokens in 1.39 days
         tigerjax plan configs/tiger_70b_long.py --topology v5p:4x8x8 --tokens 20e9

Each row is cut over the chips of mesh.sequence (docs/TPU.md, "Long rows"). Sizes and vocabulary are those of TigerBot's
published configs, the rope is YaRN's for 32,768 tokens. Everything else is our choice: learning rate, schedule,
betas, decay, clipping, batch (4.2M tokens, 128 rows), steps (20B tokens), mesh, remat, kernel blocks and how often to
save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig, SplashConfig
from tigerjax.model.llama.presets import adamw, tiger_70b_long


def config() -> RunConfig:
    return RunConfig(
        name="tiger_70b_long",
        model=tiger_70b_long(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_dots",
            dtype="bfloat16",
            loss_chunk_tokens=262144,
            splash=SplashConfig(fused_backward=True, block_kv_dkv=4096),
        ),
        mesh=MeshConfig(fsdp=32, sequence=8),
        optim=adamw(peak_lr=2e-5, warmup_steps=100, total_steps=4_800, weight_decay=0.1, gradient_accumulation_steps=4),
        data=DataConfig(
            mixture="quickstart_holistic",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/tiger/tokenizer",
            cache_dir="runs/tiger/cache",
            seq_len=32_768,
        ),
        checkpoint=CheckpointConfig(every_steps=500, keep=3),
        global_batch_size=128,
        seed=0,
        log_every_steps=10,
    )
