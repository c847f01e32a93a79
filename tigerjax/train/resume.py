"""What a run saves of itself, and what it comes back to: at a new start, and after updates that were refused."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from tigerjax import config as config_lib
from tigerjax.checkpoint.files import damaged, steps
from tigerjax.checkpoint.finite import refuse_not_finite
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest
from tigerjax.processes import hosts
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.feed import Fed
from tigerjax.train.local import LocalSaves
from tigerjax.train.objective import Objective
from tigerjax.train.start import check_same, frozen_of
from tigerjax.train.state import TrainState, from_disk, on_disk
from tigerjax.train.watch import Watch


def save(checkpoints: Checkpointer, step: int, state: TrainState, meta: dict[str, Any], watch: Watch, fed: Fed) -> None:
    """Saves a state as it is on disk, with all that a resumed run must know."""
    watch.validation.saved(step)
    checkpoints.save(step, state, meta | watch.checkpoint_meta(fed), best=watch.validation.best_checkpoint)


def refuse_stage(run_dir: Path) -> None:
    """ConfigError for the folder of a data stage, whose files per run would be mixed with."""
    made = manifest.read(run_dir) or {}
    if "stage" in made and not (run_dir / config_lib.DUMPED).is_file():
        raise ConfigError(f"{run_dir} holds the output of stage {made['stage']!r}; give the run another folder (--out)")


def left(run_dir: Path) -> str:
    """What an interruption without a save leaves: the run's newest checkpoint, if there is one."""
    there = steps(run_dir / "checkpoints")
    if not there:
        return "interrupted before any checkpoint was saved; the same command starts this run from the beginning"
    return f"interrupted without saving; the same command resumes from the checkpoint of step {there[0]}"


def restored(
    loader: Any,
    checkpoints: Checkpointer,
    local: LocalSaves,
    meta: dict[str, Any],
    objective: Objective,
    abstract: TrainState,
    mesh: Mesh,
) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest whole state, saved locally or as a checkpoint, and its meta; the loader is put where that step left
    it.

    None when the run has no checkpoint yet. DataError when it has some and all are damaged."""
    wanted = on_disk(abstract, objective)
    newest = checkpoints.newest()
    found = local.restore(
        wanted, after=-1 if newest is None else newest[0], fits=lambda there, path: check_same(there, meta, path)
    )
    if found is not None:
        before = "none yet" if newest is None else f"of step {newest[0]}"
        hosts.say(
            f"step {found[1]['step']} is taken from the local saves of the hosts; the newest checkpoint is {before}"
        )
        where = f"{local.folder} (remove it on every host to resume from the newest checkpoint)"
    elif newest is not None:
        check_same(newest[1], meta, checkpoints.folder / str(newest[0]))
        if (found := checkpoints.restore(wanted)) is not None:
            where = (
                f"{checkpoints.folder / str(found[1]['step'])} (remove it by `tigerjax checkpoint rm"
                f" {checkpoints.folder.parent} --step {found[1]['step']} --force` to resume from the one before)"
            )
    if found is not None:
        state, there = found
        refuse_not_finite({"weights": state.weights, "opt_state": state.opt_state}, where)
        loader.restore(there.get("loader"))
        path = checkpoints.folder / str(there["step"])
        return from_disk(state, objective, frozen_of(there, path, objective, mesh)), there
    if lost := damaged(checkpoints.folder):
        raise DataError(
            f"{checkpoints.folder} has no whole checkpoint left ({', '.join(lost)}), and starting over would lose the"
            " run's records; restore one from a copy, remove the folder to start over, or give another run folder"
        )
    return None


def back(
    watch: Watch,
    checkpoints: Checkpointer,
    loader: Any,
    fed: Fed,
    objective: Objective,
    abstract: TrainState,
    state: TrainState,
) -> tuple[TrainState, int]:
    """(The newest state from before the refused steps, its step), in place of `state`. The loader continues with data
    not read before."""
    assert watch.back_before is not None
    checkpoints.drop_from(watch.back_before)
    frozen = state.frozen  # which no step changes
    restored = checkpoints.restore(on_disk(abstract, objective))
    if restored is None:
        raise DataError(
            f"{checkpoints.folder}: no whole checkpoint from before step {watch.back_before} to go back to;"
            " lower `optim.peak_lr` and start again"
        )
    state, meta = restored
    loader.restore(fed.after)
    watch.rolled_back(meta, fed.after)
    return from_disk(state, objective, frozen), meta["step"]
