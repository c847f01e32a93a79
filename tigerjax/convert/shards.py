"""Sharded safetensors written front to back: every shape is known first, so a shard's header is too.

A file is 8 bytes of length (little endian), that many bytes of JSON {name: {dtype, shape, data_offsets}}, then the
tensors' bytes in C order (https://github.com/huggingface/safetensors, format).
"""

import json
import math
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tigerjax.convert.tensors import INDEX, SINGLE
from tigerjax.manifest import write_json

DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
TAGS = {"float32": "F32", "bfloat16": "BF16"}
ALIGN = 8  # the header is filled with spaces so that the data begin at a multiple of this


class Place(NamedTuple):
    """Where the bytes of a tensor lie."""

    file: str
    offset: int  # in the file
    nbytes: int


class Shards:
    """The files of an export in `folder`: `write` the blocks of every tensor in the order of `shapes`."""

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str, max_bytes: int):
        """At most max_bytes of tensors a file, but one tensor at least."""
        self.folder = folder
        self.total = 0
        size = np.dtype(DTYPES[dtype]).itemsize
        groups: list[dict[str, int]] = [{}]
        for name, shape in shapes.items():
            nbytes = math.prod(shape) * size
            if groups[-1] and sum(groups[-1].values()) + nbytes > max_bytes:
                groups.append({})
            groups[-1][name] = nbytes
            self.total += nbytes
        self.places: dict[str, Place] = {}
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
                self.places[name] = Place(file, header[name]["data_offsets"][0] + 8 + len(text), nbytes)
        self._file: Any = None

    def start(self, name: str) -> None:
        """The next `write` begins this tensor; what an interrupted run left of it and after it is cut off."""
        place = self.places[name]
        path = self.folder / place.file
        if self._file is None or Path(self._file.name) != path:
            self.close()
            if not path.exists():
                path.write_bytes(self._headers[place.file])
            self._file = open(path, "r+b", buffering=0)  # blocks are large; a full disk is then said at the write
        self._file.truncate(place.offset)
        self._file.seek(place.offset)

    def write(self, block: np.ndarray) -> None:
        """The next rows; handed to the system on return, so that a process that dies loses nothing of them."""
        left = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        while left:
            left = left[self._file.write(left) :]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> None:
        """Closes the last file, checks every length and writes the index where there are several files."""
        self.close()
        for file in self._headers:
            last = max((p for p in self.places.values() if p.file == file), key=lambda p: p.offset)
            have = (self.folder / file).stat().st_size
            assert have == last.offset + last.nbytes, (file, have, last)
        if len(self._headers) > 1:
            where = {name: place.file for name, place in self.places.items()}
            write_json(self.folder / INDEX, {"metadata": {"total_size": self.total}, "weight_map": where})


def unfinished(folder: Path, done: set[str], places: dict[str, Place]) -> bool:
    """Whether a tensor that is said to be written is not all there."""
    sizes = {p.name: os.stat(p).st_size for p in folder.glob("*.safetensors")}
    return any(sizes.get(places[n].file, 0) < places[n].offset + places[n].nbytes for n in done)
