"""What an error of the operating system, a disk or a bucket means to the user: one of our errors, or none."""

import errno
import traceback

from tigerjax.errors import DataError, TigerjaxError, disk_full
from tigerjax.files import paths

REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
FAILED = (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ENXIO, errno.ENODEV)
ADVICE = {
    **dict.fromkeys(REFUSED, "change the path or its permissions"),
    **dict.fromkeys(FAILED, "the disk or its server failed: look at it, and repeat; what was finished is whole"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the number of files that may be open (`ulimit -n`)"),
}
"""What to change, by the number of an OSError."""


def meaning(error: BaseException) -> TigerjaxError | None:
    """The error to show in place of one that a disk or a bucket caused; `error` itself when it is ours already. None
    when it is of another kind: a bug."""
    if isinstance(error, TigerjaxError):
        return error
    if disk_full(error):
        where = getattr(error, "filename", None) or "the output"
        return DataError(f"no space left on the disk for {where}; what was finished is whole: free some and repeat")
    if isinstance(error, FileNotFoundError) and traceback.extract_tb(error.__traceback__)[-1].name == "mkdir":
        return DataError(f"{error.filename}: this folder cannot be made; give another path")  # in /proc for example
    if isinstance(error, OSError) and error.errno in ADVICE:
        return DataError(f"{error.filename or 'the output'}: {error.strerror}; {ADVICE[error.errno]}")
    return paths.trouble(error)
