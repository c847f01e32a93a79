"""JSON that other programs wrote: read whole, or refused with one line."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import paths

MAX_BYTES = 100_000_000
"""The largest file that is read. The largest tokenizer.json that is published has about 40 MB."""
MOST_DEEP = 200  # a dialogue has 3
TOO_DEEP = "lists or objects lie too deep in each other"
SHOWN = 60  # characters of a wrong value in a message


class NotJson(ValueError):
    """Text that Python's reader takes for JSON, although it loses or changes something of it: a field that an object
    has twice, NaN and Infinity, and numbers beyond all floats. No other program reads what would be written of it.

    `record` is what Python makes of the text."""

    record: Any = None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(name for name in made if sum(name == other for other, _ in pairs) > 1)
        raise NotJson(f"field {shown(twice)} is given twice")
    return made


def _no_number(constant: str) -> Any:
    raise NotJson(f"{constant} is no number of JSON")


def _real(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise NotJson(f"the number {digits[:SHOWN]} is too large")
    return number


_LENIENT = json.JSONDecoder()
_ONCE = json.JSONDecoder(object_pairs_hook=_once)
_STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number, parse_float=_real)


def loads(text: str | bytes, *, finite: bool = True) -> Any:
    """The value of JSON that other programs or people wrote, in UTF-8. Every reader of theirs calls this.

    NotJson for what Python alone reads; without `finite`, NaN and Infinity pass, for files of which every number that
    is used is checked. ValueError for a number of more digits than Python reads: Python's own message advises a
    function of Python, which no user can call. RecursionError in our words, too.
    """
    text = text if isinstance(text, str) else text.decode()
    try:
        return (_STRICT if finite else _ONCE).decode(text)
    except NotJson as error:
        error.record = _LENIENT.decode(text)
        raise
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:
        raise ValueError(_too_many_digits()) from error
    except RecursionError as error:
        raise RecursionError(TOO_DEEP) from error


def raw_decode(text: str, at: int) -> tuple[Any, int]:
    """(the JSON value that begins at place `at` of a text, where it ends); errors as in `loads`.

    Instead of a value that is NotJson it gives this error.
    """
    try:
        try:
            return _STRICT.raw_decode(text, at)
        except NotJson as error:
            error.record, end = _LENIENT.raw_decode(text, at)
            return error, end
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise ValueError(_too_many_digits()) from error
    except RecursionError as error:
        raise RecursionError(TOO_DEEP) from error


def _too_many_digits() -> str:
    return f"a number has more than {sys.get_int_max_str_digits():,} digits"


def read_object(path: Path, advice: str, *, finite: bool = True) -> dict[str, Any]:
    """The JSON object in a file. DataError for anything else: `advice` ends its message and says what to change.

    What is no JSON, though Python reads it, is refused too (`loads`, which `finite` is for).

    A byte order mark, which editors on Windows write, is passed over. Half of a surrogate pair is refused, because no
    file could be written with it again.
    """
    try:
        size = paths.size(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {advice}") from None
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size:,} bytes, and no more than {MAX_BYTES:,} are read; {advice}")
    return object_of(path, path.read_bytes(), advice, finite=finite)


def object_of(path: Path, content: bytes, advice: str, *, finite: bool = True) -> dict[str, Any]:
    """`read_object`, of bytes that were read already. DataError for bytes that are no JSON object."""
    try:
        value = loads(content.decode("utf-8-sig"), finite=finite)
        refuse_deep(value)
        if b"\\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}; {advice}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: invalid UTF-8 at byte {error.start}; {advice}") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: holds half of a surrogate pair; {advice}") from error
    except RecursionError as error:
        raise DataError(f"{path}: {TOO_DEEP}; {advice}") from error
    except ValueError as error:  # a field that is given twice, or a number of too many digits
        raise DataError(f"{path}: {error}; {advice}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, needs a JSON object {{…}}; {advice}")
    return value


def refuse_deep(value: Any) -> None:
    """RecursionError for a value of JSON whose lists and objects lie deeper in each other than MOST_DEEP.

    Where Python itself stops depends on its version and on what is done with the value: one that could be read could
    not be written again.
    """
    depth, level = 0, [value]
    while level:
        depth += 1
        if depth > MOST_DEEP:
            raise RecursionError(f"more than {MOST_DEEP} lists or objects lie in each other")
        nested = [v for v in level if isinstance(v, dict | list)]
        level = [inner for v in nested for inner in (v.values() if isinstance(v, dict) else v)]


def shown(value: Any) -> str:
    """A wrong value for a message: on one line, without control characters, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
