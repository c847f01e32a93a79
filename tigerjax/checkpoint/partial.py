"""Checkpoints that hold only what a run trained, and the base that the other weights are in.

meta.json of such a checkpoint has `base`: {path, relative, sha256, lora, entries}. `path` and `relative` lead to the
base's own checkpoint folder, the second from this one. `sha256` is `identity` of the base, `lora` the settings of the
adapters, and `entries` the first entry of each embedding or head that was trained from some entry on.

Whatever reads a model gets the weights of both together: W + scale x A B for a matrix with an adapter, computed in
float32 for the part that is read.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.checkpoint.arrays import Stored
from tigerjax.checkpoint.files import META, read_meta
from tigerjax.config import LoraConfig
from tigerjax.errors import Absent, ConfigError, DataError
from tigerjax.files import manifest
from tigerjax.files import paths as places
from tigerjax.model import adapters, families
from tigerjax.model.selection import VOCABULARY_AXIS, Selection
from tigerjax.model.weights import MATRIX_INPUTS, MATRIX_PATHS, get, leaves, nested, put

BASE = "base"
FORMS: dict[str, Any] = {
    "path": str, "relative": str | None, "sha256": str, "lora": dict | None, "entries": dict,
}  # fmt: skip
"""What each part of the entry may be."""


class Adapted(Stored):
    """A matrix on disk with an adapter in it; parts are merged as they are read."""

    def __init__(self, base: Any, a: Any, b: Any, *, scale: float, inputs: int):
        self._base, self._a, self._b, self._scale, self._inputs = base, a, b, scale, inputs
        self.shape, self.dtype = tuple(base.shape), np.dtype(np.float32)
        self.chunks = getattr(base, "chunks", self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        cut, kept = _cut(index, self.shape)
        layer, into, out = cut[:1], cut[1 : 1 + self._inputs], cut[1 + self._inputs :]
        every = slice(None)
        a, b = self._a[(*layer, *into, every)], self._b[(*layer, every, *out)]
        added = adapters.delta(a, b, self._scale, self._inputs)
        return (np.asarray(self._base[tuple(cut)], np.float32) + added)[kept]


class Extended(Stored):
    """An embedding or a head on disk whose entries from `first` on stand in another array."""

    def __init__(self, base: Any, entries: Any, *, first: int, axis: int):
        self._base, self._entries, self._first, self._axis = base, entries, first, axis
        self.shape, self.dtype = tuple(base.shape), np.dtype(np.float32)
        self.chunks = getattr(base, "chunks", self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        cut, kept = _cut(index, self.shape)
        out = np.array(self._base[tuple(cut)], np.float32)
        begin, end = cut[self._axis].start, cut[self._axis].stop
        if end > (start := max(begin, self._first)):
            there, here = list(cut), [slice(None)] * len(cut)
            there[self._axis] = slice(start - self._first, end - self._first)
            here[self._axis] = slice(start - begin, end - begin)
            out[tuple(here)] = self._entries[tuple(there)]
        return out[kept]


def _cut(index: Any, shape: tuple[int, ...]) -> tuple[list[slice], tuple[Any, ...]]:
    """(a slice for each axis, what makes of the part that they cut out what `index` asks for)."""
    given = index if isinstance(index, tuple) else (index,)
    given = (*given, *[slice(None)] * (len(shape) - len(given)))
    cut: list[slice] = []
    kept: list[Any] = []
    for one, size in zip(given, shape, strict=True):
        if isinstance(one, slice):
            start, stop, step = one.indices(size)
            assert step == 1, index
            cut.append(slice(start, stop))
            kept.append(slice(None))
        else:
            cut.append(slice(int(one), int(one) + 1))
            kept.append(0)
    return cut, tuple(kept)


def identity(meta: dict[str, Any]) -> str:
    """A hash of the bytes of a checkpoint's weights and, where it has one, of its base: from meta.json alone.

    Raises ConfigError for a checkpoint of a version that wrote no checksums.
    """
    sums = {name: digest for name, digest in meta.get("sha256", {}).items() if name.startswith("weights/")}
    if not sums:
        raise ConfigError(
            "the checkpoint to start from was written by an older version, without checksums, and adapters must know"
            " their base; convert it to a Hugging Face folder and back"
        )
    base = meta.get(BASE) and meta[BASE]["sha256"]
    return hashlib.sha256(manifest.canonical([meta["kind"], meta["model"], sums, base])).hexdigest()


def entry(selection: Selection, base: Path, checkpoints: Path) -> dict[str, Any]:
    """What meta.json of a checkpoint in the folder `checkpoints` says of its base, the checkpoint folder `base`."""
    relative = None
    if not (places.on_bucket(base) or places.on_bucket(checkpoints)):
        relative = os.path.relpath(base, checkpoints / "0")
    lora = dataclasses.asdict(selection.lora) if selection.lora.rank else None
    if lora is not None:
        lora["targets"] = list(lora["targets"])
    return {
        "path": str(base),
        "relative": relative,
        "sha256": identity(read_meta(base)),
        "lora": lora,
        "entries": {path: first for path, first in selection.first.items() if first},
    }


def lora_of(meta: dict[str, Any]) -> LoraConfig:
    """The settings of the adapters of a checkpoint, of rank 0 where it has none."""
    stored = (meta.get(BASE) or {}).get("lora")
    return LoraConfig(**(stored | {"targets": tuple(stored["targets"])})) if stored else LoraConfig()


def base_of(path: Path, meta: dict[str, Any]) -> Path | None:
    """The folder of the base of the checkpoint `path`; None for a checkpoint that is whole by itself.

    Raises Absent where it is not there or holds another model.
    """
    if (base := meta.get(BASE)) is None:
        return None
    if wrong := [name for name, kinds in FORMS.items() if not isinstance(base.get(name), kinds)]:
        value = str(base.get(wrong[0]))[:60]
        raise DataError(f"{path / META}: base.{wrong[0]} is {value!r}; copy the checkpoint again")
    tried = [Path(base["path"]) if not places.on_bucket(base["path"]) else places.of(base["path"])]
    if base["relative"] is not None:
        tried.append(Path(os.path.normpath(path / base["relative"])))
    for place in tried:
        if (place / META).exists():
            if identity(read_meta(place)) != base["sha256"]:
                raise Absent(
                    f"{path}: was trained beside the weights of {place}, which are others now; put the checkpoint back"
                    " that the run started from"
                )
            return place
    raise Absent(
        f"{path}: holds only what was trained, and the other weights are not at {base['path']}; put that checkpoint"
        " back, or copy it there"
    )


def with_bases(path: Path, meta: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, meta.json) of a checkpoint, of its base, of the base of that, and so on."""
    yield path, meta
    while (base := base_of(path, meta)) is not None:
        path, meta = base, read_meta(base)
        yield path, meta


def completed(path: Path, meta: dict[str, Any], own: dict[str, Any], read: Callable[[Path], Any]) -> dict[str, Any]:
    """All weights of the checkpoint `path`, whose own arrays are `own`. `read` opens its base, whose arrays are of the
    same type: numpy's, or stored ones.

    The tree itself where the checkpoint is whole."""
    base_path = base_of(path, meta)
    if base_path is None:
        return own
    base, said = read(base_path), meta[BASE]
    lora = lora_of(meta)
    # A reward model that starts from a language model has its own head.
    apart = {"head"} if families.is_reward(meta["kind"]) else set()
    whole = nested((name, w) for name, w in leaves(base.weights) if name not in apart)
    of_adapters = set(adapters.paths(lora))
    for name, array in leaves(own):
        if name not in of_adapters:
            first = said["entries"].get(name)
            if first is not None:
                array = _like(array, Extended(get(whole, name), array, first=first, axis=VOCABULARY_AXIS[name]))
            put(whole, name, array)
    for target in lora.targets if lora.rank else ():
        name = MATRIX_PATHS[target]
        a, b = get(own, name + adapters.A), get(own, name + adapters.B)
        merged = Adapted(get(whole, name), a, b, scale=lora.scale, inputs=MATRIX_INPUTS[target])
        put(whole, name, _like(a, merged))
    return whole


def replaced(weights: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A tree of stored weights in which those of the tree `own` take the place of theirs; of an embedding or a head,
    `own` may have the last entries alone."""

    def one(path: str, array: Stored) -> Stored:
        whole = get(weights, path)
        if array.shape == whole.shape:
            return array
        axis = VOCABULARY_AXIS[path]
        return Extended(whole, array, first=whole.shape[axis] - array.shape[axis], axis=axis)

    return nested([*leaves(weights), *((path, one(path, array)) for path, array in leaves(own))])


def _like(own: Any, merged: Stored) -> Any:
    """`merged` as it is beside stored arrays, read whole beside numpy's."""
    return merged if isinstance(own, Stored) else merged[:]
