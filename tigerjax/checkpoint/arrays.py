"""Arrays of an Orbax checkpoint on disk or in a bucket, read and written a part at a time through TensorStore.

Orbax's own save and restore hold every array whole in memory. Its files are zarr arrays in one OCDBT database, each
named by its path, joined by '.'. Here Orbax is given arrays of one element, and writes the files that describe a
checkpoint; TensorStore then writes the real arrays, part by part.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from tigerjax.errors import Absent, DataError
from tigerjax.files import paths as places
from tigerjax.model.weights import get, paths, put

WEIGHTS, OPT_STATE = "weights", "opt_state"
KIND = b"/.zarray"
"""Name of what describes an array, behind the array's."""
AT_ONCE = 8  # arrays that are read and given to the devices at one time [our choice]
MEAN = "mean"
"""Name of the running mean of the weights in the state of an optimiser."""


class Stored:
    """One array on disk, with `shape`, `dtype` and parts of it by index. A write is on disk after `flush`."""

    def __init__(self, array: Any):
        self._array = array
        self._pending: Any = None
        self.shape = tuple(array.shape)
        self.dtype = np.dtype(array.dtype.numpy_dtype)
        self.chunks = tuple(array.chunk_layout.read_chunk.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self._array[index].read().result())

    def __setitem__(self, index: Any, block: np.ndarray) -> None:
        self.flush()  # only one write runs beside the next read, so memory stays at two blocks
        self._pending = self._array[index].write(block)

    def flush(self) -> None:
        """Waits for the last write; raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def open_arrays(step: Path) -> dict[str, Any]:
    """The weights of one checkpoint folder as a nested dict of Stored. DataError when an array does not open."""
    return _opened(step / WEIGHTS, lambda tree: ("", tree))


def open_mean(step: Path) -> dict[str, Any]:
    """The running mean of the weights in one checkpoint folder, as `open_arrays` gives the weights. Absent where
    the run kept none, DataError when an array does not open."""
    found = _opened(step / OPT_STATE, _mean_in) if (step / OPT_STATE).is_dir() else {}
    if not found:
        raise Absent(
            f"{step}: no running mean of the weights is saved here; give a run whose config has optim.ema_decay"
        )
    return found


def _mean_in(tree: Any, at: str = "") -> tuple[str, dict[str, Any]]:
    """(The path of the mean in a state with a dot behind it, its tree); ("", {}) where there is none."""
    for name, part in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if name == MEAN:
            return f"{at}{name}.", part
        if (found := _mean_in(part, f"{at}{name}."))[1]:
            return found
    return "", {}


def _opened(folder: Path, chosen: Callable[[Any], tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    try:
        handler = ocp.PyTreeCheckpointHandler()  # alone, as in checkpoint.model: a Checkpointer would warn
        at, tree = chosen(handler.metadata(folder).tree)
        handler.close()
        return _open(folder, tree, lambda path: {"open": True}, at)
    except Exception as error:  # Orbax and TensorStore raise many types for bytes that do not decode
        places.not_damage(error)
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{folder.parent}: weights do not open ({first})") from error


def restore(folder: Path, wanted: Any) -> Any:
    """A tree of arrays that Orbax saved in `folder`, with the shapes, types and shardings of `wanted`.

    TensorStore reads each shard of this host into the memory that the device then has. Orbax's own restore does more
    for each array, in Python, and takes twice as long. ValueError where the folder holds other arrays."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(wanted)
    plan = {".".join(map(_name, way)): leaf for way, leaf in leaves}
    context = _context()
    keys = ts.KvStore.open(_kvstore(folder), context=context).result().list().result()
    there = {key.removesuffix(KIND).decode() for key in keys if key.endswith(KIND)}
    if there != plan.keys():
        lacking, more = sorted(plan.keys() - there), sorted(there - plan.keys())
        raise ValueError(f"other arrays were saved: without {lacking[:3]}, with {more[:3]}")
    opened = {name: ts.open(_spec(folder, name) | {"open": True}, context=context) for name in plan}

    def read(name: str) -> jax.Array:
        leaf, array = plan[name], opened[name].result()
        if tuple(array.shape) != leaf.shape:
            raise ValueError(f"{name} has shape {tuple(array.shape)}, not {leaf.shape}")

        def part(index: Any) -> np.ndarray:
            return np.asarray(array[index].read().result()).astype(leaf.dtype, copy=False)

        return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="arrays") as pool:
        return jax.tree.unflatten(tree, pool.map(read, plan))


def _name(key: Any) -> str:
    """The name that Orbax gives to a key of a tree."""
    return str(next(getattr(key, kind) for kind in ("key", "name", "idx") if hasattr(key, kind)))


def create_arrays(step: Path, plan: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], dtype: Any) -> dict[str, Any]:
    """Makes an Orbax checkpoint folder with empty arrays, and returns them. `plan` is {path: (shape, chunks)}."""
    skeleton: dict[str, Any] = {}
    for path in plan:
        put(skeleton, path, np.zeros(1, np.float32))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(weights=ocp.StandardCheckpointHandler())) as orbax:
        orbax.save(step, args=ocp.args.Composite(weights=ocp.args.StandardSave(skeleton)))
    for data in ("d", "manifest.ocdbt", "ocdbt.process_0"):  # the data of the stand-ins
        place = step / WEIGHTS / data
        places.clear(place) if place.is_dir() else place.unlink(missing_ok=True)

    def new(path: str) -> dict[str, Any]:
        shape, chunks = plan[path]
        kind = np.dtype(dtype)
        metadata = {
            "shape": list(shape),
            "chunks": list(chunks),
            "dtype": "bfloat16" if kind.name == "bfloat16" else kind.str,
            "compressor": {"id": "zstd", "level": 1},  # as Orbax
        }
        return {"metadata": metadata, "create": True}

    return _open(step / WEIGHTS, skeleton, new)


def sync(folder: Path) -> None:
    """Returns when every file of the folder is on the disk and not only with the operating system. In a bucket there is
    nothing to wait for."""
    if places.on_bucket(folder):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _open(folder: Path, tree: dict[str, Any], more: Any, at: str = "") -> dict[str, Any]:
    """`tree` with the arrays of `folder`, whose names begin with `at`; `more` goes into the spec of each."""
    out: dict[str, Any] = {}
    context = _context()
    for path in paths(tree):
        spec = _spec(folder, at + path.replace("/", "."))
        put(out, path, Stored(ts.open(spec | more(path), context=context).result()))
    assert all(isinstance(get(out, path), Stored) for path in paths(out))
    return out


def _kvstore(folder: Path) -> dict[str, Any]:
    """The database of a room of a checkpoint, for TensorStore."""
    folder = places.absolute(folder)
    return {"driver": "ocdbt", "base": f"{folder}/" if places.on_bucket(folder) else f"file://{folder}/"}


def _spec(folder: Path, name: str) -> dict[str, Any]:
    """An array of that database."""
    kvstore = _kvstore(folder) | {"path": f"{name}/"}
    return {"driver": "zarr", "kvstore": kvstore, "store_data_equal_to_fill_value": True}


def _context() -> Any:
    """No cache, because a block is read once. No fsync after each chunk, which would take longer than writing it:
    `sync` does it once."""
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": False})
