"""JSON files that other programs wrote: read whole, or refused with one line."""

import json
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import paths

MAX_BYTES = 100_000_000
"""The largest file that is read. The largest tokenizer.json that is published has about 40 MB."""
SHOWN = 60  # characters of a wrong value in a message


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file. DataError for anything else: `advice` ends its message and says what to change.

    A byte order mark, which editors on Windows write, is passed over. Half of a surrogate pair is refused, because no
    file could be written with it again.
    """
    size = paths.size(path)
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size:,} bytes, and no more than {MAX_BYTES:,} are read; {advice}")
    try:
        content = path.read_bytes()
        value = json.loads(content.decode("utf-8-sig"))
        if b"\\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}; {advice}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: invalid UTF-8 at byte {error.start}; {advice}") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: holds half of a surrogate pair; {advice}") from error
    except RecursionError as error:
        raise DataError(f"{path}: lists or objects lie too deep in each other; {advice}") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise DataError(f"{path}: {error}; {advice}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, needs a JSON object {{…}}; {advice}")
    return value


def shown(value: Any) -> str:
    """A wrong value for a message: on one line, without control characters, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
