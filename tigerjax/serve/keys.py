"""The API keys of the server. They never stand on the command line, which other users of the machine can read."""

from collections.abc import Mapping
from pathlib import Path

from tigerjax.errors import ConfigError

VARIABLE = "TIGERJAX_API_KEY"
"""The environment variable that may hold a key."""
SHORTEST = 16  # characters: a shorter one can be guessed


def read(file: Path | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The keys in a file, one on each line, and the one in the environment; none where neither is given.

    ConfigError for a file that cannot be read or holds none, and for a key that is short or holds anything but visible
    ASCII characters.
    """
    found = [(VARIABLE, environ[VARIABLE].strip())] if environ.get(VARIABLE) else []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise ConfigError(f"--api-key-file {file}: {reason}; give a file with a key on each line") from error
        found += [(f"{file}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        if not any(line.strip() for line in lines):
            raise ConfigError(f"--api-key-file {file} holds no key; write one on each line")
    for where, key in found:
        if len(key) < SHORTEST or not all("!" <= letter <= "~" for letter in key):  # what an HTTP header can hold
            raise ConfigError(
                f"{where}: a key has at least {SHORTEST} characters, all of them ASCII and none of them a blank; make"
                " one with `openssl rand -hex 32`"
            )
    return tuple(key for _, key in found)
