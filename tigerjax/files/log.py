"""Files that grow by lines, on a disk and in a bucket, where nothing is appended to."""

import os
import time
from pathlib import Path
from typing import Any

from tigerjax.files import paths

LAG_S = 30.0  # lines of a log are in the bucket after this time; it takes one write a second of an object at most
SLOW_S = 3.0  # a log that takes longer to be written is written more seldom: for a tenth of the time at most


class Log:
    """A file to which lines are added; in a bucket it holds them at last after LAG_S, and after `flush`."""

    def __init__(self, path: Path, lines: list[str] | None = None):
        """Begins the file anew, with these lines, or goes on after the whole lines that it has."""
        self._path, self._written, self._took, self._fresh = path, time.monotonic(), 0.0, lines is not None
        self._file: Any = None
        if paths.on_bucket(path):
            self._lines = [line.decode() for line in paths.whole_lines(path)] if lines is None else list(lines)
        else:
            if lines is None and path.is_file():
                os.truncate(path, sum(len(line) + 1 for line in paths.whole_lines(path)))
            self._file = open(path, "a" if lines is None else "w", encoding="utf-8")
            self._file.writelines(f"{line}\n" for line in lines or ())
        self.flush()

    def write(self, line: str) -> None:
        """One line more."""
        if self._file is not None:
            print(line, file=self._file, flush=True)
            return
        self._lines.append(line)
        self._fresh = True
        if time.monotonic() - self._written > LAG_S * max(1.0, self._took / SLOW_S):
            self.flush()

    def flush(self) -> None:
        """Until every line is in the file."""
        if self._file is not None:
            self._file.flush()
        elif self._fresh:
            began = time.monotonic()
            paths.write_text(self._path, "".join(f"{line}\n" for line in self._lines))
            self._written, self._fresh = time.monotonic(), False
            self._took = self._written - began

    def close(self) -> None:
        """Flushes; nothing is written afterwards."""
        self.flush()
        if self._file is not None:
            self._file.close()
