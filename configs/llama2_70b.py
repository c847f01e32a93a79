"""Continued pretraining of Llama-2-70B at 2,048 tokens per row.

Model    Llama-2-70B: 68,976,648,192 parameters, vocabulary 32,000
Data     quickstart_holistic stands in; name your own with --data.mixture, --data.modules and --data.tokenizer
Hardware a mesh of 64 devices
Result   not yet run
Command  tigerjax train configs/llama2_70b.py --checkpoint.init-from CHECKPOINT

Sizes are those of the published Llama-2 config. Everything else is our choice: learning rate, schedule, betas, decay,
clipping, batch, steps, mesh, remat and how often to save.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, llama2_70b


def config() -> RunConfig:
    return RunConfig(
        name="llama2_70b",
        model=llama2_70b(),
        compute=ComputeConfig(attention="reference", remat="full", dtype="bfloat16", loss_chunk_tokens=8192),
        mesh=MeshConfig(fsdp=64, tensor=1),
        optim=adamw(
            peak_lr=1.5e-4, warmup_steps=1000, total_steps=76_000, weight_decay=0.1, gradient_accumulation_steps=15
        ),
        data=DataConfig(
            mixture="quickstart_holistic",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/llama2/tokenizer",
            cache_dir="runs/llama2/cache",
            seq_len=2048,
        ),
        checkpoint=CheckpointConfig(every_steps=500, keep=3),
        global_batch_size=1920,
        seed=0,
        log_every_steps=10,
    )
