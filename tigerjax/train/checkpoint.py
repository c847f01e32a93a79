"""A run's checkpoints: saves states in the background, and finds and restores the newest whole one.

What lies on disk is described in `tigerjax.checkpoint.model`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tigerjax.checkpoint.arrays import restore
from tigerjax.checkpoint.files import (
    META,
    building,
    check_bytes,
    first_line,
    make_room,
    newest_whole,
    one_line_errors,
    prune,
    read_meta,
    remove,
    set_aside,
    steps,
    sweep,
)
from tigerjax.checkpoint.model import handler, publish_together, save_args
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.processes import hosts
from tigerjax.train.background import BackgroundSave
from tigerjax.train.state import TrainState


class Checkpointer:
    """Saves the states of a run in the background. Keeps the newest `keep` of them, every `keep_every_steps`-th for
    good, and the `best`.

    Several processes write one checkpoint together, into a folder that all of them see. All of them call each method,
    with the same arguments.
    """

    def __init__(self, run_dir: str | Path, *, keep: int, keep_every_steps: int | None = None):
        self.folder = paths.absolute(run_dir) / "checkpoints"
        self.keep, self.keep_every_steps = keep, keep_every_steps
        self.best: int | None = None
        """The step of a checkpoint that stays until a better one is saved."""
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(weights=handler(), opt_state=handler()))
        self._saving = BackgroundSave("checkpoint", daemon=False)

    def save(self, step: int, state: TrainState, meta: dict[str, Any], *, best: int | None = None) -> None:
        """Starts a save; returns when the arrays are copied off the devices. `meta` is that of `make_meta`. `best` is
        the best step from now on, and the best one before stays until this save is whole.

        Raises the error of the save before this one, if it had one, and DataError when the disk is full."""
        self.wait()
        partial = building(self.folder / str(step))
        with one_line_errors(partial, self.folder):
            if hosts.is_writer():
                self.folder.mkdir(parents=True, exist_ok=True)
                sweep(self.folder)
                # Before, too: a run resumes with a lower `keep` where the disk had no room for one more.
                self._prune()
                make_room(partial)
            hosts.barrier("checkpoint folder is clean")
            self._orbax.save(
                partial,
                args=ocp.args.Composite(weights=save_args(state.weights), opt_state=save_args(state.opt_state)),
            )
        self._saving.start(lambda: self._finish(partial, step, meta, best))

    def _prune(self) -> None:
        prune(self.folder, keep=self.keep, keep_every_steps=self.keep_every_steps, best=self.best)

    def _finish(self, partial: Path, step: int, meta: dict[str, Any], best: int | None) -> None:
        with one_line_errors(partial, self.folder):
            self._orbax.wait_until_finished()
            publish_together(partial, self.folder / str(step), meta | {"step": step})
            self.best = best
            if hosts.is_writer():
                self._prune()
            hosts.barrier("checkpoint published")

    def wait(self) -> None:
        """Waits until the last save is on disk. Raises its error, once."""
        self._saving.wait()

    def settle(self) -> None:
        """Gives the last save some time to be on disk, when the run ends by an error that has been raised already."""
        self._saving.settle()

    def close(self) -> None:
        """Waits, then stops Orbax's threads, and removes what they may have begun after a save had failed."""
        try:
            self.wait()
        finally:
            try:
                self._orbax.close()
            finally:
                if hosts.is_writer() and not paths.on_bucket(self.folder):
                    sweep(self.folder)

    def drop_from(self, step: int) -> None:
        """Removes the checkpoints of `step` and later, when the run goes back before them."""
        self.wait()
        if hosts.is_writer():
            for late in [s for s in steps(self.folder) if s >= step]:
                remove(self.folder / str(late))
        hosts.barrier("late checkpoints dropped")

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest checkpoint whose files are all there. A damaged one that is newer is renamed to
        N.damaged.

        Raises ConfigError where only some hosts see the folder.
        """
        self.wait()
        step = hosts.share("newest checkpoint", self._newest_here() if hosts.is_writer() else None)[0]
        if step is None:
            return None
        path = self.folder / str(step)
        if not (path / META).exists():
            raise ConfigError(f"{path} is there for host 0 but not here; give a run folder that all hosts share")
        return step, read_meta(path)

    def _newest_here(self) -> int | None:
        def whole_step(path: Path) -> int:
            if (step := read_meta(path)["step"]) != int(path.name):
                raise DataError(f"{path / META}: says step {step}; it was copied or changed")
            return step

        return newest_whole(self.folder, whole_step, set_aside)

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest whole state, in the shardings of `abstract`, and its meta; None when there is none.

        Every byte is checked against its file's checksum. The hosts share that work, and damage that one of them finds
        counts for all."""
        while (newest := self.newest()) is not None:
            step, meta = newest
            path = self.folder / str(step)
            try:
                return self.read(path, meta, abstract), meta
            except DataError as error:
                if hosts.is_writer():
                    set_aside(path, error)
        return None

    def read(self, path: Path, meta: dict[str, Any], abstract: TrainState) -> TrainState:
        """The state of the checkpoint `path`, whose meta is `meta`, with every byte checked; it may be of another run.
        The bytes are checked while the arrays are read, so that the disk gives them once.

        DataError on every host where it is damaged for one."""
        with ThreadPoolExecutor(2, thread_name_prefix="restore") as beside:
            checked = beside.submit(self._check_bytes, path, meta)
            read = beside.submit(_read, path, abstract)
            self._agree("verified", checked.result)
            self._agree("restored", read.result)
        arrays = read.result()
        counter = jax.device_put(np.int32(meta["step"]), abstract.step.sharding)
        return TrainState(counter, arrays["weights"], arrays["opt_state"])

    def _agree(self, what: str, work: Callable[[], Any]) -> None:
        """DataError on every host unless `work` succeeds on all of them."""
        trouble = None
        try:
            work()
        except Exception as error:  # Orbax and TensorStore raise many types for bytes that do not decode
            paths.not_damage(error)
            trouble = first_line(error)
        if troubles := [t for t in hosts.share(f"checkpoint {what}", trouble) if t is not None]:
            raise DataError(troubles[0])

    def _check_bytes(self, path: Path, meta: dict[str, Any]) -> None:
        check_bytes(path, meta, ("weights", "opt_state"), part=jax.process_index(), parts=jax.process_count())


def _read(path: Path, abstract: TrainState) -> dict[str, Any]:
    """{"weights", "opt_state"} of a checkpoint, in the shardings of `abstract`. No host waits for another: where one
    cannot read its part, the others are told."""
    return {room: restore(path / room, getattr(abstract, room)) for room in ("weights", "opt_state")}
