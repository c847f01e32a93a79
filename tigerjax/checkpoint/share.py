"""One process's share of a training state: what a run keeps on the disks of its hosts, beside its checkpoints.

    NAME.bin     the bytes of the process's parts of all arrays, one after the other, each at a multiple of ALIGNED
    NAME.json    what meta.json says of a checkpoint, with `files` and `xxh3` of NAME.bin

NAME is a hash of which parts of which arrays these are. So a process finds the share that it needs by its name, whoever
wrote it, and a share for another mesh has another name. Processes that hold the same parts have the same share.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xxhash

from tigerjax.checkpoint import meta as metas
from tigerjax.checkpoint.files import check_bytes
from tigerjax.files import digests, manifest, paths

ALIGNED = 64  # bytes
Bounds = tuple[tuple[int, int], ...]
"""Where a part lies in its array: (start, stop) along each dimension."""


class Layout(NamedTuple):
    """Which parts of which arrays a process holds, and where they lie in its share."""

    name: str
    at: dict[tuple[str, Bounds], int]
    """Where a part of the array of this name begins."""
    bytes: int


def layout(tree: Any) -> Layout:
    """The share of this process in a tree of arrays, or of their shapes, dtypes and shardings. A part that several of
    its devices hold is stored once."""
    described, at, end = [], dict[tuple[str, Bounds], int](), 0
    for name, leaf in _named(tree):
        cuts = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
        indices = sorted({_index(cut, leaf.shape) for cut in cuts})
        described.append([name, str(leaf.dtype), list(leaf.shape), indices])
        for index in indices:
            at[name, index] = end
            size = np.dtype(leaf.dtype).itemsize * int(np.prod([stop - start for start, stop in index], dtype=int))
            end += -(-size // ALIGNED) * ALIGNED
    return Layout(xxhash.xxh3_128_hexdigest(manifest.canonical(described)), at, end)


def copy(tree: Any, layout: Layout, into: np.ndarray) -> None:
    """Copies this process's parts of a tree of arrays into the bytes `into`. The arrays may be donated or changed
    afterwards."""
    for _, leaf in _named(tree):
        for shard in leaf.addressable_shards:
            shard.data.copy_to_host_async()
    copied = set()
    for name, leaf in _named(tree):
        for shard in leaf.addressable_shards:
            key = name, _index(shard.index, leaf.shape)
            if key not in copied:
                copied.add(key)
                part = np.asarray(shard.data).reshape(-1).view(np.uint8)
                into[layout.at[key] : layout.at[key] + len(part)] = part


def files(name: str) -> tuple[str, str]:
    """The files of a share. The second one is written last: where it is there, both are complete."""
    return f"{name}.bin", f"{name}.json"


def write(folder: Path, layout: Layout, data: np.ndarray, meta: dict[str, Any]) -> None:
    """Writes a share into `folder`. `meta` is that of `make_meta`, with the step."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays, described = (folder / name for name in files(layout.name))
    with paths.writing(arrays) as file:
        file.write(data.data)
    with digests.threads(folder) as pool:
        sum_of_all = digests.xxh3(arrays, layout.bytes, pool, lambda _: None)()
    metas.write(described, meta | {"files": {arrays.name: layout.bytes}, "xxh3": {arrays.name: sum_of_all}})


def checked(folder: Path, name: str) -> dict[str, Any]:
    """The meta of a share. DataError where a file is absent or has other bytes than were written."""
    meta = metas.read(folder / files(name)[1])
    check_bytes(folder, meta, ())
    return meta


def read(folder: Path, layout: Layout, tree: Any) -> Any:
    """The arrays of the shapes, dtypes and shardings in `tree`, of which every process reads its share."""
    with open(folder / files(layout.name)[0], "rb") as file:

        def array(name: str, leaf: Any) -> jax.Array:
            def part(cut: tuple[slice, ...] | None) -> np.ndarray:
                index = _index(cut, leaf.shape)
                shape = [stop - start for start, stop in index]
                file.seek(layout.at[name, index])
                return np.fromfile(file, leaf.dtype, int(np.prod(shape, dtype=int))).reshape(shape)

            return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)

        leaves = [array(name, leaf) for name, leaf in _named(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _index(cut: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Bounds:
    """A part's place, whatever form JAX gives it in."""
    whole = tuple(slice(None) for _ in shape)
    return tuple((part.indices(size)[:2]) for part, size in zip(cut or whole, shape, strict=True))
