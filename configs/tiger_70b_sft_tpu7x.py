"""configs/tiger_70b_sft.py on TPU7x (Ironwood): the same run, cut for chips of two devices each.

Model    69,450,604,544 parameters, vocabulary 60,515 padded to 60,928
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_sft stands in
Hardware 64 tpu7x chips (tpu7x:4x4x4), 128 devices
Result   not yet run
Command  tigerjax train configs/tiger_70b_sft_tpu7x.py

Plan     74.1 of 101.7 GB per chip; a step of 524,288 tokens in 2.32 s
         (static 2.07, attention 0.17, not hidden 0.08 of 0.76 s of traffic);
         MFU at most 65.6%, at most 3,523 tokens/s/chip
         tigerjax plan configs/tiger_70b_sft_tpu7x.py --topology tpu7x:4x4x4

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: learning rate,
schedule, betas, decay, clipping, batch, row length, steps, mesh, remat, kernel blocks and how often to save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, tiger_70b, wide


def config() -> RunConfig:
    return RunConfig(
        name="tiger_70b_sft_tpu7x",
        model=tiger_70b(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_dots",
            dtype="bfloat16",
            loss_chunk_tokens=65536,
            splash=wide(),
        ),
        mesh=MeshConfig(fsdp=128),
        optim=adamw(peak_lr=1e-5, warmup_steps=100, total_steps=10_000, weight_decay=0.0),
        data=DataConfig(
            mixture="quickstart_sft",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/tiger/tokenizer",
            cache_dir="runs/tiger/cache",
            seq_len=4096,
        ),
        checkpoint=CheckpointConfig(every_steps=500, keep=3, init_from="runs/tiger_70b_pretrain"),
        global_batch_size=128,
        seed=0,
        log_every_steps=10,
    )
