"""One process of a run of several, for the tests that start them: SCENARIO RUN_DIR [TOTAL_STEPS EVERY_STEPS]."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tiny_run import ROWS, TinyLoader, tiny_config

from tigerjax.command import cli
from tigerjax.config import MeshConfig
from tigerjax.errors import DataError
from tigerjax.mesh import host_rows, run_mesh
from tigerjax.processes import hosts
from tigerjax.processes.rendezvous import HostsConfig
from tigerjax.train.loop import train

# Patient, since the machine may be busy; only the stall is waited for.
WAITS = HostsConfig(barrier_timeout_s=2000, stall_timeout_s=60 if "stall" in sys.argv else 2000, start_timeout_s=2000)
MESH = MeshConfig(fsdp=4)
SLOW_S = 1.0  # longer than a step takes on a busy machine, which would hide it


class HostLoader(TinyLoader):
    """The rows of TinyLoader's batches that this process holds; at batch `at` it does what the scenario says."""

    def __init__(self, mine: list[int], *, scenario: str, at: int):
        super().__init__()
        self.mine, self.scenario, self.at = mine, scenario, at

    def __next__(self) -> Any:
        import jax

        batch = super().__next__()
        if self.scenario == "slow" and jax.process_index() == 1:
            time.sleep(SLOW_S)
        if self.index == self.at and jax.process_index() == 1:
            if self.scenario == "bad-data":
                raise DataError("corpus.jsonl:17: broken JSON")
            if self.scenario == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.scenario == "stall":
                time.sleep(600)
            if self.scenario == "preempt":
                os.kill(os.getpid(), signal.SIGTERM)
        return type(batch)(*(np.asarray(array)[self.mine] for array in batch))


def run(scenario: str, folder: Path, total_steps: int, every_steps: int) -> None:
    hosts.start(WAITS)
    with hosts.together():
        config = tiny_config(mesh=MESH, total_steps=total_steps, every_steps=every_steps)
        mesh = run_mesh(config)
        at = 5 if scenario == "preempt" else 7  # read up to three steps before its own, so while steps are run
        loader = HostLoader(host_rows(mesh, ROWS), scenario=scenario, at=at)
        if scenario == "other-config" and not hosts.is_writer():
            config = tiny_config(mesh=MESH, total_steps=total_steps + 1, every_steps=every_steps)
        train(config, loader, run_dir=folder, mesh=mesh, progress=False)


if __name__ == "__main__":
    cli.quiet_start()
    scenario, folder, *steps = sys.argv[1:]
    total, every = map(int, steps or ["8", "4"])
    run(scenario, Path(folder), total, every)
