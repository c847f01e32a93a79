"""The four ways a command can fail on purpose, each with its exit code.

Raise one of these with a single line that says what was given, what was needed and what to change;
`tigerjax.cli` prints the line and exits with the code. Anything else is a bug and shows its traceback.
"""


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
