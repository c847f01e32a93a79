"""Checkpoints on disk: Orbax arrays and one JSON file beside them.

    RUN/checkpoints/1200/            one step; a folder whose name is a number is complete
        weights/                     Orbax (OCDBT) pytree, layers stacked whatever the mesh was
        opt_state/                   the same; absent in a weights-only checkpoint
        meta.json                    its own sha256, kind, model, tokenizer_sha256, step, config, loader state,
                                     extra, files, sha256, xxh3

A run that trains adapters, or keeps frozen weights in a narrow type, stores only what it trains, and meta.json says in
`base` which checkpoint the rest is in: see `tigerjax.checkpoint.partial`. Whatever reads a model reads both.

A checkpoint is there whole or not at all. On a disk a step is written as `1200.partial` and renamed when everything is
written. In a bucket it is written as `1200`, and counts as there once its meta.json is. `files` holds the size of every
file, so a file that was cut short afterwards is noticed without being read. `sha256` and `xxh3` hold each file's
checksums: the first says what the file holds, the second is what a restore checks (`tigerjax.files.digests`).
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tigerjax.checkpoint import meta as metas
from tigerjax.checkpoint.files import (
    META,
    building,
    check_bytes,
    checksums,
    first_line,
    make_room,
    one_line_errors,
    open_newest,
    publish,
    read_meta,
)
from tigerjax.checkpoint.finite import refuse_not_finite
from tigerjax.checkpoint.partial import completed
from tigerjax.config import ModelConfig, stored_fields
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.files.folders import refuse_strangers
from tigerjax.model import families
from tigerjax.model.reward import VALUE
from tigerjax.processes import hosts


class Model(NamedTuple):
    """Weights and what is needed to use them."""

    config: ModelConfig
    weights: Any  # nested dict of float32 numpy arrays
    kind: str  # of the family's language or reward model: see `families.of_kind`
    tokenizer_sha256: str | None
    step: int
    sha256: str  # of the config and the weights' names, shapes and values: the same wherever they are stored
    extra: dict[str, Any]
    run_config: list[str]  # `config.dump` of the run that trained it; empty for an import


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
    """The content of meta.json without `step`, `files` and checksums. `config` is `tigerjax.config.dump` of the run."""
    return {
        "kind": kind,
        "model": stored_fields(model),
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
    kind: str | None = None,
    tokenizer_sha256: str | None = None,
    step: int = 0,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes a checkpoint folder with weights only, whole or not at all. Replaces a checkpoint, refuses other folders.

    `kind` None is the language model of the config's family. Several processes call it together, as they call
    `Checkpointer.save`, with the same arrays or with their parts of them.
    """
    path = paths.absolute(path)
    refuse_not_finite(dict(weights), f"{path}: the weights are not saved")
    partial = claim(path)
    with one_line_errors(partial, path.parent):
        if hosts.is_writer():
            path.parent.mkdir(parents=True, exist_ok=True)
            make_room(partial)
        hosts.barrier("folder of a model is clean")
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(weights=handler())) as orbax:
            orbax.save(partial, args=ocp.args.Composite(weights=save_args(dict(weights))))
        kind = kind or families.of(config).KIND
        meta = make_meta(kind=kind, model=config, tokenizer_sha256=tokenizer_sha256, extra=extra)
        publish_together(partial, path, meta | {"step": step})
        hosts.barrier("model published")


def publish_together(partial: Path, final: Path, meta: dict[str, Any]) -> None:
    """`publish` for several processes: each takes the checksums of its share of the files, and one host publishes."""
    mine = checksums(partial, part=jax.process_index(), parts=jax.process_count())
    parts = hosts.share("checksums of a checkpoint", mine)
    if hosts.is_writer():
        publish(partial, final, meta, {name: sums for part in parts for name, sums in part.items()})


def load_model(path: str | Path) -> Model:
    """A model with its weights as numpy arrays, from a run, its checkpoints/ or one step. The optimiser's state is not
    read.

    Of several steps it is the newest whole one. Damaged ones are named on stderr; DataError when none is whole.
    """
    return open_newest(paths.absolute(path), _load)


def model_of(path: Path, meta: dict[str, Any]) -> ModelConfig:
    """The sizes that a checkpoint's meta.json tells. DataError when they cannot be those of a model of its kind."""
    families.of_kind(meta["kind"])  # a kind that is not known here is no damage: another version may know it
    try:
        return families.model_config(meta["kind"], meta["model"])
    except ConfigError as error:
        raise DataError(f"{path / META}: {error}") from error


def without_value_head(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights without PPO's value head, which only the run that trains it reads."""
    return {name: weight for name, weight in weights.items() if name != VALUE}


def content_sha256(weights: Any, config: ModelConfig) -> str:
    """The sha256 of the model config and of every weight's name, dtype, shape and bytes, in the order of names.

    Stored weights are read a chunk of rows (a layer) at a time."""
    total = hashlib.sha256(manifest.canonical(stored_fields(config)))
    named = {
        jax.tree_util.keystr(p, simple=True, separator="/"): w for p, w in jax.tree_util.tree_leaves_with_path(weights)
    }
    for name in sorted(named):
        array = named[name]
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        rows = getattr(array, "chunks", array.shape)[0]
        for at in range(0, array.shape[0], rows):
            part = array[at : min(at + rows, array.shape[0])]  # a stored array refuses a part that ends behind it
            total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _load(path: Path) -> Model:
    meta = read_meta(path)
    check_bytes(path, meta, ("weights",))
    try:
        # The handler alone: a Checkpointer would look for the files of its own checkpoints here, and warn.
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(path / "weights").tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        weights = handler.restore(path / "weights", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        handler.close()
    except Exception as error:  # as in restore: many types
        paths.not_damage(error)
        raise DataError(f"{path}: weights do not decode ({first_line(error)})") from error
    config, weights = model_of(path, meta), completed(path, meta, without_value_head(weights), _load)
    return Model(
        config,
        weights,
        meta["kind"],
        meta["tokenizer_sha256"],
        meta["step"],
        content_sha256(weights, config),
        meta["extra"],
        meta["config"],
    )


def handler() -> ocp.PyTreeCheckpointHandler:
    """What writes and reads one room of a checkpoint. It does not compress: of float32 weights that have been trained,
    zstd saves less than a tenth, and takes most of the time of a restore."""
    return ocp.PyTreeCheckpointHandler(use_compression=False)


def save_args(weights: Any) -> Any:
    """Orbax's arguments to save `weights` with each layer in chunks of its own, so that an export can read one layer
    without its neighbours."""

    def args(path: tuple[Any, ...], _: Any) -> ocp.SaveArgs:
        layered = any(getattr(key, "key", None) == "layers" for key in path)
        return ocp.SaveArgs(shard_axes=(0,) if layered else ())

    return ocp.args.PyTreeSave(weights, save_args=jax.tree_util.tree_map_with_path(args, weights))


def claim(path: Path) -> Path:
    """The folder in which to build the checkpoint `path`. ConfigError when `path` holds something else, or a file of
    the user beside the checkpoint's."""
    if paths.names(path):
        if not (path / META).exists():
            raise ConfigError(f"{path} holds something that is not a checkpoint; give another folder or empty it")
        with contextlib.suppress(DataError):  # a damaged one does not say what it consists of
            refuse_strangers(path, [META, *metas.read(path / META)["files"]], "the checkpoint there")
    return building(path)
