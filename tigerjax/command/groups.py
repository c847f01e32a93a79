"""Groups of options that several commands share. A parameter that is annotated "flat" takes one."""

import dataclasses
from typing import Annotated

from tigerjax.command.options import FLAT


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How answers are sampled."""

    n: int = 10  # Answers to each prompt
    temperature: float = 0.9  # Divides the logits: 0 takes the likeliest token
    top_p: float = 0.95  # Only the likeliest tokens that have this share of the probability
    top_k: int = 0  # Only so many of the likeliest tokens; 0 is no limit
    max_new_tokens: int = 128  # The longest answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Where the parts of a data stage run. No option changes a byte of the output."""

    workers: int = 1  # Processes of this machine
    runner: str = "local"
    """local, or an Apache Beam runner with its options, such as DirectRunner."""
    verify: bool = False
    """Where the stage is done already, its outputs are read again and compared by their hashes, and not by their sizes
    only."""


Sampling = Annotated[SamplingOptions, FLAT]
Where = Annotated[RunnerOptions, FLAT]
SAMPLING, LOCAL = SamplingOptions(), RunnerOptions()  # the defaults
