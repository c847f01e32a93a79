"""The control of the rejection-sampling round: as many steps from the SFT checkpoint, without the winners.

Model    1,377,408 parameters: configs/quickstart_base.py with the extended vocabulary, 2,303 padded to 2,304
Data     quickstart_sft
Hardware any CPU
Result   see runs/quickstart/report.html; every size and rate here is our choice
Command  tigerjax train configs/quickstart_control.py --out runs/quickstart/control
"""

from tigerjax.config import CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, RunConfig
from tigerjax.model.llama.presets import adamw, quickstart_extended


def config() -> RunConfig:
    return RunConfig(
        name="quickstart_control",
        model=quickstart_extended(),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=adamw(peak_lr=2e-4, warmup_steps=5, total_steps=60, weight_decay=0.1),
        data=DataConfig(
            mixture="quickstart_sft",
            modules=("data_mixtures.quickstart",),
            tokenizer="runs/quickstart/tokenizer",
            cache_dir="runs/quickstart/cache",
            seq_len=64,
        ),
        checkpoint=CheckpointConfig(every_steps=200, keep=2, init_from="runs/quickstart/sft"),
        global_batch_size=32,
        seed=0,
        log_every_steps=10,
    )
