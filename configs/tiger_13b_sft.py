"""Fine-tuning of the 13B that configs/tiger_13b_pretrain.py trains, on packed conversations.

Model    13,312,087,040 parameters, vocabulary 60,515 padded to 60,928
Data     name your own with --data.mixture, --data.modules and --data.tokenizer; quickstart_sft stands in
Hardware 64 v5p chips (v5p:4x4x4)
Result   not yet run
Command  tigerjax train configs/tiger_13b_sft.py

Plan     44.7 of 102.8 GB per chip; a step of 524,288 tokens in 1.85 s
         (static 1.65, attention 0.19, not hidden 0.01 of 0.14 s of traffic);
         MFU at most 80.1%, at most 4,426 tokens/s/chip
         tigerjax plan configs/tiger_13b_sft.py --topology v5p:4x4x4

Sizes and vocabulary are those of TigerBot's published configs. Everything else is our choice: learning rate,
schedule, betas, decay, clipping, batch, row length, steps, mesh, remat, kernel blocks and how often to save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, square, tiger_13b


def config() -> RunConfig:
    return RunConfig(
        name="tiger_13b_sft",
        model=tiger_13b(),
        compute=ComputeConfig(
            attention="splash",
            remat="save_dots",
            dtype="bfloat16",
            loss_chunk_tokens=65536,
            splash=square(1024, fused=False, multiplied=512),
        ),
        mesh=MeshConfig(fsdp=64),
        optim=adamw(peak_lr=1e-5, warmup_steps=100, total_steps=10_000, weight_decay=0.0),
        data=DataConfig(
            mixture="quickstart_sft",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/tiger/tokenizer",
            cache_dir="runs/tiger/cache",
            seq_len=4096,
        ),
        checkpoint=CheckpointConfig(every_steps=500, keep=3, init_from="runs/tiger_13b_pretrain"),
        global_batch_size=128,
        seed=0,
        log_every_steps=10,
    )
