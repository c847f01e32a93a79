"""configs/tiger_70b_reward.py on TPU7x (Ironwood), two devices each; global_batch_size counts prompts.

Model    68,951,490,560 parameters, vocabulary 60,515 padded to 60,928
Data     preference files, given with --preferences
Hardware 32 tpu7x chips (tpu7x:4x4x2), 64 devices
Result   not yet run
Command  tigerjax reward train configs/tiger_70b_reward_tpu7x.py --preferences FILE --calibration-set FILE

Plan     57.1 of 101.7 GB per chip; a step of 524,288 tokens in 5.38 s
         (static 4.80, attention 0.22, not hidden 0.37 of 2.51 s of traffic);
         MFU at most 55.3%, at most 3,045 tokens/s/chip
         tigerjax plan configs/tiger_70b_reward_tpu7x.py --topology tpu7x:4x4x2 --answers 4

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: everything about the
head and its training, mesh, remat and kernel blocks.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, tiger_70b, wide


def config() -> RunConfig:
    return RunConfig(
        name="tiger_70b_reward_tpu7x",
        model=tiger_70b(),
        compute=ComputeConfig(
            attention="splash", remat="save_qkv", dtype="bfloat16", loss_chunk_tokens=65536, splash=wide()
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
