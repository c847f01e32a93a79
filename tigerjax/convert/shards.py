"""Sharded safetensors, written from front to back. Every shape is known before, so a file's header can come first.

A file is 8 bytes of length (little endian), that many bytes of JSON {name: {dtype, shape, data_offsets}}, then the
tensors' bytes in C order (https://github.com/huggingface/safetensors, format).
"""

import json
import math
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from tigerjax.convert.tensors import INDEX, SINGLE
from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.files.manifest import write_json

Written = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
TAGS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
ALIGN = 8  # the header is filled with spaces so that the data begin at a multiple of this


def in_type(block: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """The rows of a tensor in the type that is written. DataError for NaN and infinity, and for values that the type
    cannot hold."""
    block = np.asarray(block, np.float32)
    finite(block, name)
    limit = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    largest = max(float(block.max()), -float(block.min()))
    if largest > limit:
        raise DataError(
            f"{name}: {int((np.abs(block) > limit).sum())} of {block.size} values are beyond {limit:g}, the largest"
            f" {dtype}; the largest is {largest:g}. Export float32 or bfloat16"
        )
    return np.ascontiguousarray(block, DTYPES[dtype])


def finite(block: np.ndarray, where: str) -> None:
    """DataError when a block holds NaN or infinity."""
    if not np.isfinite(block).all():
        raise DataError(f"{where} holds a value that is not finite; convert another or an earlier checkpoint")


class TensorBytes(NamedTuple):
    """Where the bytes of a tensor lie."""

    file: str
    offset: int  # in the file
    nbytes: int


class Shards:
    """The files of an export in `folder`: `write` the blocks of every tensor in the order of `shapes`.

    A file that goes into a bucket is written to a temporary folder of the disk, and uploaded when it is whole."""

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str, max_bytes: int):
        """At most max_bytes of tensors a file, but one tensor at least."""
        self.folder, self.dtype = folder, dtype
        self.total = 0
        size = np.dtype(DTYPES[dtype]).itemsize
        groups: list[dict[str, int]] = [{}]
        for name, shape in shapes.items():
            nbytes = math.prod(shape) * size
            if groups[-1] and sum(groups[-1].values()) + nbytes > max_bytes:
                groups.append({})
            groups[-1][name] = nbytes
            self.total += nbytes
        self.places: dict[str, TensorBytes] = {}
        self._headers: dict[str, bytes] = {}
        for n, group in enumerate(groups, 1):
            file = SINGLE if len(groups) == 1 else f"model-{n:05d}-of-{len(groups):05d}.safetensors"
            header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
            at = 0
            for name, nbytes in group.items():
                offsets = [at, at + nbytes]
                header[name] = {"dtype": TAGS[dtype], "shape": list(shapes[name]), "data_offsets": offsets}
                at += nbytes
            text = json.dumps(header, separators=(",", ":")).encode()
            text += b" " * (-len(text) % ALIGN)
            self._headers[file] = struct.pack("<Q", len(text)) + text
            for name, nbytes in group.items():
                self.places[name] = TensorBytes(file, header[name]["data_offsets"][0] + 8 + len(text), nbytes)
        self._file: Any = None
        self._local = Path(tempfile.mkdtemp(prefix="tigerjax-")) if paths.on_bucket(folder) else folder

    def start(self, name: str) -> None:
        """Goes to the place of a tensor, which the next `write` begins. What was written from there on is cut off."""
        place = self.places[name]
        if self._file is None:
            path, header = self._local / place.file, self._headers[place.file]
            if not path.exists() or path.stat().st_size < len(header):
                path.write_bytes(header)
            self._file = open(path, "r+b", buffering=0)  # blocks are large, and a full disk then fails this write
            assert os.fstat(self._file.fileno()).st_size >= place.offset, (path, place)
        self._file.truncate(place.offset)
        self._file.seek(place.offset)

    def write(self, block: np.ndarray) -> None:
        """Writes the next rows. On return the operating system has them, so a process that dies loses none."""
        left = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        while left:
            left = left[self._file.write(left) :]

    def end(self, name: str) -> bool:
        """Ends a tensor. After the last one of a file: closes the file, uploads it if it goes into a bucket, returns
        True."""
        file = self.places[name].file
        if name != self._members(file)[-1]:
            return False
        self._file.close()
        self._file = None
        if self._local != self.folder:
            paths.upload(self._local, self.folder)
            (self._local / file).unlink()
        return True

    def written(self, done: dict[str, str]) -> dict[str, str]:
        """The tensors of the journal's `done` whose bytes are really there. In a bucket a file is there with all of its
        tensors, or not at all."""
        sizes = paths.sizes(self.folder)

        def there(name: str) -> bool:
            members = self._members(self.places[name].file) if self._local != self.folder else [name]
            last = self.places[members[-1]]
            return set(members) <= set(done) and sizes.get(last.file, 0) >= last.offset + last.nbytes

        return {name: sha256 for name, sha256 in done.items() if there(name)}

    def finish(self) -> None:
        """Checks every length and writes the index where there are several files."""
        sizes = paths.sizes(self.folder)
        for file in self._headers:
            last = self.places[self._members(file)[-1]]
            assert sizes[file] == last.offset + last.nbytes, (file, sizes[file], last)
        if len(self._headers) > 1:
            where = {name: place.file for name, place in self.places.items()}
            write_json(self.folder / INDEX, {"metadata": {"total_size": self.total}, "weight_map": where})

    def close(self) -> None:
        """Closes the open file, and drops one that has not been uploaded."""
        if self._file is not None:
            self._file.close()
        if self._local != self.folder:
            shutil.rmtree(self._local)

    def _members(self, file: str) -> list[str]:
        """The tensors of a file, in order."""
        return [name for name, place in self.places.items() if place.file == file]
