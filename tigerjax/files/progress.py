"""How long work reports its progress. The command decides how that is shown: as a bar or as plain lines."""

from collections.abc import Callable

Progress = Callable[[str, str], Callable[[int, int], None]]
"""Called with (what, unit), such as ("sampled", "prompts"); returns a function of (done, all), to be called as work
goes on. `all` is 0 where it is not known."""
