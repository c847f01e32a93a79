"""The errors that a command may end with, each with its exit code.

Their message is one line: what was given, what is needed, what to change. `tigerjax.command.cli` prints it and exits
with the code. Any other exception is a bug and shows its traceback.
"""

import difflib
import errno
import traceback
from collections.abc import Iterable
from pathlib import Path

DISK_FULL_TEXTS = ("ENOSPC", "EDQUOT", "EFBIG", "No space left on device", "File too large")


class TigerjaxError(Exception):
    """The base of these errors. It is never raised itself."""

    exit_code = 1


class ConfigError(TigerjaxError, ValueError):
    """A configuration that cannot work, found before any work is done (exit 2)."""

    exit_code = 2


class FolderInUse(ConfigError):
    """Another process writes the folder at this time (exit 2)."""


class DataError(TigerjaxError, ValueError):
    """Bad data: the message names file, line and id where they are known (exit 3)."""

    exit_code = 3


class Absent(DataError):
    """Something that a checkpoint needs is not there, and an older checkpoint of the run would lack it too (exit 3)."""


class Blocked(TigerjaxError):
    """The work waits for people, such as missing labels (exit 4)."""

    exit_code = 4


class GateFailed(TigerjaxError):
    """A quality gate was not passed (exit 5)."""

    exit_code = 5


class HostsError(TigerjaxError):
    """Another host of the run is lost, stalled or late: nothing is wrong with the input, start again (exit 1)."""

    exit_code = 1


class WorkerLost(TigerjaxError):
    """A worker process of a data stage was killed: nothing is wrong with the input, start again (exit 1)."""

    exit_code = 1


class FolderLost(TigerjaxError):
    """Another process works in this command's folder now, and this one may not write there any more (exit 1)."""

    exit_code = 1


class LabelStudioError(TigerjaxError):
    """Label Studio did not answer: nothing is wrong with the input, start again (exit 1)."""

    exit_code = 1


class BucketError(TigerjaxError):
    """The bucket did not answer, or not in time: nothing is wrong with the input, start again (exit 1)."""

    exit_code = 1


class BucketRefused(BucketError):
    """The bucket does not let this account do it, or does not exist: another start would end the same way (exit 3)."""

    exit_code = 3


class JudgeError(TigerjaxError):
    """A judge of answers did not answer, or not in time: nothing is wrong with the input, start again (exit 1)."""

    exit_code = 1


class Full(TigerjaxError):
    """A queue of requests is full: the same request may be taken later (exit 1)."""

    exit_code = 1

    def __init__(self, message: str, retry_after_s: float):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Stopped(TigerjaxError):
    """What should answer was closed, or ended with an error: nothing is wrong with the request (exit 1)."""

    exit_code = 1


def again(kind: str, message: str) -> TigerjaxError:
    """The error of another process, which sends the name of its class and its message."""
    kinds = {k.__name__: k for k in (ConfigError, DataError, BucketError, BucketRefused)}
    return kinds[kind](message)


USERS = (Exception, SystemExit)
"""What a user's Python code may raise while we call it."""


def of_user(error: BaseException) -> tuple[str, str]:
    """What a user's Python code raised: its kind, and its text on one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return type(error).__name__, " ".join(text.split())


def line_in(error: BaseException, path: Path) -> str:
    """PATH:LINE of the line in a user's Python file where the error happened; only PATH where no line is known."""
    if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == path.resolve():
        return f"{path}:{error.lineno}"
    frames, here = traceback.extract_tb(error.__traceback__), path.resolve()
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == here]
    return f"{path}:{lines[-1]}" if lines else str(path)


def near_miss(word: str, there: Iterable[str], least: float = 0.6) -> str:
    """`; did you mean X?`, where X is one of `there` and spelt like the word; an empty string when none is.

    `least` is how alike they must be, from 0 to 1.
    """
    near = difflib.get_close_matches(word, list(there), n=2, cutoff=least)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def disk_full(error: BaseException) -> bool:
    """Whether an error says that nothing more can be written, because a disk, a quota or a file's size is at its limit.

    TensorStore, safetensors and TensorFlow raise errors of their own for it. So the text of the error and of its causes
    is searched too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(text in str(cause) for text in DISK_FULL_TEXTS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
