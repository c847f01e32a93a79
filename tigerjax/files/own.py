"""JSON files that this stack wrote itself. They may be damaged all the same: then one line names the file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError, TigerjaxError
from tigerjax.files import foreign

OF_THE_FORM = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, SyntaxError)
"""What Python raises where a value is missing, of another type, or too large."""


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in such a file, as `foreign.read_object` reads it. Older versions wrote NaN where a figure had no
    value."""
    return foreign.read_object(path, advice, finite=False)


@contextlib.contextmanager
def fields(path: str | Path, advice: str) -> Iterator[None]:
    """For a block that takes values out of such a file and does nothing else: DataError where one is not as it was
    written. `advice` says how the file is made again."""
    try:
        yield
    except OF_THE_FORM as error:
        if isinstance(error, TigerjaxError):
            raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{path}: not as it was written ({why[:200]}); {advice}") from error
