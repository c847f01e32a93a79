"""How long work tells its caller how far it is; who shows it (a bar, plain lines) is the command's business."""

from collections.abc import Callable

Advance = Callable[[int, int], None]
"""Called with (done, all) as work goes on. `all` is 0 where nobody knows it."""
Progress = Callable[[str, str], Advance]
"""Called with (what, unit), such as ("sampled", "prompts"), when work starts; it gives the function to
call as the work goes on."""
