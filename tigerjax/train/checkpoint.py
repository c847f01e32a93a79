"""Checkpoints: Orbax arrays, one JSON beside them, whole or not there at all.

    RUN/checkpoints/1200/            one step; a folder whose name is a number is complete
        weights/                     Orbax (OCDBT) pytree, layers stacked whatever the mesh was
        opt_state/                   the same; absent in a weights-only checkpoint
        meta.json                    kind, model, tokenizer_sha256, step, config, loader state, extra, files, sha256

A step is written as `1200.partial` and renamed when everything is on disk (in a bucket it is written as `1200`, and is
there once its meta.json is). `files` holds the size of every file, so that a checkpoint cut short afterwards is found
out without reading it, and `sha256` what reading it must give.
"""

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tigerjax import hosts, manifest, paths
from tigerjax.config import ModelConfig, model_from_dict
from tigerjax.errors import ConfigError, DataError
from tigerjax.train.checkpoint_files import (
    META,
    building,
    check_bytes,
    checksums,
    first_line,
    make_room,
    one_line_errors,
    prune,
    publish,
    read_meta,
    remove,
    say_damaged,
    set_aside,
    steps,
    sweep,
)
from tigerjax.train.state import TrainState

NO_CHECKPOINT = "no whole checkpoint here; give a run folder, its checkpoints/ or one step of it"


class Model(NamedTuple):
    """Weights and what is needed to use them."""

    config: ModelConfig
    weights: Any  # nested dict of float32 numpy arrays
    kind: str  # "llama" or "reward"
    tokenizer_sha256: str | None
    step: int
    sha256: str  # of the config and the weights' names, shapes and values: the same wherever they are stored
    extra: dict[str, Any]


class Checkpointer:
    """Saves a run's states in the background; keeps the newest `keep`, and every `keep_every_steps`-th for good.

    Several processes write one checkpoint together, into a folder that all of them see; each method is then called by
    all, with the same arguments.
    """

    def __init__(self, run_dir: str | Path, *, keep: int, keep_every_steps: int | None = None):
        self.folder = paths.absolute(run_dir) / "checkpoints"
        self.keep, self.keep_every_steps = keep, keep_every_steps
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                weights=ocp.StandardCheckpointHandler(), opt_state=ocp.StandardCheckpointHandler()
            )
        )
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Returns when the arrays are copied off the device; the rest happens behind. `meta`: see the module.

        An error of the save before this one is raised here. Raises DataError when the disk is full."""
        self.wait()
        partial = building(self.folder / str(step))
        with one_line_errors(partial, self.folder):
            if hosts.is_writer():
                self.folder.mkdir(parents=True, exist_ok=True)
                sweep(self.folder)
                make_room(partial)
            hosts.barrier("checkpoint folder is clean")
            self._orbax.save(
                partial,
                args=ocp.args.Composite(
                    weights=_save_weights(state.weights), opt_state=ocp.args.StandardSave(state.opt_state)
                ),
            )
        self._thread = threading.Thread(target=self._finish, args=(partial, step, meta), name="checkpoint")
        self._thread.start()

    def _finish(self, partial: Path, step: int, meta: dict[str, Any]) -> None:
        try:
            with one_line_errors(partial, self.folder):
                self._orbax.wait_until_finished()
                _publish(partial, self.folder / str(step), meta | {"step": step})
                if hosts.is_writer():
                    prune(self.folder, keep=self.keep, keep_every_steps=self.keep_every_steps)
                hosts.barrier("checkpoint published")
        except BaseException as error:  # whatever it is, the next save or wait raises it
            self._error = error

    def wait(self) -> None:
        """Until the last save is on disk; raises its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Waits, then stops Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def drop_from(self, step: int) -> None:
        """Removes the checkpoints of `step` and of all later ones, on a way back before them."""
        self.wait()
        if hosts.is_writer():
            for late in [s for s in steps(self.folder) if s >= step]:
                remove(self.folder / str(late))
        hosts.barrier("late checkpoints dropped")

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest checkpoint whose files are all there; a damaged newer one becomes N.damaged."""
        self.wait()
        step = hosts.share("newest checkpoint", self._newest_here() if hosts.is_writer() else None)[0]
        if step is None:
            return None
        path = self.folder / str(step)
        if not (path / META).exists():
            raise ConfigError(f"{path} is there for host 0 but not here; give a run folder that all hosts share")
        return step, read_meta(path)

    def _newest_here(self) -> int | None:
        for step in steps(self.folder):
            try:
                read_meta(self.folder / str(step))
                return step
            except DataError as error:
                set_aside(self.folder / str(step), error)
        return None

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest whole state, cut to the shardings of `abstract`, and its meta; None when there is none.

        Every byte is checked against its sha256 first: hosts share that work, and what one finds, all know."""
        while (found := self.newest()) is not None:
            step, meta = found
            path = self.folder / str(step)
            if not self._agree(path, "verified", functools.partial(self._check_bytes, path, meta)):
                continue
            arrays: dict[str, Any] = {}
            if not self._agree(path, "restored", functools.partial(self._read, path, abstract, arrays)):
                continue
            counter = jax.device_put(np.int32(step), abstract.step.sharding)
            return TrainState(counter, arrays["weights"], arrays["opt_state"]), meta
        return None

    def _agree(self, path: Path, what: str, work: Callable[[], None]) -> bool:
        """Whether `work` went well on every host; a checkpoint that is damaged for one is set aside for all."""
        trouble = None
        try:
            work()
        except Exception as error:  # Orbax and TensorStore raise many types for bytes that do not decode
            paths.not_damage(error)
            trouble = first_line(error)
        troubles = [t for t in hosts.share(f"checkpoint {what}", trouble) if t is not None]
        if troubles and hosts.is_writer():
            set_aside(path, DataError(troubles[0]))
        return not troubles

    def _check_bytes(self, path: Path, meta: dict[str, Any]) -> None:
        check_bytes(path, meta, ("weights", "opt_state"), part=jax.process_index(), parts=jax.process_count())

    def _read(self, path: Path, abstract: TrainState, into: dict[str, Any]) -> None:
        wanted = ocp.args.Composite(
            weights=ocp.args.StandardRestore(abstract.weights), opt_state=ocp.args.StandardRestore(abstract.opt_state)
        )
        into.update(self._orbax.restore(path, args=wanted))


def make_meta(
    *,
    kind: str,
    model: ModelConfig,
    tokenizer_sha256: str | None,
    config: list[str] | None = None,
    loader: dict[str, Any] | None = None,
    data_seed: int | None = None,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What goes into meta.json, but for `step` and `files`; `config` is `tigerjax.config.dump` of the run."""
    return {
        "kind": kind,
        "model": dataclasses.asdict(model),
        "tokenizer_sha256": tokenizer_sha256,
        "config": config or [],
        "loader": loader,
        "data_seed": data_seed,
        "extra": extra or {},
    }


def save_model(
    path: str | Path,
    weights: Any,
    config: ModelConfig,
    *,
    kind: str = "llama",
    tokenizer_sha256: str | None = None,
    step: int = 0,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes a weights-only checkpoint folder, whole or not at all; replaces a checkpoint and refuses other folders.

    Several processes call it together, as `Checkpointer.save`, with the same arrays or with their parts of them."""
    path = paths.absolute(path)
    partial = claim(path)
    with one_line_errors(partial, path.parent):
        if hosts.is_writer():
            path.parent.mkdir(parents=True, exist_ok=True)
            make_room(partial)
        hosts.barrier("folder of a model is clean")
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(weights=ocp.StandardCheckpointHandler())) as orbax:
            orbax.save(partial, args=ocp.args.Composite(weights=_save_weights(dict(weights))))
        meta = make_meta(kind=kind, model=config, tokenizer_sha256=tokenizer_sha256, extra=extra)
        _publish(partial, path, meta | {"step": step})
        hosts.barrier("model published")


def _publish(partial: Path, final: Path, meta: dict[str, Any]) -> None:
    """`publish` by one host of all, when each has its part of the files written and its share of them summed."""
    mine = checksums(partial, part=jax.process_index(), parts=jax.process_count())
    parts = hosts.share("checksums of a checkpoint", mine)
    if hosts.is_writer():
        publish(partial, final, meta, {name: digest for part in parts for name, digest in part.items()})


def load_model(path: str | Path) -> Model:
    """Weights as numpy arrays from a run, its checkpoints/ or one step; the optimiser's state is not read.

    Of several steps the newest whole one; damaged ones are named on stderr. DataError when none is whole."""
    path = paths.absolute(path)
    if (path / META).exists():
        return _load(path)
    folder = path / "checkpoints" if paths.names(path / "checkpoints") else path
    for step in steps(folder):
        try:
            return _load(folder / str(step))
        except DataError as error:
            say_damaged(folder / str(step), error, "trying the one before")
    raise DataError(f"{path}: {NO_CHECKPOINT}")


def content_sha256(weights: Any, config: ModelConfig) -> str:
    """Of the model config and of every weight's name, dtype, shape and bytes, in order of name.

    Weights may be `store.Stored`: they are read a chunk of rows (a layer) at a time."""
    total = hashlib.sha256(manifest.canonical(dataclasses.asdict(config)))
    named = {
        jax.tree_util.keystr(p, simple=True, separator="/"): w for p, w in jax.tree_util.tree_leaves_with_path(weights)
    }
    for name in sorted(named):
        array = named[name]
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        rows = getattr(array, "chunks", array.shape)[0]
        for at in range(0, array.shape[0], rows):
            total.update(np.ascontiguousarray(array[at : at + rows]).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _load(path: Path) -> Model:
    meta = read_meta(path)
    check_bytes(path, meta, ("weights",))
    try:
        # The handler by itself: a Checkpointer looks for files of whole checkpoints in here, and warns.
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(path / "weights").tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        weights = handler.restore(path / "weights", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        handler.close()
    except Exception as error:  # as in restore: many types
        paths.not_damage(error)
        raise DataError(f"{path}: weights do not decode ({first_line(error)})") from error
    config = model_from_dict(meta["model"])
    return Model(
        config,
        weights,
        meta["kind"],
        meta["tokenizer_sha256"],
        meta["step"],
        content_sha256(weights, config),
        meta["extra"],
    )


def _save_weights(weights: Any) -> Any:
    """Each layer in chunks of its own: an export then reads a layer without its neighbours."""

    def args(path: tuple[Any, ...], _: Any) -> ocp.SaveArgs:
        layered = any(getattr(key, "key", None) == "layers" for key in path)
        return ocp.SaveArgs(shard_axes=(0,) if layered else ())

    return ocp.args.StandardSave(weights, save_args=jax.tree_util.tree_map_with_path(args, weights))


def claim(path: Path) -> Path:
    """Where to build what will be `path`; ConfigError when `path` is something else already."""
    if paths.names(path) and not (path / META).exists():
        raise ConfigError(f"{path} holds something that is not a checkpoint; give another folder or empty it")
    return building(path)
