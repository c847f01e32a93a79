"""The config dataclasses of a run: frozen, keyword-only, validated when built, dumped one line a value.

A config file under `configs/` is Python with one function, `config() -> RunConfig`. The command line overrides fields
by dotted name (`--optim.peak-lr 3e-4`); whatever comes out is validated again here. A number that lives here has no
default in the function that uses it. Rounds of rejection sampling have theirs in `tigerjax/align/config.py`.
"""

from tigerjax.config.files import dump, load
from tigerjax.config.model import (
    FLOAT32,
    Attention,
    ComputeConfig,
    Dtype,
    ModelConfig,
    Remat,
    SplashConfig,
)
from tigerjax.config.run import (
    CheckpointConfig,
    DataConfig,
    HealthConfig,
    MeshConfig,
    OptimConfig,
    PipelineConfig,
    RunConfig,
)

__all__ = [
    "FLOAT32",
    "Attention",
    "CheckpointConfig",
    "ComputeConfig",
    "DataConfig",
    "Dtype",
    "HealthConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "PipelineConfig",
    "Remat",
    "RunConfig",
    "SplashConfig",
    "dump",
    "load",
]
