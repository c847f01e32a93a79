"""Checkpoints: Orbax arrays, one JSON beside them, whole or not there at all.

    RUN/checkpoints/1200/            one step; a folder whose name is a number is complete
        weights/                     Orbax (OCDBT) pytree, layers stacked whatever the mesh was
        opt_state/                   the same; absent in a weights-only checkpoint
        meta.json                    kind, model, tokenizer_sha256, step, config lines, loader state, extra, files

A step is written as `1200.partial` and renamed when everything is on disk; `files` holds the size of every
file, so that a checkpoint cut short afterwards is found out without reading it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tigerjax import manifest
from tigerjax.config import ModelConfig, model_from_dict
from tigerjax.errors import ConfigError, DataError, disk_full
from tigerjax.train.state import TrainState

META = "meta.json"
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
    """Saves a run's states in the background and keeps the newest `keep`."""

    def __init__(self, run_dir: str | Path, *, keep: int):
        self.folder = (Path(run_dir) / "checkpoints").absolute()
        self.keep = keep
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
        partial = self.folder / f"{step}.partial"
        with _one_line_errors(partial, self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                for left in self.folder.glob("*.partial*"):  # of a run that was killed while it saved
                    shutil.rmtree(left, ignore_errors=True)
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
            with _one_line_errors(partial, self.folder):
                self._orbax.wait_until_finished()
                if jax.process_index() == 0:
                    publish(partial, self.folder / str(step), meta | {"step": step})
                    for old in steps(self.folder)[self.keep :]:
                        shutil.rmtree(self.folder / str(old))
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

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest whole checkpoint; a damaged newer one is set aside as N.damaged."""
        self.wait()
        for step in steps(self.folder):
            try:
                return step, read_meta(self.folder / str(step))
            except DataError as error:
                self._set_aside(step, error)
        return None

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest whole state, cut to the shardings of `abstract`, and its meta; None when there is none."""
        while (found := self.newest()) is not None:
            step, meta = found
            try:
                arrays = self._orbax.restore(
                    self.folder / str(step),
                    args=ocp.args.Composite(
                        weights=ocp.args.StandardRestore(abstract.weights),
                        opt_state=ocp.args.StandardRestore(abstract.opt_state),
                    ),
                )
            except Exception as error:  # Orbax and TensorStore raise many types for bytes that do not decode
                self._set_aside(step, error)
                continue
            counter = jax.device_put(np.int32(step), abstract.step.sharding)
            return TrainState(counter, arrays["weights"], arrays["opt_state"]), meta
        return None

    def _set_aside(self, step: int, error: Exception) -> None:
        path = self.folder / str(step)
        aside = path.with_name(f"{step}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
        say_damaged(path, error, f"moved to {aside.name}, trying the one before")


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
    """Writes a weights-only checkpoint folder, whole or not at all; replaces a checkpoint and refuses other folders."""
    path = Path(path).absolute()
    partial = claim(path)
    with _one_line_errors(partial, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(weights=ocp.StandardCheckpointHandler())) as orbax:
            orbax.save(partial, args=ocp.args.Composite(weights=_save_weights(dict(weights))))
        meta = make_meta(kind=kind, model=config, tokenizer_sha256=tokenizer_sha256, extra=extra)
        publish(partial, path, meta | {"step": step})


def load_model(path: str | Path) -> Model:
    """Weights as numpy arrays from a run, its checkpoints/ or one step; the optimiser's state is not read.

    Of several steps the newest whole one; damaged ones are named on stderr. DataError when none is whole."""
    path = Path(path).absolute()
    if (path / META).is_file():
        return _load(path)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    for step in steps(folder):
        try:
            return _load(folder / str(step))
        except DataError as error:
            say_damaged(folder / str(step), error, "trying the one before")
    raise DataError(f"{path}: {NO_CHECKPOINT}")


def damaged(folder: Path) -> list[str]:
    """Names of the checkpoints that were set aside."""
    return sorted(p.name for p in folder.glob("*.damaged"))


def steps(folder: Path) -> list[int]:
    """Steps that were completed, newest first."""
    if not folder.is_dir():
        return []
    return sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True)


def read_meta(path: Path) -> dict[str, Any]:
    """meta.json of one checkpoint; DataError when it is unreadable, or a file is missing or not as long as it was."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        files = meta["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path / META}: not readable as a checkpoint's JSON ({error})") from error
    for name, size in files.items():
        have = (path / name).stat().st_size if (path / name).is_file() else None
        if have != size:
            raise DataError(f"{path / name}: {'missing' if have is None else f'{have} bytes'}, {size} were written")
    return meta


def content_sha256(weights: Any, config: ModelConfig) -> str:
    """Of the model config and of every weight's name, dtype, shape and bytes, in order of name."""
    total = hashlib.sha256(manifest.canonical(dataclasses.asdict(config)))
    named = {
        jax.tree_util.keystr(p, simple=True, separator="/"): w for p, w in jax.tree_util.tree_leaves_with_path(weights)
    }
    for name in sorted(named):
        array = np.ascontiguousarray(named[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _load(path: Path) -> Model:
    meta = read_meta(path)
    try:
        # A handler for both items, though one is read: Orbax warns of those that it has none for.
        handlers = {name: ocp.PyTreeCheckpointHandler() for name in ("weights", "opt_state")}
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as orbax:
            tree = orbax.metadata(path).item_metadata["weights"].tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            wanted = ocp.args.PyTreeRestore(restore_args=as_numpy)
            weights = orbax.restore(path, args=ocp.args.Composite(weights=wanted))["weights"]
    except Exception as error:  # as in restore: many types
        raise DataError(f"{path}: weights do not decode ({_first_line(error)})") from error
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
    if path.is_dir() and any(path.iterdir()) and not (path / META).is_file():
        raise ConfigError(f"{path} holds something that is not a checkpoint; give another folder or empty it")
    return path.with_name(path.name + ".partial")


def publish(partial: Path, final: Path, meta: dict[str, Any]) -> None:
    """Writes the JSON into a folder that Orbax has finished, then gives it its name."""
    files = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
    manifest.write_json(partial / META, meta | {"files": files})
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)


@contextlib.contextmanager
def _one_line_errors(partial: Path, folder: Path) -> Iterator[None]:
    """A full disk becomes one DataError, and what was written of `partial` goes; older checkpoints stay."""
    try:
        yield
    except Exception as error:
        if not disk_full(error):
            raise
        for leftover in folder.glob(f"{partial.name}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"{partial}: the disk is full ({free / 1e9:.2f} GB free), this checkpoint is lost; those before it are"
            " whole: free space or lower checkpoint.keep, then resume"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def say_damaged(path: Path, error: Exception, then: str) -> None:
    print(f"checkpoint {path} is damaged ({_first_line(error)}); {then}", file=sys.stderr, flush=True)
