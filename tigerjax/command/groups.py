"""Groups of options that several commands share. A parameter that is annotated "flat" takes one."""

import dataclasses
from typing import Annotated

from tigerjax.command.options import FLAT
from tigerjax.config.ranges import Count, CountOrZero, PositiveShare, Range
from tigerjax.records.ids import Ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How answers are sampled."""

    n: Count = 10  # Answers to each prompt
    temperature: Annotated[float, Range(0, 100)] = 0.9  # Divides the logits: 0 takes the likeliest token
    top_p: PositiveShare = 0.95  # Only the likeliest tokens that have this share of the probability
    top_k: CountOrZero = 0  # Only so many of the likeliest tokens; 0 is no limit
    max_new_tokens: Count = 128  # The longest answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSamplingOptions(SamplingOptions):
    """How answers to the prompts of a file are sampled."""

    chat: bool = True  # The prompt stands between the markers of a chat; --no-chat lets a base model continue it
    rows: Count = 80  # Answers that are decoded at one time


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """How a data stage reads records, and where its parts run. Only --ids changes the output."""

    ids: Ids = "auto"
    """What names a record: auto takes the ids that are given, and FILE:ID where files give the same ones; keep takes
    the given ids; place makes FILE:LINE; content makes a hash of each record."""
    workers: Count = 1  # Processes of this machine
    runner: str = "local"
    """local, or an Apache Beam runner with its options, such as DirectRunner."""
    verify: bool = False
    """Where the stage is done already, its outputs are read again and compared by their hashes, and not by their sizes
    only."""


Sampling = Annotated[SamplingOptions, FLAT]
Where = Annotated[RunnerOptions, FLAT]
SAMPLING, FILE_SAMPLING, LOCAL = SamplingOptions(), FileSamplingOptions(), RunnerOptions()  # the defaults
