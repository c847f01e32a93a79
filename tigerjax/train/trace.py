"""A profiler trace of chosen steps, for TensorBoard or Perfetto: where the time inside a step goes."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from tigerjax.files import paths


class Trace:
    """Traces steps first..last (counted from 1) to RUN/profile, one folder a host; without steps it does nothing.

    The profiler writes to a disk only: for a run in a bucket to a temporary folder, which is uploaded at the end."""

    def __init__(self, run_dir: Path, steps: tuple[int, int] | None):
        self._folder, self._steps, self._on = run_dir / "profile", steps, False
        self._written = self._folder

    def before(self, step: int) -> None:
        """Before `step` is started: begins at the first."""
        if self._steps is not None and step == self._steps[0]:
            if paths.on_bucket(self._folder):
                self._written = Path(tempfile.mkdtemp(prefix="profile-"))
            jax.profiler.start_trace(str(self._written))
            self._on = True

    def after(self, step: int, state: Any) -> None:
        """After `step` was started: waits for the last one's state, so that the trace holds all of it."""
        if self._on and self._steps is not None and step >= self._steps[1]:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
            if self._written != self._folder:
                paths.upload(self._written, self._folder)
                paths.clear(self._written)
