"""Settings of `compute` that exclude others of a run."""

from typing import Any

from tigerjax.config.model import ComputeConfig, ModelConfig
from tigerjax.config.weights import WeightsConfig
from tigerjax.errors import ConfigError


def refuse_excluded(compute: ComputeConfig, model: ModelConfig, mesh: Any, weights: WeightsConfig) -> None:
    """ConfigError for settings that do not go together, and for one that would mean nothing. `mesh` is a MeshConfig."""
    if compute.quantise != "none" and (held := weights.frozen_dtype) in ("int8", "int4"):
        raise ConfigError(
            f"compute.quantise={compute.quantise} rounds matrices that weights.frozen_dtype={held} has rounded before;"
            " set weights.frozen_dtype=bfloat16, or compute.quantise=none"
        )
    if compute.reduce == "ring":
        _of_ring(compute, mesh, weights)
    if compute.splash.kernel == "wide":
        _of_wide(compute, model)


def _of_ring(compute: ComputeConfig, mesh: Any, weights: WeightsConfig) -> None:
    for axis in ("stage", "sequence", "tensor"):
        if (degree := getattr(mesh, axis)) > 1:
            raise ConfigError(
                f"compute.reduce=ring needs weights that mesh.fsdp alone splits, and mesh.{axis}={degree}; set"
                f" mesh.{axis}=1, or compute.reduce=auto"
            )
    others: dict[str, tuple[str, str]] = {"compute.quantise": ("none", compute.quantise)}
    if (held := weights.frozen_dtype) in ("int8", "int4"):
        others["weights.frozen_dtype"] = ("bfloat16", held)
    for field, (wanted, given) in others.items():
        if given != wanted:
            raise ConfigError(
                f"compute.reduce=ring multiplies with matrices in the compute dtype, and {field}={given} rounds"
                f" them; set {field}={wanted}, or compute.reduce=auto"
            )
    if compute.remat == "none":
        raise ConfigError(
            "compute.reduce=ring with compute.remat=none would keep the gathered weights of all layers on each"
            " device; choose another remat policy, such as save_dots, or compute.reduce=auto"
        )


def _of_wide(compute: ComputeConfig, model: ModelConfig) -> None:
    if compute.attention != "splash":
        raise ConfigError(
            f"compute.splash.kernel=wide means nothing with compute.attention={compute.attention}; set"
            " compute.attention=splash, or compute.splash.kernel=jax"
        )
    if model.head_dim % 128:
        raise ConfigError(
            f"compute.splash.kernel=wide needs heads of a multiple of 128 features, and model.head_dim="
            f"{model.head_dim}; set compute.splash.kernel=jax"
        )
