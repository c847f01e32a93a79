"""The settings of a run, as frozen dataclasses that refuse values which cannot work.

A config file under `configs/` is Python with one function, `config() -> RunConfig`. The command line overrides fields
by name (`--optim.peak-lr 3e-4`), and the result is validated again. A function that uses a number of a config has no
default for it: otherwise a run could silently use the default. The comment behind a field, or the string below it, is
its text in `--help`. Settings of rejection sampling are in `tigerjax/align/config.py`.
"""

from tigerjax.config.files import DUMPED, dump, load, part_of_dump
from tigerjax.config.model import (
    FLOAT32,
    NOT_DECISIVE,
    Attention,
    ComputeConfig,
    Dtype,
    Extras,
    ModelConfig,
    Quantise,
    Reduce,
    Remat,
    SplashConfig,
    decisive,
    other_sizes,
    stored_fields,
)
from tigerjax.config.objective import (
    DpoConfig,
    IpoConfig,
    KtoConfig,
    ObjectiveConfig,
    OrpoConfig,
    PreferenceConfig,
    ReferencedConfig,
    SimpoConfig,
)
from tigerjax.config.optim import OptimConfig, ScheduleConfig
from tigerjax.config.reinforcement import GrpoConfig, PpoConfig, RlConfig
from tigerjax.config.rope import RopeConfig
from tigerjax.config.run import (
    CheckpointConfig,
    DataConfig,
    HealthConfig,
    MeshConfig,
    PipelineConfig,
    RunConfig,
)
from tigerjax.config.validation import EvalConfig
from tigerjax.config.weights import FrozenDtype, LoraConfig, WeightsConfig

__all__ = [
    "DUMPED",
    "FLOAT32",
    "NOT_DECISIVE",
    "Attention",
    "CheckpointConfig",
    "ComputeConfig",
    "DataConfig",
    "DpoConfig",
    "Dtype",
    "EvalConfig",
    "Extras",
    "FrozenDtype",
    "GrpoConfig",
    "HealthConfig",
    "IpoConfig",
    "KtoConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "OrpoConfig",
    "PipelineConfig",
    "PpoConfig",
    "PreferenceConfig",
    "Quantise",
    "Reduce",
    "ReferencedConfig",
    "Remat",
    "RlConfig",
    "RopeConfig",
    "RunConfig",
    "ScheduleConfig",
    "SimpoConfig",
    "SplashConfig",
    "WeightsConfig",
    "decisive",
    "dump",
    "load",
    "other_sizes",
    "part_of_dump",
    "stored_fields",
]
