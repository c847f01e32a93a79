"""The tensors of a Hugging Face folder, read some rows at a time: safetensors, or .bin files through torch.

A source has `shapes`, every tensor's shape by name, and `rows(name, start, stop)`, those rows as float32. The rows of a
tensor in a safetensors file (`shards` says what that is) are a range of its bytes: nothing else is read, nothing
mapped, and a bucket is asked for no more.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths

Array = np.ndarray
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TORCH_INDEX, TORCH_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}
LENGTH = 8  # bytes that say how long the header of a safetensors file is
MAX_HEADER = 100_000_000  # bytes, as the format's own library
LORA = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


class Source(Protocol):
    files: list[Path]
    shapes: dict[str, tuple[int, ...]]

    def rows(self, name: str, start: int, stop: int) -> Array: ...


class InMemory:
    """A dict of arrays as a source."""

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
        return np.frombuffer(data, placed.dtype).reshape(stop - start, *placed.shape[1:]).astype(np.float32, copy=False)


def _header(path: Path) -> dict[str, _Placed]:
    """Where the tensors of a file are; DataError unless they fill it exactly."""
    try:
        size = paths.size(path)
        length = int.from_bytes(paths.part(path, 0, LENGTH), "little") if size else 0
        if not 0 < length <= min(size - LENGTH, MAX_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(paths.part(path, LENGTH, LENGTH + length))
        header.pop("__metadata__", None)
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        paths.not_damage(error)
        raise DataError(f"{path}: not a whole safetensors file: {error}; download it again") from error
    return out


class TorchFiles:
    """One or several .bin files, read by torch.load(weights_only=True), which runs no code of theirs."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._home: dict[str, Path] = {}
        self._copies = {path: paths.fetched(path) for path in files}  # torch knows disks only
        for path in files:
            tensors = self._load(path)
            for name, tensor in tensors.items():
                if not hasattr(tensor, "dtype"):
                    raise DataError(f"{path}: {name} is no tensor; give the state dict of a model")
                if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
                    raise _quantised(path, name, str(tensor.dtype))
            _add({name: tuple(t.shape) for name, t in tensors.items()}, path, self.shapes, self._home)

    def rows(self, name: str, start: int, stop: int) -> Array:
        return self._load(self._home[name])[name][start:stop].float().numpy()

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            import torch
        except ImportError as error:
            raise ConfigError(
                f"{path}: a .bin file needs torch to be read, which is not installed; install it, or give safetensors"
            ) from error
        try:
            return torch.load(self._copies[path], map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # pickle, zip and torch errors of many types
            raise DataError(
                f"{path}: torch.load(weights_only=True) refuses it: {str(error).splitlines()[0]}"
            ) from error


class Tied:
    """A source whose head is its embedding (tie_word_embeddings)."""

    def __init__(self, source: Source):
        self._source, self.files = source, source.files
        self.shapes = source.shapes | {HEAD: source.shapes.get(EMBED, ())}

    def rows(self, name: str, start: int, stop: int) -> Array:
        return self._source.rows(EMBED if name == HEAD else name, start, stop)


class Grown:
    """A source whose embedding and head have more rows: new row n is the mean of the old rows sub_tokens[n]."""

    def __init__(self, source: Source, sub_tokens: list[list[int]]):
        self._source, self._sub_tokens, self.files = source, sub_tokens, source.files
        tables = [name for name in (EMBED, HEAD) if name in source.shapes]
        self.shapes = source.shapes | {n: (source.shapes[n][0] + len(sub_tokens), source.shapes[n][1]) for n in tables}
        self._table: tuple[str, Array] = ("", np.empty(0))  # the old table that new rows are being made of

    def rows(self, name: str, start: int, stop: int) -> Array:
        if name not in (EMBED, HEAD):
            return self._source.rows(name, start, stop)
        old, width = self._source.shapes[name]
        out_VD = np.zeros((stop - start, width), np.float32)
        if start < old:
            out_VD[: min(stop, old) - start] = self._source.rows(name, start, min(stop, old))
        if stop > old:
            if self._table[0] != name:
                self._table = (name, self._source.rows(name, 0, old))
            for n in range(max(start, old), stop):
                if ids := self._sub_tokens[n - old]:
                    out_VD[n - start] = self._table[1][ids].mean(axis=0, dtype=np.float32)
        return out_VD


def open_folder(folder: Path) -> Safetensors | TorchFiles:
    """The source of a model folder; safetensors before .bin. Refuses LoRA adapters by name."""
    for name in LORA:
        if (folder / name).is_file():
            raise ConfigError(
                f"{folder / name}: a LoRA adapter is not read; merge it into its base model (peft's merge_and_unload),"
                " save that, and convert the result"
            )
    files = _shards(folder, INDEX, SINGLE) or _shards(folder, TORCH_INDEX, TORCH_SINGLE)
    if not files:
        raise DataError(f"{folder / SINGLE}: not there; the folder needs its safetensors (or .bin) files, all of them")
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: not there; the folder needs its safetensors (or .bin) files, all of them")
    whole = files[0].suffix == ".safetensors"
    source: Safetensors | TorchFiles = Safetensors(files) if whole else TorchFiles(files)
    if lora := [name for name in source.shapes if "lora_" in name]:
        raise ConfigError(f"{folder}: holds LoRA tensors such as {min(lora)}; merge them into the base model first")
    return source


def _shards(folder: Path, index: str, single: str) -> list[Path]:
    if not (folder / index).is_file():
        return [folder / single] if (folder / single).is_file() else []
    try:
        where = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        return [folder / name for name in sorted(set(where.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / index}: not an index of shards ({type(error).__name__}: {error})") from error


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
