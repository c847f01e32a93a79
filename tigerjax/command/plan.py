"""The command that predicts how a run fits and performs on a TPU slice, without the slice."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tigerjax.align.config import RewardConfig
from tigerjax.command.arguments import override
from tigerjax.command.figures import save
from tigerjax.command.options import FLAT, ConfigFile
from tigerjax.command.progress import show_elapsed
from tigerjax.config import PreferenceConfig, ReferencedConfig, RlConfig, RunConfig
from tigerjax.config.ranges import Count, CountOrZero, PositiveFactor, Range, check
from tigerjax.errors import ConfigError
from tigerjax.plan import flags
from tigerjax.plan.topology import Topology, parse, set_compiler_environment
from tigerjax.terminal import show, tell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slices:
    """The slices to plan for. ConfigError for a topology that no chip has, so that `--dry-run` finds it too."""

    topology: str
    slices: Count = 1

    def __post_init__(self) -> None:
        self.parsed()

    def parsed(self) -> Topology:
        """What the words say."""
        return parse(self.topology, self.slices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Whether meshes are searched, and what goes on from the fastest, and for how long. ConfigError for what only a
    search reads, without one."""

    search: bool = False  # Try meshes, remat policies and batch splits, then blocks, loss chunks and libtpu flags
    budget_minutes: PositiveFactor = 60.0  # The search ends after so long
    work: Path | None = None  # Folder of the search's results

    def __post_init__(self) -> None:
        check(self, "")
        for field in dataclasses.fields(self) if not self.search else ():
            if (value := getattr(self, field.name)) != field.default:
                option = "--" + field.name.replace("_", "-")
                raise ConfigError(f"{option} {value} is for --search alone; give --search, or leave {option} out")


def plan(
    config: ConfigFile,
    at: Annotated[Slices, FLAT],
    tokens: Annotated[float, Range(1, 1e18)] | None = None,
    answers: CountOrZero = 0,
    libtpu_flags: tuple[str, ...] = (),
    searching: Annotated[SearchOptions, FLAT] = SearchOptions(),  # frozen
    json: Path | None = None,
) -> None:
    """Predicts memory, step time and traffic of a run on a TPU slice that is not there.

    It compiles the step for the slice, which needs no TPU, and the attention kernels once more, alone: their time is
    counted in the schedules that the compiler makes of them.

    --search tries many meshes, remat policies and batch splits for half of its time. From the fastest it goes on to
    kernel blocks, chunks of the loss and libtpu flags, one at a time, and prints the overrides and flags of the best.
    The same command continues an interrupted search, from the results in --work.

    Example: tigerjax plan configs/llama2_7b.py --topology v5p:4x4x4 --tokens 300e9
    """
    run, place, options = override(config), at.parsed(), flags.given(libtpu_flags)
    if answers == 1:
        raise ConfigError("--answers 1 leaves nothing to compare; give 2 or more, or 0 for a language model")
    set_compiler_environment()
    if searching.search:
        from tigerjax.plan.ranking import rank

        if answers or isinstance(run.objective, PreferenceConfig | RlConfig):
            raise ConfigError("--search ranks the token loss; plan another objective with overrides instead")
        if tokens:
            raise ConfigError(
                f"--tokens {tokens:g} gives the days of one plan, and --search compiles many; leave --tokens out, and"
                " give it with the overrides of the best"
            )
        folder, budget_s = searching.work or Path("runs/plan") / run.name, 60 * searching.budget_minutes
        words = config.overrides
        save(rank(run, config.path, place, words=words, work=folder, budget_s=budget_s, given=options), json)
        return
    from tigerjax.plan import figures
    from tigerjax.plan.compile import compile_for, train_step
    from tigerjax.train.objective import holds_reference

    each_step = isinstance(run.objective, ReferencedConfig) and run.objective.reference == "each_step"
    if each_step and not holds_reference(run):
        tell("tigerjax: note: objective.reference='each_step': the reference beside the model is not counted")
    if isinstance(run.objective, RlConfig):
        beside = " and the reference" if run.objective.kl else ""
        tell(f"tigerjax: note: the sampler's weights and cache{beside} beside the step are not counted")
    tell(f"compiling the step of {run.name} for {at.topology}: minutes for a large model")
    with show_elapsed("compiling"):
        step_of = _reward_step(answers) if answers else train_step
        compiled = compile_for(run, place, step_of=step_of, options=flags.of(place) | options)
    shown = figures.figures(run, place, compiled)
    if tokens:
        shown |= figures.duration(shown, tokens)
    show("\n".join(figures.lines(shown, compiled.memory_report)))
    save(shown, json)


def _reward_step(answers: CountOrZero) -> Callable[[RunConfig, Any], Any]:
    """The step of `tigerjax reward train`: the pair loss over `answers` answers to each prompt of the batch."""
    import numpy as np

    from tigerjax.align.reward import reward_objective
    from tigerjax.align.reward_data import RewardBatch
    from tigerjax.model.selection import flops
    from tigerjax.plan.compile import PlannedStep, abstract_batch

    def step(run: RunConfig, mesh: Any) -> PlannedStep:
        B, C, T = run.global_batch_size, answers, run.data.seq_len
        fields: dict[str, Any] = {
            "tokens_BCT": ((B, C, T), np.int32),
            "last_BC": ((B, C), np.int32),
            "pairs_BCC": ((B, C, C), np.float32),
            "margins_BCC": ((B, C, C), np.float32),
        }
        one_column = dataclasses.replace(run.model, vocab_size=1, padded_vocab_size=1)  # the score
        objective = reward_objective(run, centering=RewardConfig().centering)
        count = flops(objective.trained, one_column, tokens=B * C * T, seq_len=T)
        return PlannedStep(objective, abstract_batch(RewardBatch, fields, mesh), B * C * T, count)

    return step
