"""GRPO on the prompts of the SFT set, scored by the quick start's reward model. It starts from the SFT model.

Model    1,377,408 parameters: configs/quickstart_base.py with the extended vocabulary, 2,303 padded to 2,304
Data     the prompts of runs/quickstart/instructions/sft.jsonl
Hardware any CPU
Result   not yet run; every size and rate here is our choice
Command  tigerjax rl configs/quickstart_grpo.py
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, GrpoConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, quickstart_extended


def config() -> RunConfig:
    return RunConfig(
        name="quickstart_grpo",
        model=quickstart_extended(),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=adamw(peak_lr=5e-5, warmup_steps=5, total_steps=100, weight_decay=0.0),
        data=DataConfig(
            mixture="prompts",
            modules=(),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=96,
        ),
        checkpoint=CheckpointConfig(every_steps=50, keep=2, init_from="runs/quickstart/sft"),
        global_batch_size=64,
        seed=0,
        log_every_steps=5,
        objective=GrpoConfig(
            prompts=("runs/quickstart/instructions/sft.jsonl",),
            rewards=("runs/quickstart/reward/model",),
            prompts_per_rollout=16,
            answers=8,
            max_new_tokens=32,
            kl=0.02,
        ),
    )
