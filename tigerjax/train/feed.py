"""Reads batches from the loader and puts them on the devices, in a thread that works ahead of the training step."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax.mesh import put_rows


class Fed(NamedTuple):
    """A batch on the devices, with the loader's state before and after it."""

    batch: Any  # pytree of global jax arrays, leading axis sharded as "batch"
    before: Any  # from this loader state the batch can be read again
    after: Any  # from this loader state the next batch is read: what a checkpoint stores
    seen: Any  # loader.seen() after this batch; None when the loader has no such method
    tokens: int  # of the global batch, estimated from this host's rows
    figures: Mapping[str, float] = {}  # of this batch, which are logged with its step


class Feed:
    """Reads a loader in a thread. A loader is an iterator with state(), restore() and, optionally, seen()."""

    def __init__(
        self,
        loader: Any,
        mesh: Mesh,
        *,
        rows: Sequence[int],
        batch_rows: int,
        tokens: Callable[[Any], int],
        batches: int,
        ahead: int = 2,
    ):
        """Takes exactly `batches` batches from the loader, at most `ahead` of them before they are asked for.

        The loader gives this host's part of each batch: the rows with the numbers `rows` (`mesh.host_rows`) out of the
        `batch_rows` of the global batch. `tokens` counts the tokens of such a part."""
        self._loader, self._tokens = loader, tokens
        self._mesh, self._rows, self._batch_rows = mesh, rows, batch_rows
        self._queue: queue.Queue[Fed | BaseException] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(batches,), name="feed", daemon=True)
        self._thread.start()

    def _read(self, batches: int) -> None:
        try:
            for _ in range(batches):
                if self._stop.is_set():  # else it would read all that the run has left, with nobody to take it
                    return
                before = self._loader.state()
                host = next(self._loader)
                seen = self._loader.seen() if hasattr(self._loader, "seen") else None
                placed = jax.tree.map(self._place, host)
                self._put(Fed(placed, before, self._loader.state(), seen, self._global_tokens(host)))
        except BaseException as error:  # whatever it is, the step that needs the batch raises it
            self._put(error)

    def _global_tokens(self, host: Any) -> int:
        return self._tokens(host) * self._batch_rows // len(self._rows)

    def _place(self, rows: Any) -> jax.Array:
        return put_rows(np.asarray(rows), self._mesh, self._rows, self._batch_rows)

    def _put(self, item: Fed | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def get(self, interrupted: Callable[[], bool]) -> Fed | None:
        """The next batch; None when `interrupted()` while waiting. Raises what the loader raised."""
        while not interrupted():
            try:
                item = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item
        return None

    def close(self) -> None:
        """Stops the thread. Batches that were read ahead are dropped: no checkpoint counts them as used."""
        self._stop.set()
        self._thread.join()
