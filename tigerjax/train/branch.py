"""A run that continues from a checkpoint of another one, in a folder of its own.

So a decay can start from any checkpoint of a stable phase (MiniCPM, Hu et al. 2024, arXiv 2404.06395), while the run
that it leaves continues; and a run that has ended can continue with a schedule that begins anew (re-warming: Gupta et
al. 2023, arXiv 2308.04014).
"""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from tigerjax import config as config_lib
from tigerjax.checkpoint.files import open_newest, read_meta
from tigerjax.checkpoint.finite import refuse_not_finite
from tigerjax.checkpoint.partial import BASE, base_of, entry
from tigerjax.config import OptimConfig, RunConfig
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.processes import hosts
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.objective import Objective
from tigerjax.train.schedule import learning_rate, stable_until
from tigerjax.train.start import frozen_of, present, refuse_other
from tigerjax.train.state import TrainState, from_disk, on_disk


def branched(
    config: RunConfig,
    loader: Any,
    checkpoints: Checkpointer,
    meta: dict[str, Any],
    objective: Objective,
    abstract: TrainState,
    mesh: Mesh,
) -> tuple[TrainState, dict[str, Any]]:
    """The state of the checkpoint in `checkpoint.branch_from` and its meta, without the validations of that run; the
    loader is put where it left the data. Nothing is changed in the other run's folder.

    Raises ConfigError as `opened` does, and DataError where the checkpoint is damaged.
    """
    path, there = opened(config, meta)
    hosts.same("the checkpoint to branch from", {"path": str(path), "step": there["step"]})
    state = checkpoints.read(path, there, on_disk(abstract, objective))
    refuse_not_finite({"weights": state.weights, "opt_state": state.opt_state}, str(path))
    loader.restore(there.get("loader"))
    before = learning_rate(_optim(path, there), there["step"] - 1)
    after = learning_rate(config.optim, there["step"])
    hosts.say(f"{config.name} branches from {path}: learning rate {before:.3g} there, {after:.3g} in the next step")
    frozen = frozen_of(there, path, objective, mesh)
    if (base := base_of(path, there)) is not None and objective.trained is not None:
        there = there | {BASE: entry(objective.trained, base, checkpoints.folder)}
    return from_disk(state, objective, frozen), there | {"validation": None}


def opened(config: RunConfig, meta: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The checkpoint folder that `checkpoint.branch_from` names, and its meta.

    Raises ConfigError for one of another model, tokenizer, data seed or optimiser, one without an optimiser's state,
    and one at whose step the schedule of this run cannot continue; DataError where there is none.
    """
    place = paths.absolute(present(str(config.checkpoint.branch_from), "checkpoint.branch_from"))
    path, there = open_newest(place, lambda found: (found, read_meta(found)))
    if not any(name.startswith("opt_state/") for name in there["files"]):
        raise ConfigError(
            f"checkpoint.branch_from: {path} has weights only, without the state of an optimiser; start from it by"
            " checkpoint.init_from"
        )
    refuse_other(there, meta, path)
    _check_step(config.optim, _optim(path, there), there["step"], path)
    return path, there


def _optim(path: Path, there: dict[str, Any]) -> OptimConfig:
    try:
        made: OptimConfig = config_lib.part_of_dump(OptimConfig, "optim.", there["config"], path)
    except ConfigError as error:
        raise ConfigError(f"checkpoint.branch_from: {error}; or take its weights by checkpoint.init_from") from error
    return made


def _check_step(ours: OptimConfig, theirs: OptimConfig, step: int, path: Path) -> None:
    """ConfigError unless a run with the schedule `ours` can continue after `step` steps of one with `theirs`."""
    first = ours.schedule.first_step
    if step >= ours.total_steps:
        raise ConfigError(
            f"checkpoint.branch_from: {path} has done {step} steps, which this run's optim.total_steps="
            f"{ours.total_steps} includes; ask for more steps"
        )
    if first and first != step:
        raise ConfigError(
            f"optim.schedule.first_step={first}, but checkpoint.branch_from is the checkpoint of step {step}; make them"
            " equal"
        )
    for c, whose in ((theirs, "the run that it is of"), (ours, "this run")) if first == 0 else ():
        if c.schedule.kind == "wsd" and step > (last := stable_until(c)):
            raise ConfigError(
                f"checkpoint.branch_from: step {step} of {path} is in the decay of {whose}, which begins after step"
                f" {last}; take an earlier checkpoint, or begin anew with optim.schedule.first_step={step}"
            )
