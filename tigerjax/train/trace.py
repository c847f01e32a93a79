"""A profiler trace of chosen steps, for TensorBoard or Perfetto: where the time inside a step goes."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from tigerjax.files import paths


class Trace:
    """Traces the steps from the first to the last of `steps` (counted from 1) to RUN/profile, with one folder per host.
    Does nothing when `steps` is None.

    The profiler can only write to a disk. For a run in a bucket it writes to a temporary folder, which is uploaded when
    the trace ends."""

    def __init__(self, run_dir: Path, steps: tuple[int, int] | None):
        self._folder, self._steps, self._on = run_dir / "profile", steps, False
        self._written = self._folder

    def before(self, step: int) -> None:
        """Call before `step` is started: begins the trace at the first step."""
        if self._steps is not None and step == self._steps[0]:
            if paths.on_bucket(self._folder):
                self._written = Path(tempfile.mkdtemp(prefix="profile-"))
            jax.profiler.start_trace(str(self._written))
            self._on = True

    def after(self, step: int, state: Any) -> None:
        """Call after `step` was started: ends the trace at the last step, when its `state` is computed."""
        if self._on and self._steps is not None and step >= self._steps[1]:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace if there is one."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
            if self._written != self._folder:
                paths.upload(self._written, self._folder)
                paths.clear(self._written)
