"""The quick start's stand-in for Llama-2: a small English model.

Model    1,049,728 parameters, vocabulary 1,000 padded to 1,024
Data     quickstart_base: English text of data_mixtures/embedded
Hardware any CPU
Result   see runs/quickstart/report.html; every size and rate here is our choice
Command  tigerjax train configs/quickstart_base.py --out runs/quickstart/base
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, quickstart_base


def config() -> RunConfig:
    return RunConfig(
        name="quickstart_base",
        model=quickstart_base(),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=adamw(peak_lr=2e-3, warmup_steps=40, total_steps=600, weight_decay=0.1),
        data=DataConfig(
            mixture="quickstart_base",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/quickstart/base_tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=64,
        ),
        checkpoint=CheckpointConfig(every_steps=1000, keep=2),
        global_batch_size=8,
        seed=0,
        log_every_steps=50,
    )
