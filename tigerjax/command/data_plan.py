"""The command that says what the stages of text will cost, before they run."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tigerjax.command.figures import show
from tigerjax.command.groups import READ, Read, given
from tigerjax.command.options import FLAT
from tigerjax.config.ranges import Count, PositiveFactor, Range, check
from tigerjax.errors import ConfigError
from tigerjax.terminal import tell

Stage = Literal[
    "clean", "language", "quality", "exact", "near", "soft", "substrings", "site-lines", "against-sft",
    "decontaminate", "cache",
]  # fmt: skip
LEAST_SAMPLE_MB, SAMPLE_SHARE = 24.0, 0.001
"""A sample is a thousandth of the text, and at least so much: more than a worker holds of it at one time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagesOptions:
    """Which stages are planned, and what they read beside the documents."""

    stages: tuple[Stage, ...] = ("clean", "exact", "near")  # In the order in which they run, each on what is left
    sft: tuple[Path, ...] = ()  # Instruction data of the stage against-sft
    evaluation_sets: tuple[Path, ...] = ()  # Of the stage decontaminate
    quality_model: Path | None = None  # Of the stage quality: the --model of `tigerjax data quality score`
    tokenizer: Path | None = None  # Of the stage cache, which counts the tokens
    seq_len: Annotated[int, Range(2, 2**24)] = 2048  # Tokens in a row of the stage cache
    training: Path | None = None  # What `tigerjax plan CONFIG --json FILE` wrote: the tokens are shown as chip-hours

    def __post_init__(self) -> None:
        check(self, "")
        for stage, option, there in (
            ("against-sft", "--sft", self.sft),
            ("decontaminate", "--evaluation-sets", self.evaluation_sets),
            ("quality", "--quality-model", self.quality_model),
            ("cache", "--tokenizer", self.tokenizer),
        ):
            if (stage in self.stages) != bool(there):
                raise ConfigError(f"the stage {stage} and {option} need each other; give both, or none of them")
        if len(set(self.stages)) != len(self.stages) or "cache" in self.stages[:-1]:
            raise ConfigError(f"--stages {' '.join(self.stages)}: give each stage once, and cache as the last")
        if self.training is not None and self.tokenizer is None:
            raise ConfigError("--training needs the tokens, which the stage cache counts; plan it, with --tokenizer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhereOptions:
    """Where the stages will run, and how much of the text is tried."""

    runner: str = "local"  # As of `tigerjax data clean`; the samples run on it too
    workers: Count = 1  # Cores that will work at one time
    total_gb: PositiveFactor | None = None
    """Of the text as JSONL. None: the size of the files, which must then be JSONL that is not compressed."""
    sample_mb: PositiveFactor | None = None  # Of the larger sample; None: a thousandth of the text, at least 24 MB


def data_plan(
    input: list[Path],
    planned: Annotated[StagesOptions, FLAT] = StagesOptions(),  # frozen
    where: Annotated[WhereOptions, FLAT] = WhereOptions(),  # frozen
    reading: Read = READ,
    json: Path | None = None,
) -> None:
    """Runs the stages on samples of the text, and says what they will cost over all of it.

    For each stage: fixed seconds, seconds per MB, hours, the memory of a worker, disk, and what its steps hand to each
    other. With the stage cache also the tokens that come out, and with --training their chip-hours. Duplicates are only
    found within the sample, so fewer documents may be left than is said.

    Example: tigerjax data plan --input zh.jsonl en.jsonl --workers 8 --json data_plan.json
    """
    from tigerjax import records
    from tigerjax.files import jsonl
    from tigerjax.plan import data_cost, data_sample

    inputs = given(input, reading)
    files = records.expand(inputs)
    total_mb, unknown = data_sample.sizes(files)
    if where.total_gb is not None:
        total_mb = 1e3 * where.total_gb
    elif unknown:
        raise ConfigError(f"{unknown[0]}: its size does not say how much text it holds; give the size as --total-gb")
    jsonl.refuse_empty(files[0], int(total_mb > 0))
    trained = None if planned.training is None else _read(planned.training)
    wanted = data_cost.PlannedStages(
        stages=planned.stages,
        sft=planned.sft,
        evaluation_sets=planned.evaluation_sets,
        quality_model=planned.quality_model,
        tokenizer=planned.tokenizer,
        seq_len=planned.seq_len,
        runner=where.runner,
        workers=where.workers,
    )
    sample_mb = where.sample_mb or max(SAMPLE_SHARE * total_mb, LEAST_SAMPLE_MB)

    def say(what: str) -> None:
        tell(f"tigerjax: trying {what}")

    figures = data_cost.plan(files, total_mb, sample_mb, wanted, inputs.reading, say)
    if trained is not None:
        figures |= {"training": data_cost.training(figures, trained)}
    show(figures, json)


def _read(path: Path) -> dict[str, Any]:
    """What `tigerjax plan --json` wrote. ConfigError for anything else."""
    import json

    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return {name: read[name] for name in ("fits", "tokens_per_step", "step_s", "chips")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--training {path}: is not what `tigerjax plan CONFIG --json FILE` writes ({error}); make it so"
        ) from error
