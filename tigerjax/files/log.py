"""Log files that grow line by line, on a disk and in a bucket, where a file cannot be appended to."""

import os
import time
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.files.jsonl import decode, parse

LAG_S = 30.0  # a line is in the bucket after this time; a bucket accepts one write of an object a second
SLOW_S = (
    3.0  # a log that takes longer than this to write is written less often, so that writing takes a tenth of the time
)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a log whose lines are JSON objects; none where there is no file.

    A last line that a kill cut short has no newline, and is left out. Any other line that holds no record is a
    DataError.
    """
    if not path.is_file():
        return []
    raw, found = path.read_bytes(), []
    lines = raw.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse(f"{path}:{number}", decode(f"{path}:{number}", line)))
        except DataError as error:
            if number < len(lines) or raw.endswith(b"\n"):
                raise DataError(f"{error}; remove the line") from error
    return found


class Log:
    """A file to which lines are added. In a bucket a line appears after LAG_S at the latest, or after `flush`."""

    def __init__(self, path: Path, lines: list[str] | None = None):
        """Starts the file anew with `lines`; when that is None, continues after the complete lines that it has."""
        self._path, self._written, self._took, self._fresh = path, time.monotonic(), 0.0, lines is not None
        self._file: Any = None
        if paths.on_bucket(path):
            self._lines = [line.decode() for line in paths.whole_lines(path)] if lines is None else list(lines)
        else:
            # A link that somebody planted under the log's name is not followed.
            self._file = open(path, "a", encoding="utf-8", opener=_no_link)
            self._keep(None if lines is None else "".join(f"{line}\n" for line in lines).encode())
        self.flush()

    def _keep(self, text: bytes | None) -> None:
        """Leaves `text` in the file, or its complete lines where that is None. Where the file begins with that, the
        rest is cut off, so that no line is lost where the disk is full; else the file is replaced in one go."""
        old = self._path.read_bytes()
        text = old[: old.rfind(b"\n") + 1] if text is None else text
        if old.startswith(text):
            self._file.truncate(len(text))
            return
        paths.write_text(self._path, text.decode())
        self._file.close()
        self._file = open(self._path, "a", encoding="utf-8", opener=_no_link)

    def write(self, line: str) -> None:
        """Adds a line."""
        if self._file is not None:
            print(line, file=self._file, flush=True)
            return
        self._lines.append(line)
        self._fresh = True
        if time.monotonic() - self._written > LAG_S * max(1.0, self._took / SLOW_S):
            self.flush()

    def flush(self) -> None:
        """Returns when every line is in the file."""
        if self._file is not None:
            self._file.flush()
        elif self._fresh:
            began = time.monotonic()
            paths.write_text(self._path, "".join(f"{line}\n" for line in self._lines))
            self._written, self._fresh = time.monotonic(), False
            self._took = self._written - began

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        if self._file is not None:
            self._file.close()
