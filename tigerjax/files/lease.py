"""A lease on a folder in a bucket, which has no locks: a small object that its owner writes anew every few seconds.

Cloud Storage creates, replaces or removes an object only if it still has the generation that the request names. So of
two processes that ask at one time one gets the lease. A lease that was not renewed for LEASE_S may be taken over: its
owner was killed. No clock is compared with another machine's, as whoever waits watches the generation.

A process that is stopped for longer than LEASE_S and then resumes has lost its lease. It asks for it before its next
write, and ends instead. The lease is weaker than a lock of a disk in one way: what such a process was writing when it
was stopped, such as the arrays of a checkpoint, may still arrive.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tigerjax.errors import FolderInUse, FolderLost
from tigerjax.files import held, paths
from tigerjax.terminal import tell

LEASE_S = 60.0
"""After so long without a renewal a lease is taken over. A restart after a kill waits so long."""
RENEW_S = 10.0
"""A lease is renewed so often."""
LOOK_S = 1.0
"""Whoever waits looks so often."""
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It also runs while the machine sleeps, where the system has such a clock."""


class Lease:
    """The object at `path`, which says that `owner` works in the folder `what`."""

    def __init__(self, path: Path, what: Path, owner: str):
        self._path, self._what, self._owner = path, what, owner
        self._content = f"{owner} ({os.urandom(8).hex()})".encode()
        self._generation = 0  # of the object, while it is ours
        self._renewed = 0.0  # when; a clock that also runs while the machine sleeps
        self._one_at_a_time = threading.Lock()
        self._new_owner = ""
        self.lost = False

    def take(self) -> None:
        """Gets the lease, if it is free or nobody renews it. FolderInUse when another process does."""
        seen, since, told = 0, time.monotonic(), False
        while not self._write(seen if seen and time.monotonic() - since >= LEASE_S else 0):
            other, generation = self._there()
            if seen and generation and generation != seen:
                raise FolderInUse(
                    f"{self._what} is in use by {other}; wait until that has ended, or give another folder"
                )
            if generation and not told:
                told = True
                tell(f"tigerjax: {self._what}: waiting {LEASE_S:g} s at most for {other}; it may have been killed")
            if generation != seen:
                seen, since = generation, time.monotonic()
            time.sleep(LOOK_S)

    def renew(self) -> None:
        """Writes the object anew. Where another process has taken it over, `lost` is set."""
        with self._one_at_a_time:
            if not self.lost and not self._write(self._generation):
                self._new_owner, _ = self._there()
                self.lost = True

    def check(self) -> None:
        """FolderLost when another process has taken over the folder: nothing may be written there any more.

        A lease that was not renewed for long, because this process was stopped, is renewed first.
        """
        if not self.lost and _now() - self._renewed > LEASE_S / 2:
            self.renew()
        if self.lost:
            raise FolderLost(
                f"{self._what}: {self._new_owner or 'another process'}, has taken over the work here, because this one"
                f" did not renew its lease for {LEASE_S:g} s; this one ends"
            )

    def end(self) -> None:
        """Removes the object, if it is still ours."""
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            paths.request("DELETE", self._path, ifGenerationMatch=self._generation)

    def _write(self, generation: int) -> bool:
        """Writes the object if it has this generation (0: if it is absent), and tells whether it is ours then."""
        asked = _now()
        try:
            answer = paths.request("POST", self._path, self._content, ifGenerationMatch=generation)
            self._generation, self._renewed = int(answer["generation"]), asked
            return True
        except (FileExistsError, FileNotFoundError):
            pass
        there, generation = self._there()  # an answer may have been lost, and the request was repeated
        if there.encode() != self._content:
            return False
        self._generation, self._renewed = generation, asked
        return True

    def _there(self) -> tuple[str, int]:
        """(what the object holds, its generation); 0 where there is none."""
        try:
            generation = int(paths.request("GET", self._path)["generation"])
            return self._path.read_bytes().decode("utf-8", "replace"), generation
        except FileNotFoundError:
            return "", 0


def _now() -> float:
    return time.clock_gettime(CLOCK)


@contextlib.contextmanager
def leased(path: Path, what: Path, owner: str) -> Iterator[Lease]:
    """Holds a lease while the block runs, and renews it meanwhile. FolderInUse when another process has it.

    Where another process takes it over, the next write into the folder, or the end of the block, raises FolderLost.
    """
    lease, ended = Lease(path, what, owner), threading.Event()
    lease.take()

    def renew() -> None:
        while not ended.wait(RENEW_S):
            with contextlib.suppress(Exception):  # the bucket may not answer now; the next one may succeed
                lease.renew()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        with held.checked(what, lease.check):
            yield lease
    finally:
        ended.set()
        thread.join()
        if not lease.lost:
            lease.end()
    if lease.lost:
        lease.check()
