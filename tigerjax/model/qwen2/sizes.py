"""The sizes of a Qwen2."""

import dataclasses

from tigerjax.config import Extras, ModelConfig
from tigerjax.config.ranges import Count


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Qwen2Config(ModelConfig):
    """The sizes of a Qwen2."""

    sliding_window: Count | None = None
    """How far back a token sees, in tokens, itself included. None: all before it."""

    @property
    def extras(self) -> Extras:
        """Biases of queries, keys and values; the window of all layers, which few models have."""
        return Extras(qkv_bias=True, window=self.sliding_window)
