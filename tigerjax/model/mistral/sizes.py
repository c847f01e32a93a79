"""The sizes of a Mistral."""

import dataclasses

from tigerjax.config import Extras, ModelConfig
from tigerjax.config.ranges import Count


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MistralConfig(ModelConfig):
    """The sizes of a Mistral."""

    sliding_window: Count | None = None
    """How far back a token sees, in tokens, itself included. None: all before it."""

    @property
    def extras(self) -> Extras:
        """The window of all layers."""
        return Extras(window=self.sliding_window)
