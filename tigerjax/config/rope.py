"""How rotary angles are changed so that a model reads longer rows than it was first trained on."""

import dataclasses
from typing import Annotated, Literal

from tigerjax.config.ranges import Count, PositiveFactor, Range, check
from tigerjax.errors import ConfigError

RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3"]
RopeFactor = Annotated[float, Range(1, 1e6)]

USES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": (
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate",
    ),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}  # fmt: skip
"""The fields of RopeConfig that each kind reads."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """How rotary angles are scaled. Kinds and fields have the names of Hugging Face's `rope_scaling`."""

    kind: RopeKind = "default"
    """Which angles are scaled: default none, linear all, yarn and llama3 the slow ones. dynamic raises the base with
    the length of the row, once that is past the original."""
    factor: RopeFactor = 1.0
    """How many times longer the rows may be than the original. Not read by kind default."""
    original_max_position_embeddings: Count | None = None
    """Tokens of the rows that the model was first trained on, which dynamic, yarn and llama3 need. None: not known."""
    attention_factor: PositiveFactor | None = None
    """Of yarn: sine and cosine are multiplied by it. None: 0.1 x ln(factor) + 1."""
    beta_fast: PositiveFactor = 32.0  # Of yarn: pairs that turn more often in the original length are not scaled
    beta_slow: PositiveFactor = 1.0
    """Of yarn: pairs that turn less often in the original length are divided by the whole factor."""
    truncate: bool = True  # Of yarn: the two limits between pairs are rounded outwards to whole pairs
    low_freq_factor: PositiveFactor = 1.0
    """Of llama3: pairs that turn less often in the original length are divided by the whole factor."""
    high_freq_factor: PositiveFactor = 4.0
    """Of llama3: pairs that turn more often in the original length are not scaled."""

    def __post_init__(self) -> None:
        check(self, "model.rope.")
        used = USES[self.kind]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if field.name not in used and value != field.default:
                readers = [kind for kind, names in USES.items() if field.name in names]
                raise ConfigError(
                    f"model.rope.{field.name}={value!r} is not read by kind {self.kind}, only by {', '.join(readers)};"
                    " leave it out, or set model.rope.kind"
                )
        if "original_max_position_embeddings" in used and self.original_max_position_embeddings is None:
            raise ConfigError(
                f"model.rope.kind={self.kind!r} needs model.rope.original_max_position_embeddings; set it to the length"
                " that the model was first trained at"
            )
        for less, more, least in (("beta_slow", "beta_fast", 0.0), ("low_freq_factor", "high_freq_factor", 1e-9)):
            low, high = getattr(self, less), getattr(self, more)
            if less in used and high - low < least:
                raise ConfigError(f"model.rope.{more}={high!r} must be more than {less}={low!r}; change one")
