"""configs/tiger_70b_long.py on TPU7x (Ironwood): the same run, where the two devices of a chip share a row.

Model    69,450,604,544 parameters, vocabulary 60,515 padded to 60,928
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_holistic stands in
Hardware 64 tpu7x chips (tpu7x:4x4x4), 128 devices
Result   not yet run
Command  tigerjax train configs/tiger_70b_long_tpu7x.py --checkpoint.init-from CHECKPOINT

Plan     90.3 of 101.7 GB per chip; a step of 4,194,304 tokens in 26.21 s
         (static 17.23, attention 8.79, not hidden 0.19 of 1.59 s of traffic);
         MFU at most 58.8%, at most 2,501 tokens/s/chip;
         2e+10 tokens in 1.45 days
         tigerjax plan configs/tiger_70b_long_tpu7x.py --topology tpu7x:4x4x4 --tokens 20e9

Each row is cut over the chips of mesh.sequence (docs/TPU.md, "Long rows"). Sizes and vocabulary are those of TigerBot's
published configs, the rope is YaRN's for 32,768 tokens. Everything else is our choice: learning rate, schedule,
betas, decay, clipping, batch (4.2M tokens, 128 rows), steps (20B tokens), mesh, remat, kernel blocks and how often to
save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, tiger_70b_long, wide


def config() -> RunConfig:
    return RunConfig(
        name="tiger_70b_long_tpu7x",
        model=tiger_70b_long(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_qkv",
            dtype="bfloat16",
            loss_chunk_tokens=262144,
            splash=wide(block_q=2048),
        ),
        mesh=MeshConfig(fsdp=64, sequence=2),
        optim=adamw(peak_lr=2e-5, warmup_steps=100, total_steps=4_800, weight_decay=0.1, gradient_accumulation_steps=2),
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
