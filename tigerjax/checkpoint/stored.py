"""Checkpoints whose weights stay on disk and are read a part at a time: for conversion, and to place them on a mesh.

The folders are those of `tigerjax.checkpoint.model`; the arrays are `tigerjax.checkpoint.arrays`'s.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax.checkpoint import arrays as store
from tigerjax.checkpoint.files import check_bytes, open_newest, read_meta
from tigerjax.checkpoint.model import Model, content_sha256, load_model, model_of, without_value_head
from tigerjax.checkpoint.partial import BASE, completed, replaced, with_bases
from tigerjax.config import ModelConfig
from tigerjax.errors import Absent, DataError
from tigerjax.files import manifest
from tigerjax.files import paths as places
from tigerjax.model import families
from tigerjax.model.weights import get, leaves, nested
from tigerjax.processes import hosts


class StoredModel(NamedTuple):
    """As Model, but its weights stay on disk and are read a part at a time."""

    config: ModelConfig
    weights: Any  # nested dict of tigerjax.checkpoint.arrays.Stored
    kind: str
    tokenizer_sha256: str | None
    step: int
    run_config: list[str]  # `config.dump` of the run that trained it; empty for an import
    extra: dict[str, Any]
    path: Path  # the checkpoint folder itself


def open_model(path: str | Path) -> StoredModel:
    """The checkpoint that `load_model` would read, opened with its weights left on disk.

    Only the length of every file is checked, not its bytes: see `open_whole`."""
    return open_newest(places.absolute(path), _open)


def _open(path: Path, mean: bool = False) -> StoredModel:
    meta = read_meta(path)
    return StoredModel(
        model_of(path, meta),
        without_value_head(_mean(path, meta) if mean else completed(path, meta, store.open_arrays(path), _open)),
        meta["kind"],
        meta["tokenizer_sha256"],
        meta["step"],
        meta["config"],
        meta["extra"],
        path,
    )


def _mean(path: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """The running mean of the weights. A run keeps that of what it trains; the others are as they are."""
    own = store.open_mean(path)
    return completed(path, meta, own, _open) if BASE in meta else replaced(store.open_arrays(path), own)


def open_whole(path: str | Path, *, mean: bool = False) -> StoredModel:
    """`open_model` with every byte checked. All hosts call it together, and each checks its share of the files.

    With `mean` the weights are their running mean; Absent where the run kept none."""
    return open_newest(places.absolute(path), functools.partial(_open_together, mean=mean))


def _open_together(path: Path, *, mean: bool) -> StoredModel:
    stored, trouble, absent, meta = None, None, False, {}
    try:
        stored, meta = _open(path, mean), read_meta(path)
        for at, of in with_bases(path, meta):
            rooms = (store.WEIGHTS, store.OPT_STATE) if mean and at == path else (store.WEIGHTS,)
            check_bytes(at, of, rooms, part=jax.process_index(), parts=jax.process_count())
    except DataError as error:
        trouble, absent = str(error), isinstance(error, Absent)
    if named := [t for t in hosts.share("troubles of a checkpoint", (trouble, absent)) if t[0] is not None]:
        text, absent = named[0]
        raise (Absent if absent else DataError)(text)
    assert stored is not None
    hosts.same("the checkpoint to read", [str(path), hashlib.sha256(manifest.canonical(meta)).hexdigest()])
    return stored


def placed_weights(
    stored: StoredModel,
    mesh: Mesh,
    dtype: str,
    *,
    wanted: Callable[[str], bool] = lambda path: True,
    held: Callable[[str, jax.Array], Any] = lambda path, w: w,
) -> Any:
    """The weights on `mesh` in `dtype`, sharded as in training. A host reads only its own share of each. The head of a
    reward model stays float32.

    Only the weights whose path is `wanted` are read; `held` is given each as soon as it is placed, and what it returns
    takes its place."""
    shardings = families.weight_shardings(stored.config, stored.kind, mesh)
    kind = jnp.dtype(dtype)
    return nested(
        (path, held(path, _placed(w, get(shardings, path), dtype=np.float32 if path == "score" else kind)))
        for path, w in leaves(stored.weights)
        if wanted(path)
    )


def load_placed(path: str | Path, mesh: Mesh | None, dtype: str) -> Model:
    """`load_model`, with the weights placed on `mesh` as by `placed_weights`. Without a mesh it is `load_model` itself.

    For the sha256 one host reads all weights, a layer at a time. DataError when no checkpoint is whole."""
    if mesh is None:
        return load_model(path)
    stored = open_whole(path)
    sha256 = content_sha256(stored.weights, stored.config) if hosts.is_writer() else ""
    return Model(
        stored.config,
        placed_weights(stored, mesh, dtype),
        stored.kind,
        stored.tokenizer_sha256,
        stored.step,
        hosts.share("sha256 of the weights", sha256)[0],
        stored.extra,
        stored.run_config,
    )


def _placed(stored: store.Stored, sharding: Any, *, dtype: Any) -> jax.Array:
    """One weight, read from disk onto the devices of this process. A part that several devices hold is read once."""
    read: dict[str, np.ndarray] = {}

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        if str(index) not in read:
            read.clear()  # JAX asks for equal parts one after the other; if it did not, a part would be read twice
            read[str(index)] = stored[index].astype(dtype)
        return read[str(index)]

    return jax.make_array_from_callback(stored.shape, sharding, part)
