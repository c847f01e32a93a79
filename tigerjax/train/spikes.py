"""Spikes: steps whose loss or gradient norm is far above that of the steps before. Three things can follow.

    skip        the device does not apply the update of such a step, or of one that is not finite; its batch is used up
    roll back   when more than `health.skip` updates in a row were skipped, the run goes back to the newest checkpoint
                before the first of them, and on with the data after the last of them (PaLM's training did this by
                hand, arXiv:2204.02311, 5.1)
    stop        when there were `health.rollbacks` rollbacks already, the run ends and names the batches

All hosts read the same numbers, so all decide the same. The numbers are saved in the checkpoint, so a resumed run
decides as the uninterrupted one would have.
"""

from typing import Any

import numpy as np

from tigerjax.config import HealthConfig

LAG = 2
"""A step is started before the metrics of the step before it are read. So its limit uses only steps at least this far
back, whether or not more were read by chance: the result must not depend on timing."""
FLOOR = 0.01
"""The deviation counts as at least this share of the median, so that a curve that hardly moves does not make every step
a spike [our choice]."""


class Spikes:
    """Remembers the last good steps and the skipped ones since, and derives the limits of the next step."""

    def __init__(self, config: HealthConfig):
        self.config = config
        self.bad: list[dict[str, Any]] = []
        self.rollbacks = 0
        self._good: list[list[float]] = []  # step, loss, gradient norm

    def limits(self, step: int) -> np.ndarray | None:
        """The loss and gradient norm above which the update of `step` is skipped, float32 [2]; None without `spike`."""
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
        """Counts a step whose update was applied."""
        self.bad = []
        if self.config.spike is not None:
            self._good = [*self._good, [step, loss, grad_norm]][-self.config.window - LAG :]

    def state(self) -> dict[str, Any]:
        """JSON, for the checkpoint."""
        return {"good": self._good, "bad": self.bad, "rollbacks": self.rollbacks}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Puts back what `state` returned. None, from a checkpoint without it, forgets everything."""
        state = state or {"good": [], "bad": [], "rollbacks": 0}
        self._good, self.bad, self.rollbacks = list(state["good"]), list(state["bad"]), state["rollbacks"]
