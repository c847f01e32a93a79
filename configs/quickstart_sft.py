"""Supervised fine-tuning of the holistic base: packed dialogues, loss on the answers only.

Model    1,377,408 parameters: configs/quickstart_base.py with the extended vocabulary, 2,303 padded to 2,304
Data     quickstart_sft
Hardware any CPU
Result   see runs/quickstart/report.html; every size and rate here is our choice
Command  tigerjax train configs/quickstart_sft.py --out runs/quickstart/sft
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, quickstart_extended


def config() -> RunConfig:
    return RunConfig(
        name="quickstart_sft",
        model=quickstart_extended(),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=adamw(peak_lr=3e-4, warmup_steps=10, total_steps=150, weight_decay=0.1),
        data=DataConfig(
            mixture="quickstart_sft",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=64,
        ),
        checkpoint=CheckpointConfig(every_steps=200, keep=2, init_from="runs/quickstart/holistic"),
        global_batch_size=16,
        seed=0,
        log_every_steps=10,
    )
