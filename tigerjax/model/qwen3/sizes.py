"""The sizes of a Qwen3."""

import dataclasses

from tigerjax.config import Extras, ModelConfig
from tigerjax.config.ranges import Count


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Qwen3Config(ModelConfig):
    """The sizes of a Qwen3."""

    attention_bias: bool = False
    """Biases behind the four products of attention. No published model has them."""
    sliding_window: Count | None = None
    """How far back a token sees, in tokens, itself included. None: all before it."""

    @property
    def extras(self) -> Extras:
        """Norms of queries and keys; biases and the window of all layers, which no published model has."""
        return Extras(
            qkv_bias=self.attention_bias, o_bias=self.attention_bias, qk_norm=True, window=self.sliding_window
        )
