"""The 70B reward model, started from configs/tiger_70b_sft.py; global_batch_size counts prompts.

Model    68,951,490,560 parameters, vocabulary 60,515 padded to 60,928
Data     preference files, given with --preferences
Hardware 64 v5p chips (v5p:4x4x4)
Result   not yet run
Command  tigerjax reward train configs/tiger_70b_reward.py --preferences FILE --calibration-set FILE

Plan     82.4 of 102.8 GB per chip; a step of 524,288 tokens in 9.57 s
         (static 9.27, attention 0.30, not hidden 0.00 of 0.75 s of traffic);
         MFU at most 78.1%, at most 856 tokens/s/chip
         tigerjax plan configs/tiger_70b_reward.py --topology v5p:4x4x4 --answers 4

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: everything about the
head and its training, mesh, remat and kernel blocks.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, square, tiger_70b


def config() -> RunConfig:
    return RunConfig(
        name="tiger_70b_reward",
        model=tiger_70b(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_kv_up",
            dtype="bfloat16",
            loss_chunk_tokens=65536,
            splash=square(1024, fused=True),
        ),
        mesh=MeshConfig(fsdp=64),
        optim=adamw(peak_lr=5e-6, warmup_steps=50, total_steps=1000, weight_decay=0.0),
        data=DataConfig(
            mixture="preferences",
            modules=(),
            tokenizer="runs/tiger/tokenizer",
            cache_dir="runs/tiger/cache",
            seq_len=2048,
        ),
        checkpoint=CheckpointConfig(every_steps=200, keep=3, init_from="runs/tiger_70b_sft"),
        global_batch_size=64,
        seed=0,
        log_every_steps=10,
    )
