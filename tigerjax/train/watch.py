"""What the loop sees of its steps: metrics read late, logged, and counted when an update was skipped."""

import json
import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from tigerjax import hosts, manifest
from tigerjax.config import RunConfig
from tigerjax.errors import DataError
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.feed import Fed
from tigerjax.train.goodput import Goodput
from tigerjax.train.metrics import Metrics, mfu, model_flops

MAX_SKIPPED = 3  # consecutive updates without a finite loss and gradient; the next one stops the run


class Watch:
    """Reads the metrics of a step after the next one is under way, logs them, and counts skipped updates."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        *,
        checkpoints: Checkpointer,
        metrics: Metrics,
        mesh: Mesh,
        goodput: Goodput,
    ):
        self.config, self.run_dir, self.checkpoints, self.metrics = config, run_dir, checkpoints, metrics
        self.mesh, self.goodput, self._waited = mesh, goodput, 0.0
        self._late: tuple[int, Any, Fed] | None = None
        self._bad: list[dict[str, Any]] = []
        self._since, self._steps, self._tokens = time.perf_counter(), 0, 0

    def started(self, step: int, values: Any, fed: Fed) -> None:
        self._late = (step, values, fed._replace(batch=None))

    def read(self) -> None:
        """Waits for the step that was started last, if it was not read yet."""
        if self._late is None:
            return
        (step, values, fed), self._late = self._late, None
        values = jax.device_get(values)
        self._steps, self._tokens = self._steps + 1, self._tokens + fed.tokens
        if values["skipped"]:
            self._skipped(step, values, fed)
        else:
            self._bad = []
        c = self.config
        if step % c.log_every_steps == 0 or step == c.optim.total_steps:
            self._log(step, values, fed)

    def _log(self, step: int, values: Any, fed: Fed) -> None:
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rate = self._tokens / seconds
        flops = model_flops(self.config.model, tokens=rate, seq_len=self.config.data.seq_len)
        device = self.mesh.devices.flat[0]
        record: dict[str, Any] = {"step": step}
        record |= {name: float(value) for name, value in values.items() if name != "skipped"}
        record |= {
            "tokens_per_s": rate,
            "mfu": mfu(flops, device.device_kind, self.mesh.size),
            "data_wait_share": (self.goodput.waited() - self._waited) / seconds,
            "step_s": seconds / self._steps,
            "shares": None if fed.seen is None else {name: s["share"] for name, s in fed.seen.items()},
        }
        self.metrics.write(record | self.goodput.record())
        self._since, self._steps, self._tokens, self._waited = now, 0, 0, self.goodput.waited()

    def _skipped(self, step: int, values: Any, fed: Fed) -> None:
        what = f"loss {float(values['loss_nats'])} and gradient norm {float(values['grad_norm'])}"
        self._bad.append({"step": step, "loader": fed.before})
        hosts.say(f"step {step}: {what}: not finite, update skipped")
        if len(self._bad) <= MAX_SKIPPED:
            return
        path = self.run_dir / "bad_batches.json"
        if hosts.is_writer():
            manifest.write_json(path, self._bad)
        good = self.checkpoints.newest()
        last = "none was saved" if good is None else str(self.checkpoints.folder / str(good[0]))
        raise DataError(
            f"step {step}: {what}; {len(self._bad)} updates in a row were not finite. Their batches (loader states"
            f" {json.dumps([bad['loader'] for bad in self._bad])[:300]}) are in {path}; last good checkpoint: {last};"
            " look at these rows, or lower optim.peak_lr, then resume"
        )
