"""One process of a run of several, for the tests that start them: SCENARIO RUN_DIR [TOTAL_STEPS EVERY_STEPS]."""

import dataclasses
import itertools
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from held_rows import held_out
from tiny_run import ROWS, SILENT, TinyLoader, tiny_config

from tigerjax.command import cli
from tigerjax.config import EvalConfig, MeshConfig, RunConfig
from tigerjax.errors import DataError
from tigerjax.mesh import host_rows, run_mesh
from tigerjax.processes import hosts
from tigerjax.processes.rendezvous import HostsConfig
from tigerjax.train.held_out import NOTHING, HeldOut
from tigerjax.train.loop import train

# Patient, since the machine may be busy; only the stall is waited for.
WAITS = HostsConfig(barrier_timeout_s=2000, stall_timeout_s=60 if "stall" in sys.argv else 2000, start_timeout_s=2000)
MESH = MeshConfig(fsdp=4)
SLOW_AFTER = 10  # batches that are read at full speed, to see how long a step takes on this machine just now
SLOW_STEPS, SLOW_LEAST_S = 4, 0.25  # then host 1 waits so many steps' time for each batch, and at least this long


def validated_config(**given: Any) -> RunConfig:
    """The tiny run on four devices, validated every four steps."""
    return dataclasses.replace(tiny_config(mesh=MESH, **given), eval=EvalConfig(every_steps=4))


class HostLoader(TinyLoader):
    """The rows of TinyLoader's batches that this process holds; at batch `at` it does what the scenario says."""

    def __init__(self, mine: list[int], *, scenario: str, at: int):
        super().__init__()
        self.mine, self.scenario, self.at = mine, scenario, at
        self.asked: list[float] = []  # when each batch was asked for: a step's time apart, as few are read ahead

    def __next__(self) -> Any:
        import jax

        batch = super().__next__()
        self.asked.append(time.perf_counter())
        if self.scenario == "slow" and jax.process_index() == 1 and self.index > SLOW_AFTER:
            time.sleep(self.slow_s())
        if self.index == self.at and jax.process_index() == 1:
            if self.scenario == "bad-data":
                raise DataError("corpus.jsonl:17: broken JSON")
            if self.scenario in ("kill", "local-kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.scenario == "stall":
                time.sleep(600)
            if self.scenario == "preempt":
                os.kill(os.getpid(), signal.SIGTERM)
        return type(batch)(*(np.asarray(array)[self.mine] for array in batch))

    def slow_s(self) -> float:
        """Seconds that host 1 waits for a batch: a few times as long as a step took before it was slow."""
        whole = itertools.pairwise(self.asked[SLOW_AFTER // 2 : SLOW_AFTER])
        return max(SLOW_LEAST_S, SLOW_STEPS * statistics.median(after - before for before, after in whole))


def run(scenario: str, folder: Path, total_steps: int, every_steps: int) -> None:
    hosts.start(WAITS)
    with hosts.together():
        config = validated_config(total_steps=total_steps, every_steps=every_steps)
        mesh = run_mesh(config)
        at = {"preempt": 5, "local-kill": 11}.get(scenario, 7)  # read up to three steps ahead: steps are run then
        loader = HostLoader(host_rows(mesh, ROWS), scenario=scenario, at=at)
        if scenario == "other-config" and not hosts.is_writer():
            config = validated_config(total_steps=total_steps + 1, every_steps=every_steps)
        rows = HeldOut(held_out())
        if scenario == "slow":  # during a validation the slow host reads on, and the next step need not wait for it
            config, rows = dataclasses.replace(config, eval=EvalConfig()), NOTHING
        if scenario.startswith("local"):  # each process has a folder of its own below it, as a host has its disk
            saving = dataclasses.replace(config.checkpoint, local_every_steps=1, local_dir=str(folder.parent / "local"))
            config = dataclasses.replace(config, checkpoint=saving)
        train(config, loader, run_dir=folder, mesh=mesh, held_out=rows, reporting=SILENT)


if __name__ == "__main__":
    cli.quiet_start()
    scenario, folder, *steps = sys.argv[1:]
    total, every = map(int, steps or ["8", "4"])
    run(scenario, Path(folder), total, every)
