"""Files that are compressed as the end of their name says: .zst, .gz or .xz. Those that are written here end in .zst.

A compressed file that was cut short, by a copy that failed or a disk that was full, is a DataError here. The usual
readers differ in this: zstandard's stream reader takes a cut file for a shorter one and says nothing.
"""

import contextlib
import io
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tigerjax.errors import DataError
from tigerjax.files import paths

NAMES = {".zst": "zstandard", ".gz": "gzip", ".xz": "xz"}
MAGIC = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"\x28\xb5\x2f\xfd": ("zstandard", ".zst"),
    b"\xfd7zXZ\0": ("xz", ".xz"),
    b"BZh": ("bzip2", ""),
    b"PK\x03\x04": ("zip", ""),
    b"7z\xbc\xaf": ("7-Zip", ""),
    b"Rar!": ("rar", ""),
}
"""How compressed files begin: the compression, and the ending of those that are read."""
ARCHIVES = (".bz2", ".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
"""Endings of archives and compressions that are not read."""
PACKED_BYTES = 1 << 12
"""Decompressed at one time. These may become 134 MB, as zstandard writes 128 kB of equal bytes in 4."""
RECORD_BYTES = 100_000_000
"""The most bytes of a record, where --max-record-mb says nothing else: a file of a few bytes may decompress to a line
that fills the memory."""
BUFFER_BYTES = 1 << 18


def ending(path: Path) -> str:
    """`.zst`, `.gz` or `.xz` where the file is compressed, else nothing. Capital letters count as small ones."""
    return suffix if (suffix := path.suffix.lower()) in NAMES else ""


def _decompressor(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What makes a decompressor of one frame, and the errors with which it refuses damaged bytes."""
    if kind == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj, (zstandard.ZstdError,)
    if kind == ".gz":
        return lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), (zlib.error,)
    import lzma

    return lzma.LZMADecompressor, (lzma.LZMAError,)


class _Unpacked(io.RawIOBase):
    """The decompressed bytes of a file of one or more frames, one after another."""

    def __init__(self, path: Path, raw: io.BufferedReader):
        self._path, self._raw, self._name = path, raw, NAMES[ending(path)]
        self._make, self._damage = _decompressor(ending(path))
        self._frame: Any = None  # the decompressor of the frame that has begun
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self._ready:
            if not self._packed and not (packed := self._raw.read(PACKED_BYTES)):
                if self._frame is not None:
                    raise DataError(
                        f"{self._path}: not a whole {self._name} file: it ends in the middle of its compressed data;"
                        " copy it or write it again"
                    )
                return 0
            self._packed = self._packed or packed
            self._unpack()
        size = min(len(into), len(self._ready))
        into[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _unpack(self) -> None:
        packed, self._packed = self._packed, b""
        if self._frame is None:
            packed = packed.lstrip(b"\0")  # gzip and xz files may be padded with zeros after a frame
            if not packed:
                return
            self._frame = self._make()
        try:
            self._ready = memoryview(self._frame.decompress(packed))
        except self._damage as error:
            if packed[:1] in (b"{", b"["):  # no compressed data begins so: a browser may have unpacked it
                raise DataError(
                    f"{self._path}: not compressed, although its name ends in {ending(self._path)}; rename it"
                ) from error
            raise DataError(
                f"{self._path}: not a whole {self._name} file: {error}; copy it or write it again"
            ) from error
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None


def compression(beginning: bytes) -> str:
    """What to do with a file that begins so, when it is compressed and its name does not say it; else nothing."""
    for magic, (name, suffix) in MAGIC.items():
        if beginning.startswith(magic):
            advice = f"give its name the ending {suffix}" if suffix else "unpack it"
            return f"the file is compressed by {name}: {advice}"
    return ""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[tuple[io.BufferedReader, io.BufferedReader]]:
    """(the file's bytes, decompressed; the file on the disk, whose `tell` shows how far reading has come).

    Raises DataError for a file that cannot be read.
    """
    try:
        raw = paths.reading(path)
    except OSError as error:
        paths.not_damage(error)
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}; correct the path, or the rights to the file"
        ) from error
    with raw:
        yield (io.BufferedReader(_Unpacked(path, raw), BUFFER_BYTES) if ending(path) else raw), raw


def too_long(where: str, most: int) -> DataError:
    """The error of a record that has more than `most` bytes."""
    return DataError(
        f"{where}: this record has more than {most:,} bytes, so the file is damaged or made to fill the memory; cut the"
        " record, or raise --max-record-mb"
    )


def lines(path: str | Path, file: io.BufferedReader, most: int = RECORD_BYTES) -> Iterator[bytes]:
    """The lines of a file that was opened by `reading`; DataError for one of more than `most` bytes."""
    for number in itertools.count(1):
        line = file.readline(most + 1)
        if len(line) > most:
            raise too_long(f"{path}:{number}", most)
        if not line:
            return
        yield line


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that appears whole, as `paths.writing` does; compressed by zstandard when its name ends in .zst."""
    with paths.writing(path) as file:
        if path.suffix != ".zst":
            yield file
            return
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
            yield packed
