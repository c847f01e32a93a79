"""The five ways a command can fail on purpose, each with its exit code.

Raise one of these with a single line that says what was given, what was needed and what to change;
`tigerjax.command.cli` prints the line and exits with the code. Anything else is a bug and shows its traceback.
"""

import difflib
import errno
from collections.abc import Iterable


class TigerjaxError(Exception):
    """Base of the deliberate failures; never raised itself."""

    exit_code = 1


class ConfigError(TigerjaxError, ValueError):
    """A configuration that cannot work, found before any work is done (exit 2)."""

    exit_code = 2


class DataError(TigerjaxError, ValueError):
    """Bad data: the message names file, line and id where they are known (exit 3)."""

    exit_code = 3


class Blocked(TigerjaxError):
    """The work waits for people, such as missing labels (exit 4)."""

    exit_code = 4


class GateFailed(TigerjaxError):
    """A quality gate was not passed (exit 5)."""

    exit_code = 5


class HostsError(TigerjaxError):
    """Another host of the run is lost, stalled or late: nothing is wrong with the input, start again (exit 1)."""

    exit_code = 1


class BucketError(TigerjaxError):
    """The bucket did not answer, or not in time: nothing is wrong with the input, start again (exit 1)."""

    exit_code = 1


class BucketRefused(BucketError):
    """The bucket does not let this account do it, or does not exist: another start would end the same way (exit 3)."""

    exit_code = 3


def again(kind: str, message: str) -> TigerjaxError:
    """The failure that another process told of by the name of its class and its message."""
    kinds = {k.__name__: k for k in (ConfigError, DataError, BucketError, BucketRefused)}
    return kinds[kind](message)


def near_miss(word: str, there: Iterable[str]) -> str:
    """`; did you mean X?` where one of `there` is close to a word that is none of them, else nothing."""
    near = difflib.get_close_matches(word, list(there), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def disk_full(error: BaseException) -> bool:
    """Whether an error says that nothing more can be written: the disk, a quota or a file's size limit is used up.

    TensorStore, safetensors and TensorFlow wrap the system's error in one of their own, so texts and causes count too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(
            text in str(seen) for text in ("ENOSPC", "EDQUOT", "EFBIG", "No space left on device", "File too large")
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
