"""Holistic continued pretraining of a Llama-2-13B with TigerBot's vocabulary, rows of 4,096 tokens.

Model    13,312,087,040 parameters, vocabulary 60,515 padded to 60,928
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_holistic stands in
Hardware 64 v5p chips (v5p:4x4x4)
Result   not yet run
Command  tigerjax train configs/tiger_13b_pretrain.py --checkpoint.init-from CHECKPOINT

Plan     85.9 of 102.8 GB per chip; a step of 4,194,304 tokens in 14.57 s
         (static 12.99, attention 1.56, not hidden 0.02 of 0.58 s of traffic);
         MFU at most 81.4%, at most 4,499 tokens/s/chip;
         3e+11 tokens in 12.1 days
         tigerjax plan configs/tiger_13b_pretrain.py --topology v5p:4x4x4 --tokens 300e9

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: learning rate,
schedule, betas, decay, clipping, batch (4.2M tokens; TigerBot's 1,920 rows of 2,048 are 3.9M), steps (300B tokens),
mesh, remat, kernel blocks and how often to save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, square, tiger_13b


def config() -> RunConfig:
    return RunConfig(
        name="tiger_13b_pretrain",
        model=tiger_13b(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_dots",
            dtype="bfloat16",
            loss_chunk_tokens=65536,
            splash=square(1024, fused=False, multiplied=512),
        ),
        mesh=MeshConfig(fsdp=64),
        optim=adamw(
            peak_lr=3e-4, warmup_steps=1000, total_steps=71_500, weight_decay=0.1, gradient_accumulation_steps=4
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
