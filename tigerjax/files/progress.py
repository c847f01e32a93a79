"""How long work tells its caller how far it is; who shows it (a bar, plain lines) is the command's business."""

from collections.abc import Callable

Progress = Callable[[str, str], Callable[[int, int], None]]
"""Of (what, unit), such as ("sampled", "prompts"): a function of (done, all). `all` is 0 where nobody knows it."""
