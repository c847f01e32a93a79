"""Spikes: steps whose loss or gradient norm lies far above those of the steps before, and what becomes of them.

    skip        the update of such a step, or of one that is not finite, is refused on the device; its batch is used up
    roll back   after `health.skip` refused updates in a row: back to the newest checkpoint before the first of them,
                on with the data that come after the last (as PaLM's training did by hand, arXiv:2204.02311, 5.1)
    stop        when `health.rollbacks` of them are used up, with the batches named

Every host reads the same numbers, so all decide alike; the numbers are part of the checkpoint, so a resumed run does.
"""

from typing import Any

import numpy as np

from tigerjax.config import HealthConfig

LAG = 2
"""A step starts before the one before it is read: its limit is made of what was read by then, never of more."""
FLOOR = 0.01
"""Of the median: the deviation is taken to be at least so large, for curves that hardly move [our choice]."""


class Spikes:
    """The last good steps, the refused ones since, and the limit that follows from them."""

    def __init__(self, config: HealthConfig):
        self.config = config
        self.bad: list[dict[str, Any]] = []
        self.rollbacks = 0
        self._good: list[list[float]] = []  # step, loss, gradient norm

    def limits(self, step: int) -> np.ndarray | None:
        """float32 [2], loss and gradient norm above which the update of `step` is refused; None without `spike`."""
        c = self.config
        if c.spike is None:
            return None
        known = np.array([good[1:] for good in self._good if good[0] <= step - LAG])[-c.window :]
        if len(known) < c.window // 2:
            return np.full(2, np.inf, np.float32)
        median = np.median(known, axis=0)
        deviation = np.maximum(1.4826 * np.median(np.abs(known - median), axis=0), FLOOR * np.abs(median))
        return (median + c.spike * deviation).astype(np.float32)

    def good(self, step: int, loss: float, grad_norm: float) -> None:
        self.bad = []
        if self.config.spike is not None:
            self._good = [*self._good, [step, loss, grad_norm]][-self.config.window - LAG :]

    def state(self) -> dict[str, Any]:
        """JSON, for the checkpoint."""
        return {"good": self._good, "bad": self.bad, "rollbacks": self.rollbacks}

    def restore(self, state: dict[str, Any] | None) -> None:
        """None, of a checkpoint without: nothing is known yet."""
        state = state or {"good": [], "bad": [], "rollbacks": 0}
        self._good, self.bad, self.rollbacks = list(state["good"]), list(state["bad"]), state["rollbacks"]
