"""DPO of the 7B that configs/tiger_7b_sft.py trains. A row of 4,096 tokens has room for one pair of the longest chats.

Model    6,975,393,792 parameters, vocabulary 60,515 padded to 60,928
Data     preference files, such as those that rounds write: name your own with --objective.preferences
Hardware 64 v5p chips (v5p:4x4x4)
Result   not yet run
Command  tigerjax train configs/tiger_7b_dpo.py --objective.preferences FILE

Plan     16.0 of 102.8 GB per chip; a step of 262,144 tokens in 0.54 s
         (static 0.48, attention 0.06, not hidden 0.01 of 0.07 s of traffic);
         MFU at most 68.9%, at most 7,540 tokens/s/chip
         tigerjax plan configs/tiger_7b_dpo.py --topology v5p:4x4x4

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: loss, beta, learning
rate, schedule, betas, decay, clipping, batch, row length, steps, mesh, remat, kernel blocks and how often to save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, DpoConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, square, tiger_7b


def config() -> RunConfig:
    return RunConfig(
        name="tiger_7b_dpo",
        model=tiger_7b(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_dots",
            dtype="bfloat16",
            loss_chunk_tokens=65536,
            splash=square(1024, fused=False, multiplied=512),
        ),
        mesh=MeshConfig(fsdp=64),
        optim=adamw(peak_lr=5e-7, warmup_steps=100, total_steps=1000, weight_decay=0.0),
        data=DataConfig(
            mixture="preferences",
            modules=(),
            tokenizer="runs/tiger/tokenizer",
            cache_dir="runs/tiger/cache",
            seq_len=2048,
        ),
        checkpoint=CheckpointConfig(every_steps=200, keep=3, init_from="runs/tiger_7b_sft"),
        global_batch_size=64,
        seed=0,
        log_every_steps=10,
        objective=DpoConfig(preferences=("preferences.jsonl",), beta=0.1),
    )
