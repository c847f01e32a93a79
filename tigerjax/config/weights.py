"""Which weights a run trains, how it holds the others, and the adapters that it may train in their place."""

import dataclasses
import math
from typing import Annotated, Literal

from tigerjax.config.ranges import PositiveFactor, Range, check
from tigerjax.errors import ConfigError

Matrix = Literal["q", "k", "v", "o", "gate", "up", "down"]
FrozenDtype = Literal["float32", "bfloat16", "int8", "int4"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WeightsConfig:
    """Which weights are trained, and how the others are held.

    A weight is named by its path in a checkpoint, such as embed, layers/attn/q or layers/mlp_norm/scale. In a pattern,
    * stands for any letters. `embed[32000:]` and `head[32000:]` mean the entries of the vocabulary from 32,000 on.
    """

    trained: tuple[str, ...] = ()
    """Patterns of the weights that are trained. Empty: all of them, or with lora.rank only the adapters; patterns that
    are given are then trained beside the adapters."""
    frozen: tuple[str, ...] = ()
    """Patterns of weights that are not trained, among those that would be."""
    frozen_dtype: FrozenDtype = "float32"
    """Type in which weights that are not trained are held. int8 and int4 are for the matrices of the layers, the others
    are bfloat16 then. docs/ADAPTERS.md says more."""

    def __post_init__(self) -> None:
        check(self, "weights.")
        for name in ("trained", "frozen"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(
                    f"weights.{name}={getattr(self, name)!r} must be a tuple of patterns, such as ('embed',)"
                )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters: only A and B of x W + scale x A B are trained (LoRA; Hu et al. 2021, arXiv 2106.09685,
    equation 3)."""

    rank: Annotated[int, Range(0, 2**12)] = 0
    """Columns of A and rows of B. 0: no adapters."""
    alpha: PositiveFactor = 16.0
    """The scale is alpha / rank."""
    rank_stabilised: bool = False
    """Whether the scale is alpha / sqrt(rank) instead (rsLoRA; Kalajdzievski 2023, arXiv 2312.03732)."""
    targets: tuple[Matrix, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    """The matrices of a layer that get adapters."""

    def __post_init__(self) -> None:
        check(self, "lora.")
        if not isinstance(self.targets, tuple | list) or len(set(self.targets)) != len(self.targets):
            raise ConfigError(f"lora.targets={self.targets!r} must name each matrix once, such as ('q', 'v')")
        if self.rank and not self.targets:
            raise ConfigError(f"lora.rank={self.rank}, but lora.targets names no matrix; name one, or set lora.rank=0")
        for field in dataclasses.fields(self) if not self.rank else ():
            if (value := getattr(self, field.name)) != field.default:
                raise ConfigError(
                    f"lora.{field.name}={value!r}, but lora.rank=0 makes no adapters; set lora.rank, or leave"
                    f" lora.{field.name} at {field.default!r}"
                )

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by: alpha / rank, Hu et al. 2021 (arXiv 2106.09685),
        section 4.1, or alpha / sqrt(rank), Kalajdzievski 2023 (arXiv 2312.03732), theorem 3.2."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def adapts(self, name: str) -> bool:
        """Whether the matrix of this name has an adapter."""
        return self.rank > 0 and name in self.targets
