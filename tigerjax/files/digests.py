"""Checksums of files, taken by several threads at one time.

There are two kinds. SHA-256 names what a file holds, and nobody can make another file of the same name. XXH3 (128 bits;
Collet, github.com/Cyan4973/xxHash) finds damage, and is as fast as memory. The XXH3 of a file is that of the digests of
its pieces of PIECE_BYTES, one after the other, so that several threads can take it of one file.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tigerjax.files import manifest, paths

PIECE_BYTES = 8 << 20
"""Part of the form of a checkpoint: with other pieces a file has another XXH3."""
READ_BYTES = 1 << 18  # at one time: a core's cache holds it until it is hashed
REQUESTS = 16  # at one time to a bucket [our choice]
Digest = Callable[[], str]
"""Waits for a checksum, and gives it in hexadecimal digits. Raises the error of reading the file."""
_reporting = threading.Lock()


@contextlib.contextmanager
def threads(folder: Path) -> Iterator[ThreadPoolExecutor]:
    """A thread for each core of this process, or for each of REQUESTS where the folder lies in a bucket. What has not
    begun when the block ends never does."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # only Linux has it
    count = REQUESTS if paths.on_bucket(folder) else cores
    pool = ThreadPoolExecutor(count, thread_name_prefix="digests")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def sha256(path: Path, size: int, pool: ThreadPoolExecutor, on_bytes: Callable[[int], None]) -> Digest:
    """Begins to take the SHA-256 of a file of `size` bytes. `on_bytes` is called with the size of each piece that has
    been read, by one thread at a time."""
    return pool.submit(manifest.sha256, path, _one_at_a_time(on_bytes)).result


def xxh3(path: Path, size: int, pool: ThreadPoolExecutor, on_bytes: Callable[[int], None]) -> Digest:
    """Begins to take the XXH3 of a file, as `sha256` does. Its pieces are read by all threads of the pool."""
    tell = _one_at_a_time(on_bytes)
    pieces = [pool.submit(_piece, path, at, tell) for at in range(0, size, PIECE_BYTES)]
    return lambda: _of_pieces([piece.result() for piece in pieces])


def both(path: Path) -> tuple[str, str]:
    """(SHA-256, XXH3) of a file, which is read once, by this thread."""
    import xxhash

    total, pieces, left = hashlib.sha256(), [xxhash.xxh3_128()], PIECE_BYTES
    with paths.reading(path) as file:
        while block := file.read(min(READ_BYTES, left)):
            total.update(block)
            pieces[-1].update(block)
            if (left := left - len(block)) == 0:
                pieces.append(xxhash.xxh3_128())
                left = PIECE_BYTES
    if left == PIECE_BYTES:  # the last piece has nothing in it
        pieces.pop()
    return total.hexdigest(), _of_pieces([piece.digest() for piece in pieces])


def _piece(path: Path, at: int, tell: Callable[[int], None]) -> bytes:
    import xxhash

    if paths.on_bucket(path):
        block = paths.part(path, at, at + PIECE_BYTES)
        tell(len(block))
        return xxhash.xxh3_128_digest(block)
    total, left, buffer = xxhash.xxh3_128(), PIECE_BYTES, memoryview(bytearray(READ_BYTES))
    with open(path, "rb", buffering=0) as file:
        file.seek(at)
        while left and (count := file.readinto(buffer[: min(READ_BYTES, left)])):
            total.update(buffer[:count])
            left -= count
    tell(PIECE_BYTES - left)
    return total.digest()


def _of_pieces(digests: list[bytes]) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(b"".join(digests))


def _one_at_a_time(on_bytes: Callable[[int], None]) -> Callable[[int], None]:
    def tell(count: int) -> None:
        with _reporting:
            on_bytes(count)

    return tell
