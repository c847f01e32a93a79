"""Holistic continued pretraining of the resized base: zh:en 1:1 by tokens, 5% of the tokens instructions.

Model    1,377,408 parameters: configs/quickstart_base.py with the extended vocabulary, 2,303 padded to 2,304
Data     quickstart_holistic
Hardware any CPU
Result   see runs/quickstart/report.html; every size and rate here is our choice
Command  tigerjax train configs/quickstart_holistic.py --out runs/quickstart/holistic
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, quickstart_extended


def config() -> RunConfig:
    return RunConfig(
        name="quickstart_holistic",
        model=quickstart_extended(),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=adamw(peak_lr=2e-3, warmup_steps=100, total_steps=3000, weight_decay=0.1),
        data=DataConfig(
            mixture="quickstart_holistic",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=64,
        ),
        checkpoint=CheckpointConfig(every_steps=1000, keep=2, init_from="runs/quickstart/base_resized"),
        global_batch_size=8,
        seed=0,
        log_every_steps=100,
    )
