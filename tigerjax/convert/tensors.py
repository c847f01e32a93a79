"""The tensors of a Hugging Face folder, read some rows at a time: safetensors, or .bin files through torch.

A source has `shapes`, every tensor's shape by name, and `rows(name, start, stop)`, those rows as float32. Files are
opened for one read and closed again: pages of a mapped file count as this process's memory for as long as it is open.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from tigerjax.errors import ConfigError, DataError

Array = np.ndarray
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TORCH_INDEX, TORCH_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FLOATS = ("F64", "F32", "F16", "BF16")
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


class Safetensors:
    """One or several safetensors files."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._home: dict[str, Path] = {}
        for path in files:
            try:
                with safe_open(path, framework="np") as file:
                    slices = {name: file.get_slice(name) for name in file.keys()}
            except (SafetensorError, OSError) as error:
                raise DataError(f"{path}: not a whole safetensors file: {error}; download it again") from error
            for name, part in slices.items():
                if part.get_dtype() not in FLOATS:
                    raise _quantised(path, name, part.get_dtype())
            found = {name: tuple(part.get_shape()) for name, part in slices.items()}
            _add(found, path, self.shapes, self._home)

    def rows(self, name: str, start: int, stop: int) -> Array:
        with safe_open(self._home[name], framework="np") as file:
            return np.asarray(file.get_slice(name)[start:stop], np.float32)


class TorchFiles:
    """One or several .bin files, read by torch.load(weights_only=True), which runs no code of theirs."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._home: dict[str, Path] = {}
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

    @staticmethod
    def _load(path: Path) -> dict[str, Any]:
        try:
            import torch
        except ImportError as error:
            raise ConfigError(
                f"{path}: a .bin file needs torch to be read, which is not installed; install it, or give safetensors"
            ) from error
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
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
