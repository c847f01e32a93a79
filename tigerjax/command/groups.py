"""Groups of options that several commands share. A parameter that is annotated "flat" takes one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tigerjax.command.options import FLAT
from tigerjax.command.progress import show_progress
from tigerjax.config import MeshConfig
from tigerjax.config.ranges import Answers, Count, CountOrZero, PositiveShare, Range, RecordMb
from tigerjax.records.block import TextUnit
from tigerjax.records.ids import Ids

MAX_RECORD_MB = 100.0


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
    batch_size: Count = 80  # Answers that are decoded at one time, over all devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalkOptions(SamplingOptions):
    """How questions are answered in a conversation."""

    n: Answers = 1  # Answers to each question
    max_new_tokens: Count = 512  # The longest answer
    context: Annotated[int, Range(2, 2**24)] | None = None  # Tokens of the conversation and its answer together


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpeningOptions:
    """How a model is opened to be talked to."""

    tokenizer: Path | None = None  # Folder of the model's tokenizer
    dtype: Literal["float32", "bfloat16"] | None = None  # Type of the weights and the products
    quantise: Literal["int8"] | None = None  # The model's matrices in 8 bits, a scale for each output
    rounding_text: Path | None = None  # File of text for which --quantise rounds, and not to nearest
    cache_dtype: Literal["int8"] | None = None  # Keys and values in 8 bits, a scale for each token and head


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """How a data stage reads records, and where its parts run. Only --ids and --text-unit change the output."""

    ids: Ids = "auto"
    """What names a record. auto: its own id, or FILE:ID where files share one; keep: its own id; place: FILE:LINE;
    content: its hash."""
    workers: Count = 1  # Processes of this machine
    runner: str = "local"
    """local, spark://HOST:PORT, yarn, k8s://HOST:PORT, slurm, or an Apache Beam runner, with its options behind the
    name."""
    text_unit: TextUnit = "line"
    """What of a plain text file is a document: line, paragraph (the lines between blank ones) or file."""
    max_record_mb: RecordMb = MAX_RECORD_MB  # A record of more megabytes is an error
    verify: bool = False
    """Where the stage is done already, its outputs are read again and compared by their hashes, and not by their sizes
    only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Where the parts of a command that only reads are worked on. Nothing of it changes what the command finds."""

    workers: Count = 1  # Processes of this machine
    runner: str = "local"
    """As of `tigerjax data clean`: local, spark://HOST:PORT, slurm, or another engine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How files of records and plain text are read."""

    text_unit: TextUnit = "line"
    """What of a plain text file is a document: line, paragraph (the lines between blank ones) or file."""
    max_record_mb: RecordMb = MAX_RECORD_MB  # A record of more megabytes is an error


def given(paths: Sequence[Path], how: RunnerOptions | ReadingOptions, ids: Ids = "auto") -> Any:
    """Paths as the inputs of a stage, read as the options say."""
    from tigerjax.records import Inputs, Reading

    return Inputs(paths, ids, Reading(how.text_unit, int(how.max_record_mb * 1e6)))


def runner(where: RunnerOptions | WorkOptions, *, verify: bool = False) -> Any:
    """The runner of a data stage; `verify` is that of a command whose options hold none."""
    from tigerjax.stages.runner import Runner

    again = where.verify if isinstance(where, RunnerOptions) else verify
    return Runner(where.runner, where.workers, show_progress, verify=again)


Read = Annotated[ReadingOptions, FLAT]
Sampling = Annotated[SamplingOptions, FLAT]
Where = Annotated[RunnerOptions, FLAT]
At = Annotated[WorkOptions, FLAT]
SAMPLING, FILE_SAMPLING = SamplingOptions(), FileSamplingOptions()
TALK, OPENING, ONE_DEVICE = TalkOptions(), OpeningOptions(), MeshConfig()
LOCAL, READ, HERE = RunnerOptions(), ReadingOptions(), WorkOptions()
"""The defaults."""
