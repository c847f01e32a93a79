"""The functions by which work that takes long reports its progress. A command shows it as a bar or as plain lines."""

from collections.abc import Callable

Advance = Callable[[int, int], None]
"""Called with (done, all) as work goes on. `all` is 0 where it is not known."""
Progress = Callable[[str, str], Advance]
"""Called with (what, unit), such as ("sampled", "prompts"); returns the function to be called as work goes on."""
