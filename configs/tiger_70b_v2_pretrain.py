"""Holistic continued pretraining of a Llama-2-70B with the vocabulary of TigerBot's second generation.

Model    69,519,155,200 parameters, vocabulary 65,110 padded to 65,112
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_holistic stands in
Hardware 256 v5p chips (v5p:4x8x8)
Result   not yet run
Command  tigerjax train configs/tiger_70b_v2_pretrain.py --checkpoint.init-from CHECKPOINT

Plan     71.2 of 102.8 GB per chip; a step of 4,194,304 tokens in 18.28 s
         (static 16.64, attention 1.24, not hidden 0.40 of 3.07 s of traffic);
         MFU at most 84.0%, at most 896 tokens/s/chip;
         3e+11 tokens in 15.1 days
         tigerjax plan configs/tiger_70b_v2_pretrain.py --topology v5p:4x8x8 --tokens 300e9

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: learning rate,
schedule, betas, decay, clipping, batch (4.2M tokens; TigerBot's 1,920 rows of 2,048 are 3.9M), steps (300B tokens),
mesh, remat, kernel blocks and how often to save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, square, tiger_70b_v2


def config() -> RunConfig:
    return RunConfig(
        name="tiger_70b_v2_pretrain",
        model=tiger_70b_v2(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_dots",
            dtype="bfloat16",
            loss_chunk_tokens=262144,
            splash=square(1024, fused=False, multiplied=512),
        ),
        mesh=MeshConfig(fsdp=256),
        optim=adamw(
            peak_lr=1.5e-4, warmup_steps=1000, total_steps=71_500, weight_decay=0.1, gradient_accumulation_steps=4
        ),
        data=DataConfig(
            mixture="quickstart_holistic",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/tiger/tokenizer",
            cache_dir="runs/tiger/cache",
            seq_len=4096,
        ),
        checkpoint=CheckpointConfig(every_steps=500, keep=3),
        global_batch_size=1024,
        seed=0,
        log_every_steps=10,
    )
