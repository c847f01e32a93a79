"""A lock on a folder or file, so that two commands do not write it at one time.

The system gives the lock back when its process ends, however it ends. So a killed run leaves none behind, and the file
that it leaves is taken over. A bucket has no such lock; there it is a lease (`tigerjax.files.lease`).
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tigerjax.errors import ConfigError, FolderInUse
from tigerjax.files import paths
from tigerjax.files.held import is_held
from tigerjax.files.lease import leased
from tigerjax.terminal import tell

NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
WAIT_S = 5.0
"""A process that was just ended may hold its lock a little longer; another start waits so long for it."""


@contextlib.contextmanager
def locked(folder: Path, *, wait_s: float | None = None) -> Iterator[None]:
    """Holds the lock of a folder while the block runs. FolderInUse when another process has it.

    The folder is made when it is not there, and goes again when nothing was put into it. Its file .lock goes with the
    lock.
    """
    if paths.on_bucket(folder):
        with leased(folder / NAME, folder, _me()):
            yield
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with _held(folder / NAME, folder, wait_s):
            yield
    finally:
        with contextlib.suppress(OSError):  # it holds something
            for place in made:
                place.rmdir()


@contextlib.contextmanager
def locked_beside(out: Path, *, wait_s: float | None = None) -> Iterator[None]:
    """As `locked`, for a folder or file that is built beside its place and renamed: the lock is OUT.lock."""
    beside = out.with_name(f"{out.name}{NAME}")
    if paths.on_bucket(out):
        # Inside of a folder that is leased already there is nobody else, and a restart would wait for both leases.
        with contextlib.nullcontext() if is_held(out.parent) else leased(beside, out, _me()):
            yield
        return
    with _held(beside, out, wait_s):
        yield


def forget_beside(out: Path) -> None:
    """Removes the lock beside a finished `out` that a command left which was killed as it ended."""
    if not paths.on_bucket(out) and out.with_name(f"{out.name}.lock").exists():
        with contextlib.suppress(ConfigError, OSError), locked_beside(out, wait_s=0):
            pass


@contextlib.contextmanager
def _held(path: Path, what: Path, wait_s: float | None) -> Iterator[None]:
    """Holds the lock that the file `path` is. It protects `what`."""
    until = time.monotonic() + (WAIT_S if wait_s is None else wait_s)
    while (held := _take(path)) is None:
        if time.monotonic() >= until:
            if not path.exists():  # nobody has it: a place such as /proc takes no file
                raise ConfigError(f"{what}: no file can be made in {path.parent}; give another folder")
            raise FolderInUse(f"{what} is in use by {_owner(path)}; wait until that has ended, or give another folder")
        time.sleep(0.1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for it then sees that it is another file
        os.close(held)


def _take(path: Path) -> int | None:
    """An open file that holds the lock; None when another process has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # whoever held it before may have removed an empty folder
    except FileExistsError as error:  # "File exists" would not tell the user that a folder is needed
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    try:
        _flock(held, path)
        if not _is(held, path):
            raise BlockingIOError
        text = _me()
        with contextlib.suppress(OSError):  # on a full disk the lock has no name, and counts all the same
            os.ftruncate(held, 0)
            os.write(held, text.encode())
    except BlockingIOError:
        os.close(held)
        return None
    except BaseException:
        os.close(held)
        raise
    return held


def _flock(held: int, path: Path) -> None:
    """Locks an open file. BlockingIOError when another process has it locked; a file system may have no locks."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        tell(f"tigerjax: {path.parent}: this file system has no locks, so another run in this folder is not noticed")


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, which began at {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _is(held: int, path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(held)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _owner(path: Path) -> str:
    """Who has the lock, as its file says."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip() or "another process"
    except OSError:
        return "another process"
