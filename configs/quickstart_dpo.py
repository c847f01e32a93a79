"""DPO on pairs from ranked answers, starting from the SFT model. A row has room for one pair of the longest chats.

Model    1,377,408 parameters: configs/quickstart_base.py with the extended vocabulary, 2,303 padded to 2,304
Data     data_mixtures/embedded/preferences.jsonl
Hardware any CPU
Result   not yet run; every size and rate here is our choice
Command  tigerjax train configs/quickstart_dpo.py
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, DpoConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, quickstart_extended


def config() -> RunConfig:
    return RunConfig(
        name="quickstart_dpo",
        model=quickstart_extended(),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=adamw(peak_lr=1e-4, warmup_steps=10, total_steps=100, weight_decay=0.0),
        data=DataConfig(
            mixture="preferences",
            modules=(),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=96,
        ),
        checkpoint=CheckpointConfig(every_steps=100, keep=2, init_from="runs/quickstart/sft"),
        global_batch_size=8,
        seed=0,
        log_every_steps=10,
        objective=DpoConfig(preferences=("data_mixtures/embedded/preferences.jsonl",), beta=0.1),
    )
