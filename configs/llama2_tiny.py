"""A Llama of the shape of the big presets, small enough to train on one CPU in a minute.

Model    387,392 parameters, vocabulary 2,303 padded to 2,304
Data     quickstart_holistic; `tigerjax quickstart` writes its tokenizer and rows
Hardware any CPU
Result   not yet run
Command  tigerjax train configs/llama2_tiny.py

Every number here is our choice.
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, llama2_tiny


def config() -> RunConfig:
    return RunConfig(
        name="llama2_tiny",
        model=llama2_tiny(),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=adamw(peak_lr=3e-3, warmup_steps=10, total_steps=100, weight_decay=0.1),
        data=DataConfig(
            mixture="quickstart_holistic",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=128,
        ),
        checkpoint=CheckpointConfig(every_steps=50, keep=2),
        global_batch_size=16,
        seed=0,
        log_every_steps=10,
    )
