"""The reward model: pairs from ranked answers, starting from the SFT model; global_batch_size counts prompts.

Model    1,377,408 parameters: configs/quickstart_base.py with the extended vocabulary, 2,303 padded to 2,304
Data     rankings of answers of the SFT model, OUT/own_answers/preferences.jsonl
Hardware any CPU
Result   see runs/quickstart/report.html; every size and rate here is our choice
Command  tigerjax quickstart (stage reward)
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, quickstart_extended


def config() -> RunConfig:
    return RunConfig(
        name="quickstart_reward",
        model=quickstart_extended(),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=adamw(peak_lr=5e-4, warmup_steps=10, total_steps=200, weight_decay=0.1),
        data=DataConfig(
            mixture="preferences",
            modules=(),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=96,
        ),
        checkpoint=CheckpointConfig(every_steps=200, keep=2, init_from="runs/quickstart/sft"),
        global_batch_size=8,
        seed=0,
        log_every_steps=20,
    )
