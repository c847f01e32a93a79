"""What is done with the metrics of each step: they are read one step late, logged, and checked for skipped updates."""

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from tigerjax.checkpoint.files import steps
from tigerjax.checkpoint.finite import not_finite
from tigerjax.config import RunConfig
from tigerjax.errors import DataError
from tigerjax.files import manifest
from tigerjax.files.log import Log
from tigerjax.files.written import finite
from tigerjax.model.selection import Selection, flops
from tigerjax.processes import hosts
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.feed import Fed
from tigerjax.train.goodput import Goodput
from tigerjax.train.metrics import MetricsWriter, mfu
from tigerjax.train.spikes import Spikes
from tigerjax.train.validation import RISES, Validation

Validate = Callable[[], dict[str, Any]]
"""Validates, and returns what is logged of it (`Validation.run`)."""
EVENTS = "events.jsonl"
START_STEPS = 5
"""The median loss of so many first steps counts as the loss at the start. The loss of one batch can be far from the
others, and during warm-up the weights have hardly moved [our choice]."""
SLOW_TIMES, SLOW_SHARE = 2.0, 0.2
"""A host is slow when it is busy so many times as long as the middle host, and for at least this share of a step [our
choice]."""


class Watch:
    """Reads and logs the metrics of each step, counts skipped updates, and finds slow hosts.

    The metrics of a step are read only after the next step was started. Reading them waits for the devices, and the
    devices would have nothing to do if the next step were started after that."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        *,
        checkpoints: Checkpointer,
        metrics: MetricsWriter,
        mesh: Mesh,
        goodput: Goodput,
        validation: Validation,
        trained: Selection | None,
    ):
        self._trained = trained
        self.config, self.run_dir, self.checkpoints, self.metrics = config, run_dir, checkpoints, metrics
        self.validation = validation
        self.mesh, self.goodput = mesh, goodput
        self._late: tuple[int, Any, Fed] | None = None
        self.spikes = Spikes(config.health)
        self.back_before: int | None = (
            None  # set when too many updates were skipped: the run must go back before this step
        )
        self._slow, self._starting = set[int](), True
        self._interval(time.perf_counter())
        self._first: dict[int, float] = {}  # losses of the steps up to START_STEPS

    def started(self, step: int, values: Any, fed: Fed) -> None:
        """Remembers a step that was started; `values` are its metrics, which the devices may still be computing."""
        self._late = (step, values, fed._replace(batch=None))

    def checkpoint_meta(self, fed: Fed) -> dict[str, Any]:
        """What a checkpoint stores about the data and about the steps before it."""
        return {"loader": fed.after, "health": self.spikes.state(), "validation": self.validation.state()}

    def read(self, called_s: float = 0.0, *, validate: Validate | None = None) -> None:
        """Reads the metrics of the step that was started last, unless they were read already. Waits for them.

        With `validate` the step is logged in any case, together with what that returns; it is not called where the run
        must go back.

        `called_s` is how long the call took that started the step after it. That time is spent on the devices and not
        on the host: the call may compile, or wait until the devices (and with them the other hosts) take the step."""
        self._for_device += called_s
        if self._late is None:
            return
        (step, values, fed), self._late = self._late, None
        before = time.perf_counter()
        values = jax.device_get(values)
        self._for_device += time.perf_counter() - before
        self._steps, self._tokens = self._steps + 1, self._tokens + fed.tokens
        if values["skipped"]:
            self._skipped(step, values, fed)
        else:
            self.spikes.good(step, float(values["loss_nats"]), float(values["grad_norm"]))
            self.validation.trained(float(values["loss_nats"]), float(values["loss_weight"]))
            if step <= START_STEPS:
                self._first[step] = float(values["loss_nats"])
        c = self.config
        if self.back_before is not None:
            validate = None
        if step % c.log_every_steps == 0 or step == c.optim.total_steps or validate is not None:
            self._log(step, values, fed, validate)

    def validated(self, step: int, validate: Validate) -> dict[str, Any]:
        """What `validate` returns, to be logged with `step`. Names the held-out sources that it found rising."""
        with self.goodput.spending("validation"):
            found = validate()
        for name in found.get("rising", ()):
            hosts.say(
                f"warning: step {step}: the held-out loss of {name} rose at the last {RISES} validations, while that of"
                " training fell"
            )
            self.event({"event": "rising", "step": step, "held_out": name})
        return found

    def _log(self, step: int, values: Any, fed: Fed, validate: Validate | None) -> None:
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rate = self._tokens / seconds
        model = self.config.model
        count = flops(self._trained, model, tokens=rate, seq_len=self.config.data.seq_len)
        device = self.mesh.devices.flat[0]
        record: dict[str, Any] = {"step": step}
        record |= {name: float(value) for name, value in values.items() if name != "skipped"}
        record |= {
            "tokens_per_s": rate,
            "mfu": mfu(count, device.device_kind, self.mesh.size),
            "data_wait_share": (self.goodput.waited() - self._waited) / seconds,
            "step_s": seconds / self._steps,
            "shares": None if fed.seen is None else {name: s["share"] for name, s in fed.seen.items()},
        }
        if self._first and START_STEPS <= step < START_STEPS + self.config.log_every_steps:
            record["start_loss_nats"] = statistics.median(self._first.values())
        record |= self._hosts((seconds - self._for_device) / self._steps, record["step_s"]) | _memory(self.mesh)
        if validate is not None:
            record |= self.validated(step, validate)
            now = time.perf_counter()  # validation is no step
        self.metrics.write(record | self.goodput.record())
        self._interval(now)

    def _interval(self, since: float) -> None:
        """Begins the interval of the next record. What was waited before it, as by the run that is resumed, is not in
        it."""
        self._since, self._steps, self._tokens, self._for_device = since, 0, 0, 0.0
        self._waited = self.goodput.waited()

    def _hosts(self, busy_s: float, step_s: float) -> dict[str, Any]:
        """`host_busy_s`, the longest that a host was busy with data and Python in a step, and `slow_hosts`.

        `busy_s` is this host's time a step without waiting for its devices. One slow host makes all others wait."""
        if self._starting:  # the time before the first record holds the start of the run, which is no step
            self._starting = False
            return {"host_busy_s": busy_s, "slow_hosts": []}
        busy = hosts.tell("busy_s", busy_s)
        middle = sorted(busy.values())[(len(busy) - 1) // 2]
        slow = {h for h, s in busy.items() if s > SLOW_TIMES * middle and s > SLOW_SHARE * step_s}
        if slow - self._slow:
            named = ", ".join(f"host {host} {busy[host]:.2f} s" for host in sorted(slow))
            hosts.say(f"slow: {named} a step in data and Python, the middle host {middle:.2f} s; a step {step_s:.2f} s")
        self._slow = slow
        return {"host_busy_s": max(busy.values()), "slow_hosts": sorted(slow)}

    def _skipped(self, step: int, values: Any, fed: Fed) -> None:
        loss, norm, spikes = float(values["loss_nats"]), float(values["grad_norm"]), self.spikes
        what = f"loss {loss} and gradient norm {norm}"
        limits, kind = spikes.limits(step), "not finite"
        if math.isfinite(loss) and math.isfinite(norm) and limits is not None:
            kind = f"above the limits {limits[0]:.4g} and {limits[1]:.4g} of the steps before"
        spikes.bad.append({"step": step, "loader": fed.before})
        hosts.say(f"step {step}: {what}: {kind}, update skipped")
        self.event({"event": "skipped", "step": step, "loss_nats": str(loss), "grad_norm": str(norm), "why": kind})
        if len(spikes.bad) <= self.config.health.skip:
            return
        self._give_up(f"step {step}: {what}; {len(spikes.bad)} updates in a row were refused ({kind})")

    def check_finite(self, step: int, state: Any, fed: Fed) -> None:
        """Called before a save: weights that are not finite are never saved, so no checkpoint passes for a good one.

        No later step can mend them. So the run goes back at once, or ends with a DataError."""
        if not (names := not_finite({"weights": state.weights, "opt_state": state.opt_state})):
            return
        what = f"{len(names)} arrays of the state are not finite ({', '.join(names[:3])})"
        hosts.say(f"step {step}: {what}: not saved")
        self.spikes.bad.append({"step": step, "loader": fed.before})
        self.event({"event": "not finite", "step": step, "arrays": names})
        self._give_up(f"step {step}: {what}, so nothing was saved")

    def _give_up(self, what: str) -> None:
        """Sets `back_before` where the run may go back to a checkpoint; else a DataError that names the batches."""
        spikes = self.spikes
        first = spikes.bad[0]["step"]
        self.checkpoints.wait()  # a save that is still being written is one to go back to
        saved = hosts.share("checkpoints to go back to", steps(self.checkpoints.folder))[0]
        if spikes.rollbacks < self.config.health.rollbacks and any(s < first for s in saved):
            self.back_before = first
            return
        path = self.run_dir / "bad_batches.json"
        if hosts.is_writer():
            manifest.write_json(path, spikes.bad)
        good = self.checkpoints.newest()
        last = "none was saved" if good is None else str(self.checkpoints.folder / str(good[0]))
        raise DataError(
            f"{what}. Their batches (loader states {json.dumps([bad['loader'] for bad in spikes.bad])[:300]}) are in"
            f" {path}; last good checkpoint: {last}; look at these rows, lower"
            " optim.peak_lr or raise health.rollbacks, then resume"
        )

    def rolled_back(self, meta: dict[str, Any], loader: Any) -> None:
        """Forgets the steps after the checkpoint `meta`, to which the run has gone back, and says so.

        `loader` is where the data continues: after the batches whose updates were skipped."""
        bad, rollbacks = self.spikes.bad, self.spikes.rollbacks + 1
        self._late, self.back_before = None, None
        self.spikes.restore(meta.get("health"))
        self.validation.restore(meta.get("validation"))
        self.checkpoints.best = self.validation.best_checkpoint
        self.spikes.bad, self.spikes.rollbacks = [], rollbacks
        of = f"{rollbacks} of {self.config.health.rollbacks}"
        hosts.say(f"rolled back from step {bad[-1]['step']} to {meta['step']} ({of}); batches between are left out")
        self.event({
            "event": "rollback", "step": bad[-1]["step"], "to": meta["step"], "refused": bad,
            "left_out": {"from": meta["loader"], "to": loader},
        })  # fmt: skip
        self.metrics.rewind(meta["step"])
        self._interval(time.perf_counter())

    def event(self, record: dict[str, Any]) -> None:
        """Adds a line to RUN/events.jsonl. Rollbacks never remove lines from it, as they do from metrics.jsonl."""
        if hosts.is_writer():
            with contextlib.closing(Log(self.run_dir / EVENTS)) as events:
                events.write(json.dumps(finite({"time": time.time()} | record)))


def _memory(mesh: Mesh) -> dict[str, float]:
    """The peak memory of this host's fullest device; empty where the backend does not report it (a CPU)."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    return {"hbm_peak_gb": max(s["peak_bytes_in_use"] for s in stats) / 1e9} if all(stats) else {}
