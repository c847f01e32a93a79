"""The words behind --runner: the name of a runner, and its options."""

import shlex

from tigerjax.errors import ConfigError


def split_runner(text: str) -> tuple[str, list[str]]:
    """The name of a runner and its options, from words as a shell reads them.

    ConfigError for a quote without its end, and where options come without a name.
    """
    try:
        name, *options = shlex.split(text) or [""]
    except ValueError as error:
        raise ConfigError(f'runner {text!r}: {error}; close the quote, as in "FlinkRunner --parallelism 4"') from error
    if not name or name.startswith("-"):
        raise ConfigError(f'runner {text!r} does not begin with a name; give one, as in "FlinkRunner --parallelism 4"')
    return name, options
