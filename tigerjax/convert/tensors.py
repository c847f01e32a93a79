"""The tensors of a Hugging Face folder, read some rows at a time: safetensors, or .bin files through torch.

The rows of a tensor in a safetensors file are a range of its bytes (the format is described in `shards`). So reading
some rows reads that range and nothing else, from a disk or from a bucket; no file is mapped into memory.
"""

import fnmatch
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.files.foreign import loads, read_object, shown

Array = np.ndarray
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TORCH_INDEX, TORCH_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
SHARDS = {"*-of-*.safetensors": INDEX, "*-of-*.bin": TORCH_INDEX}
"""What shards are called, and what names them."""
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}
LENGTH = 8  # bytes that say how long the header of a safetensors file is
MAX_HEADER = 100_000_000  # bytes, as the format's own library
LFS = b"version https://git-lfs"  # how the file begins that Git leaves in place of a large one
MAX_AXES = 8
MAX_NAME = 500  # characters


class Tensors(Protocol):
    """Named tensors that are read by rows."""

    files: list[Path]
    """The files that they come from."""
    shapes: dict[str, tuple[int, ...]]

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows start:stop of a tensor, as float32."""


class InMemory:
    """Tensors of a dict of arrays."""

    def __init__(self, tensors: dict[str, Array]):
        self.files: list[Path] = []
        self._tensors = tensors
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def rows(self, name: str, start: int, stop: int) -> Array:
        return np.asarray(self._tensors[name][start:stop], np.float32)


class _Placed(NamedTuple):
    """A tensor of a safetensors file."""

    path: Path
    offset: int  # of its bytes in the file
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def part(self, start: int, stop: int) -> tuple[int, int]:
        """[first, last) byte of rows start:stop."""
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        return self.offset + start * row, self.offset + stop * row


class Safetensors:
    """One or several safetensors files."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, _Placed] = {}
        home: dict[str, Path] = {}
        for path in files:
            found = _header(path)
            _add({name: placed.shape for name, placed in found.items()}, path, self.shapes, home)
            self._places |= found

    def rows(self, name: str, start: int, stop: int) -> Array:
        placed = self._places[name]
        first, last = placed.part(start, stop)
        data = paths.part(placed.path, first, last)
        if len(data) != last - first:
            raise DataError(f"{placed.path}: {name} ends early; download it again")
        read = np.frombuffer(data, placed.dtype).reshape(stop - start, *placed.shape[1:])
        # A float64 that float32 cannot hold becomes infinite, which callers refuse.
        with np.errstate(over="ignore"):
            return read.astype(np.float32, copy=False)


def _header(path: Path) -> dict[str, _Placed]:
    """Where each tensor of a file lies. DataError unless the tensors fill the file exactly.

    The types of all fields are checked first: the header is JSON, and JSON has floats, nulls and lists in lists.
    """
    try:
        size = paths.size(path)
        if paths.part(path, 0, min(size, len(LFS))) == LFS:
            raise ValueError("it is Git's pointer to the file, and the file itself was not fetched (git lfs pull)")
        length = int.from_bytes(paths.part(path, 0, LENGTH), "little") if size else 0
        if not 0 < length <= min(size - LENGTH, MAX_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = loads(paths.part(path, LENGTH, LENGTH + length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        header.pop("__metadata__", None)
        for name, entry in header.items():
            _check_entry(name, entry)
        out: dict[str, _Placed] = {}
        ends = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] not in FLOATS:
                raise _quantised(path, name, entry["dtype"])
            begin, end = entry["data_offsets"]
            placed = _Placed(path, LENGTH + length + begin, np.dtype(FLOATS[entry["dtype"]]), tuple(entry["shape"]))
            if begin != ends or end - begin != placed.dtype.itemsize * math.prod(placed.shape):
                raise ValueError(f"{name} is said to be bytes {begin} to {end}")
            out[name], ends = placed, end
        if LENGTH + length + ends != size:
            raise ValueError(f"{LENGTH + length + ends} bytes are needed, {size} are there")
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        paths.not_damage(error)
        raise DataError(f"{path}: not a whole safetensors file: {error}; download it again") from error
    return out


def _check_entry(name: str, entry: Any) -> None:
    """ValueError unless a tensor's entry of the header has the types of the format."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63

    fields = entry if isinstance(entry, dict) else {}
    shape, offsets = fields.get("shape"), fields.get("data_offsets")
    if not name.isprintable() or len(name) > MAX_NAME:
        raise ValueError(f"a tensor is named {shown(name)}")
    if not isinstance(fields.get("dtype"), str) or not fields["dtype"].replace("_", "").isalnum():
        raise ValueError(f"{name} has dtype {shown(fields.get('dtype'))}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(map(whole, shape)):
        raise ValueError(f"{name} has shape {shown(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(whole, offsets)):
        raise ValueError(f"{name} has data_offsets {shown(offsets)}")


class TorchFiles:
    """One or several .bin files, read by torch.load(weights_only=True), which runs no code of theirs."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._home: dict[str, Path] = {}
        self._copies = {path: paths.fetched(path) for path in files}  # torch knows disks only
        for path in files:
            _add(float_shapes(path, self._load(path)), path, self.shapes, self._home)

    def rows(self, name: str, start: int, stop: int) -> Array:
        return self._load(self._home[name])[name][start:stop].float().numpy()

    def _load(self, path: Path) -> Any:
        return load_torch(path, self._copies[path])


def load_torch(path: Path, copy: Path) -> Any:
    """What the file `path` holds, read from `copy` on a disk. Its tensors are mapped, and no code of it runs.

    Raises ConfigError where torch is not installed, DataError for a file that is damaged or would run code.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"{path}: needs torch to be read, which is not installed; install it, or give safetensors"
        ) from error
    try:
        return torch.load(copy, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip and torch errors of many types
        why = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise DataError(f"{path}: torch.load(weights_only=True) refuses it: {why}") from error


def float_shapes(path: Path, tensors: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that torch has read from `path`. DataError where it is no dict of tensors; ConfigError
    for quantised ones."""
    if not isinstance(tensors, dict):
        raise DataError(f"{path}: holds a {type(tensors).__name__}; give the state dict of a model")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name.isprintable():
            raise DataError(f"{path}: a tensor is named {shown(name)}; give the state dict of a model")
        if not hasattr(tensor, "dtype"):
            raise DataError(f"{path}: {name} is no tensor; give the state dict of a model")
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
            raise _quantised(path, name, str(tensor.dtype))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class Without:
    """The same tensors, but for one: a tied head that was saved beside the embedding it equals."""

    def __init__(self, tensors: Tensors, name: str):
        self.rows, self.files = tensors.rows, tensors.files
        self.shapes = {other: shape for other, shape in tensors.shapes.items() if other != name}


class Grown:
    """The same tensors, with other rows in those named `grown` (embedding and head). The first `kept` rows stay. Row n
    after them is the mean of the old rows sub_tokens[n]."""

    def __init__(self, tensors: Tensors, sub_tokens: list[list[int]], *, kept: int, grown: Collection[str]):
        self._tensors, self._sub_tokens, self._kept, self._grown = tensors, sub_tokens, kept, grown
        self.files, old = tensors.files, tensors.shapes
        self.shapes = old | {name: (kept + len(sub_tokens), old[name][1]) for name in grown}
        self._table: tuple[str, Array] = ("", np.empty(0))  # the old table that new rows are being made of

    def rows(self, name: str, start: int, stop: int) -> Array:
        if name not in self._grown:
            return self._tensors.rows(name, start, stop)
        (old, width), kept = self._tensors.shapes[name], self._kept
        out_VD = np.zeros((stop - start, width), np.float32)
        if start < kept:
            out_VD[: min(stop, kept) - start] = self._tensors.rows(name, start, min(stop, kept))
        if stop > kept:
            if self._table[0] != name:
                self._table = (name, self._tensors.rows(name, 0, old))
            for n in range(max(start, kept), stop):
                if ids := self._sub_tokens[n - kept]:
                    out_VD[n - start] = self._table[1][ids].mean(axis=0, dtype=np.float32)
        return out_VD


def open_folder(folder: Path) -> Safetensors | TorchFiles:
    """The tensors of a model folder. Safetensors are preferred to .bin files.

    Raises DataError where a file of weights is missing, ConfigError for LoRA tensors that are not merged.
    """
    files = _shards(folder, INDEX, SINGLE) or _shards(folder, TORCH_INDEX, TORCH_SINGLE)
    if not files:
        for shards, index in SHARDS.items():
            if found := sorted(fnmatch.filter(paths.names(folder), shards)):
                raise DataError(f"{folder / index}: not there, but {found[0]} is; copy all of the model's files")
        raise DataError(f"{folder / SINGLE}: not there; the folder needs its safetensors (or .bin) files, all of them")
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: not there; the folder needs its safetensors (or .bin) files, all of them")
    whole = files[0].suffix == ".safetensors"
    tensors: Safetensors | TorchFiles = Safetensors(files) if whole else TorchFiles(files)
    if lora := [name for name in tensors.shapes if "lora_" in name]:
        raise ConfigError(f"{folder}: holds LoRA tensors such as {min(lora)}; merge them into the base model first")
    return tensors


def _shards(folder: Path, index: str, single: str) -> list[Path]:
    if not (folder / index).is_file():
        return [folder / single] if (folder / single).is_file() else []
    path = folder / index
    where = read_object(path, "download it again").get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) and name for name in where.values()) or not where:
        raise DataError(
            f"{path}: not an index of shards: weight_map must name a file for each tensor; download it again"
        )
    if outside := [
        name for name in where.values() if Path(name).name != name or name == ".." or not name.isprintable()
    ]:
        raise DataError(f"{path}: names {shown(outside[0])}, which is not a file of this folder; download it again")
    return [folder / name for name in sorted(set(where.values()))]


def _add(
    found: dict[str, tuple[int, ...]], path: Path, shapes: dict[str, tuple[int, ...]], home: dict[str, Path]
) -> None:
    for name, shape in found.items():
        if name in home:
            raise DataError(f"{path}: {name} is in another shard too; remove one of them")
        home[name], shapes[name] = path, shape


def _quantised(path: Path, name: str, dtype: str) -> ConfigError:
    return ConfigError(
        f"{path}: {name} is {dtype}: a quantised checkpoint is not read, as its scales are not; convert the original"
    )
