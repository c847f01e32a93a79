"""The fields of a config.json that another program wrote, each read with its type and its range.

Python's JSON reader accepts NaN, Infinity and numbers of any size, and True is an int to Python. None of these passes
here as a number.
"""

from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.errors import DataError
from tigerjax.files.foreign import shown

MAX_SIZE = 2**31 - 1
"""No size, count or id is larger. TensorStore and XLA could not index it with their 32-bit integers."""
REQUIRED: Any = object()


class Fields(NamedTuple):
    """`content` is a JSON object of the file `path`. DataError names the file, the field, its value and its range.

    `default` is returned where the field is absent. Where it is None, `null` is the same as absent. A field without
    default must be there.
    """

    content: dict[str, Any]
    path: Path
    inside: str = ""
    """The name of the object in the file, with a dot behind it; empty for the whole file."""

    def whole(self, name: str, low: int, high: int = MAX_SIZE, *, default: Any = REQUIRED) -> Any:
        """A whole number in [low, high]."""
        value = self._get(name, default)
        if value is not default and not (_is_whole(value) and low <= value <= high):
            raise self._wrong(name, f"a whole number from {low} to {high}")
        return value

    def real(self, name: str, low: float, high: float, *, default: Any = REQUIRED) -> Any:
        """A finite number above `low`, and at most `high`."""
        value = self._get(name, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not default and not (number and low < value <= high):  # NaN is in no range
            raise self._wrong(name, f"a number above {low:g} and at most {high:g}")
        return value if value is None else float(value)

    def flag(self, name: str) -> bool:
        """true or false; false where it is absent or null."""
        value = self._get(name, None)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return bool(value)

    def text(self, name: str, default: Any) -> Any:
        """A string."""
        value = self._get(name, default)
        if value is not default and not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def object(self, name: str) -> "Fields":
        """The fields of an object in the file; none where it is absent or null."""
        value = self._get(name, None)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(name, "an object {…} or null")
        return Fields(value or {}, self.path, f"{self.inside}{name}.")

    def ids(self, name: str, entries: int, *, nested: bool = False) -> Any:
        """A token id of a vocabulary of `entries`, or a list of them; with `nested` also lists of lists.

        -1 is what older exports write for "none".
        """
        value = self._get(name, None)
        several = value if isinstance(value, list) else [value]
        while nested and any(isinstance(one, list) for one in several):
            several = [i for one in several for i in (one if isinstance(one, list) else [one])]
        if value is not None and not all(_is_whole(i) and -1 <= i < entries for i in several):
            raise self._wrong(name, f"null, a token id from 0 to {entries - 1}, or a list of such ids")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty where it is absent or null."""
        value = self._get(name, None)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise self._wrong(name, "a list of strings")
        return value or []

    def _get(self, name: str, default: Any) -> Any:
        if name not in self.content and default is REQUIRED:
            raise DataError(f"{self.path}: lacks {self.inside}{name}; the file is not a whole config")
        return self.content.get(name, default)

    def _wrong(self, name: str, need: str) -> DataError:
        value = shown(self.content[name])
        return DataError(
            f"{self.path}: {self.inside}{name}={value}, needs {need}; correct it, or take the original file"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
