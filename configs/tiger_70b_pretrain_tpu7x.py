"""configs/tiger_70b_pretrain.py on TPU7x (Ironwood): the same run, cut for chips of two devices each.

Model    69,450,604,544 parameters, vocabulary 60,515 padded to 60,928
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_holistic stands in
Hardware 64 tpu7x chips (tpu7x:4x4x4), 128 devices
Result   not yet run
Command  tigerjax train configs/tiger_70b_pretrain_tpu7x.py --checkpoint.init-from CHECKPOINT

Plan     76.3 of 101.7 GB per chip; a step of 4,194,304 tokens in 18.54 s
         (static 16.48, attention 1.39, not hidden 0.66 of 6.11 s of traffic);
         MFU at most 65.8%, at most 3,534 tokens/s/chip;
         3e+11 tokens in 15.4 days
         tigerjax plan configs/tiger_70b_pretrain_tpu7x.py --topology tpu7x:4x4x4 --tokens 300e9

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: learning rate,
schedule, betas, decay, clipping, batch (4.2M tokens; TigerBot's 1,920 rows of 2,048 are 3.9M), steps (300B tokens),
mesh, remat, kernel blocks and how often to save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, tiger_70b, wide


def config() -> RunConfig:
    return RunConfig(
        name="tiger_70b_pretrain_tpu7x",
        model=tiger_70b(),
        compute=ComputeConfig(
            attention="splash", remat="save_dots", dtype="bfloat16", loss_chunk_tokens=131072, splash=wide()
        ),
        mesh=MeshConfig(fsdp=128),
        optim=adamw(
            peak_lr=1.5e-4, warmup_steps=1000, total_steps=71_500, weight_decay=0.1, gradient_accumulation_steps=8
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
