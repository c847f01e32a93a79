"""What the loop costs beside the step: logging, metrics, health, saving, validation; and what the compilation cache
saves.

    JAX_PLATFORMS=cpu python benchmarks/speed/loop_overhead.py [--steps 60] [--repeats 3] [--json FILE] [--validation]

The same compiled step of a small Llama runs on the same batches in turns: called directly, and by `tigerjax.train.loop`
with a log line each step, TensorBoard, spike limits and three saves. The figures are medians of steps and repeats:

    overhead    seconds that the loop adds to a step, and the host's own part of them
    validated   seconds that a validation each EVERY steps adds to a step, besides the validation itself; and the CPU
                seconds of the loop's own thread that one adds, the work for the validation itself included: so long
                the devices may wait for the host. --validation measures only this
    blocked     seconds in which a save keeps the loop waiting (the copy off the device), beside a step and the
                interval between saves
    local       seconds that a local save each EVERY steps adds to a step, and in which one keeps the loop waiting;
                it is written to the temporary folder of the system
    cache       seconds of the first step's call in a new process, without and with a filled compilation cache
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvalConfig,
    HealthConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from tigerjax.data.rows import make_batch, make_row
from tigerjax.mesh import run_mesh
from tigerjax.train.held_out import NOTHING, HeldOut
from tigerjax.train.loop import train
from tigerjax.train.metrics import Reporting
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state
from tigerjax.train.step import compile_step

ROWS, LENGTH, VOCAB = 8, 256, 4000
SILENT = Reporting(progress=False, echo=lambda line: None)
WARM = 5  # steps that are not timed
EVERY = 4  # steps between two validations


class Rows:
    """The same batch of counting rows for ever: reading costs nothing."""

    def __init__(self) -> None:
        ones = np.ones(LENGTH, int)
        self._batch = make_batch([make_row((17 * row + np.arange(LENGTH)) % VOCAB, ones, ones) for row in range(ROWS)])
        self.index = 0

    def __next__(self) -> Any:
        self.index += 1
        return self._batch

    def state(self) -> dict[str, int]:
        return {"index": self.index}

    def restore(self, state: dict[str, int]) -> None:
        self.index = state["index"]


class Clock:
    """CPU seconds of the loop's thread and of the process, at each log line of a step. Other work on the machine counts
    little in them."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float]] = []

    def __call__(self, line: str) -> None:
        if line.startswith("step "):
            self.at.append((time.thread_time(), time.process_time()))

    def per_interval(self) -> list[float]:
        """(CPU seconds of the thread, of the process) of EVERY steps, medians over the run."""
        ends = self.at[EVERY - 1 :: EVERY][1:]
        return [statistics.median(b[i] - a[i] for a, b in itertools.pairwise(ends)) for i in range(2)]


class HeldOutRows:
    """A held-out set of one batch, in memory."""

    name, rows, sha256 = "counting", ROWS, "the same in every run"
    groups = ((("en", "counting", "none"), ROWS),)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        ones = np.ones(LENGTH, int)
        return np.stack([make_row((13 * row + np.arange(LENGTH)) % VOCAB, ones, ones) for row in indices])


def config(steps: int) -> RunConfig:
    return RunConfig(
        name="overhead",
        model=ModelConfig(
            num_layers=6, model_dim=256, mlp_dim=704, num_heads=8, num_kv_heads=2, head_dim=32, vocab_size=VOCAB,
            padded_vocab_size=4096, rope_base=10_000.0, norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=1e-4, final_lr_fraction=0.1, warmup_steps=2, total_steps=steps, beta1=0.9, beta2=0.95, eps=1e-8,
            weight_decay=0.1, clip_norm=1.0,
        ),
        data=DataConfig(mixture="none", modules=(), tokenizer="", cache_dir="", seq_len=LENGTH),
        checkpoint=CheckpointConfig(every_steps=steps // 3, keep=1),
        global_batch_size=ROWS,
        seed=0,
        log_every_steps=1,
        health=HealthConfig(spike=20.0, window=8),
    )  # fmt: skip


def bare(steps: int) -> float:
    """Seconds per step of the compiled step alone, the median."""
    c = config(steps)
    mesh = run_mesh(c)
    objective, tx = token_objective(c, mesh), make_optimizer(c.optim)
    step, state = compile_step(objective, tx, c.optim, mesh), init_state(objective, tx, mesh, seed=0)
    batch, ended = jax.device_put(next(Rows()), mesh.devices.flat[0]), []
    for _ in range(steps):
        state, values = step(state, batch)
        jax.block_until_ready(values)
        ended.append(time.perf_counter())
    return statistics.median(after - before for before, after in itertools.pairwise(ended[WARM:]))


def looped(steps: int, folder: Path, *, validated: bool = False, local: bool = False) -> dict[str, float]:
    """The same by the loop: seconds per step, seconds a save blocks, and the host's own part."""
    c, saves = config(steps), 2  # the last step's save comes after its record, so two of three are in it
    if local:
        saving = CheckpointConfig(
            every_steps=steps, keep=1, local_every_steps=EVERY, local_dir=str(folder.with_name("local"))
        )
        c, saves = dataclasses.replace(c, checkpoint=saving), (steps - 1) // EVERY - (WARM - 1) // EVERY
    if validated:
        c = dataclasses.replace(c, eval=EvalConfig(every_steps=EVERY))
    held_out = HeldOut([HeldOutRows()]) if validated else NOTHING
    clock = Clock()
    train(c, Rows(), run_dir=folder, held_out=held_out, reporting=dataclasses.replace(SILENT, echo=clock))
    thread_s, process_s = clock.per_interval()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    at = {r["step"]: r["time"] - r["spent_s"]["validation"] for r in records}
    starts = range(EVERY, steps - EVERY + 1, EVERY)
    return {
        "thread_interval_s": thread_s,
        "process_interval_s": process_s,
        "interval_step_s": statistics.median((at[s + EVERY] - at[s]) / EVERY for s in starts),
        # A median, so that the few steps beside which a save is written, on the step's own cores, do not count.
        "step_s": statistics.median(b["time"] - a["time"] for a, b in itertools.pairwise(records[WARM:])),
        "blocked_s": (records[-1]["spent_s"]["save"] - records[WARM - 1]["spent_s"]["save"]) / saves,
        "busy_s": statistics.median(r["host_busy_s"] for r in records[WARM:]),
    }


def first_call(cache: Path) -> float:
    """Seconds of the first step's call in a process of its own."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--start", folder], env=environment, check=True)
        record = json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])
    return record["spent_s"]["compile"]


def of_validation(plain: Sequence[dict[str, float]], validated: Sequence[dict[str, float]]) -> dict[str, float]:
    """What a validation adds, from runs without and with them."""

    def median(runs: Sequence[dict[str, float]], name: str) -> float:
        return statistics.median(run[name] for run in runs)

    more = median(validated, "thread_interval_s") - median(plain, "thread_interval_s")
    return {
        "interval_step_s": median(plain, "interval_step_s"),
        "validated_step_s": median(validated, "interval_step_s"),
        "validated_overhead_share": median(validated, "interval_step_s") / median(plain, "interval_step_s") - 1,
        "step_cpu_s": median(plain, "process_interval_s") / EVERY,
        "validation_cpu_s": median(validated, "process_interval_s") - median(plain, "process_interval_s"),
        "validation_thread_s": more,
        "validation_thread_share_of_a_step": more / median(plain, "interval_step_s"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.start:
        short = dataclasses.replace(config(3), checkpoint=CheckpointConfig(every_steps=3, keep=1))
        train(short, Rows(), run_dir=a.start, reporting=SILENT)
        return
    alone, loops, validated, local = [], [], [], []
    for _ in range(a.repeats if a.validation else 0):
        with tempfile.TemporaryDirectory() as folder:
            loops.append(looped(a.steps, Path(folder) / "plain"))
            validated.append(looped(a.steps, Path(folder) / "validated", validated=True))
    if a.validation:
        report(of_validation(loops, validated), a.json, {"loops": loops, "validated": validated})
        return
    for _ in range(a.repeats):
        alone.append(bare(a.steps))
        with tempfile.TemporaryDirectory() as folder:
            loops.append(looped(a.steps, Path(folder) / "plain"))
            validated.append(looped(a.steps, Path(folder) / "validated", validated=True))
            local.append(looped(a.steps, Path(folder) / "saved", local=True))
    step_s = statistics.median(alone)
    loop = {name: statistics.median(parts[name] for parts in loops) for name in loops[0]}
    locally = {name: statistics.median(parts[name] for parts in local) for name in local[0]}
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = first_call(Path(cache)), first_call(Path(cache))
    figures = {
        "bare_step_s": step_s,
        "loop_step_s": loop["step_s"],
        "overhead_share": loop["step_s"] / step_s - 1,
        **of_validation(loops, validated),
        "local_step_s": locally["interval_step_s"],
        "local_overhead_share": statistics.median(one["interval_step_s"] for one in local) / loop["interval_step_s"]
        - 1,
        "local_blocked_s": locally["blocked_s"],
        "host_busy_share": loop["busy_s"] / loop["step_s"],
        "blocked_s": loop["blocked_s"],
        "blocked_share_of_a_step": loop["blocked_s"] / loop["step_s"],
        "blocked_share_of_an_interval": loop["blocked_s"] / (loop["step_s"] * (a.steps // 3)),
        "first_call_s": cold,
        "first_call_cached_s": warm,
    }
    report(figures, a.json, {"bare": alone, "loops": loops, "validated": validated, "local": local})


def report(figures: dict[str, float], file: Path | None, repeats: dict[str, Any]) -> None:
    """Prints the figures; `file` gets them too, and those of each repeat."""
    for name, value in figures.items():
        print(f"{name:34} {value:.4f}")
    if file:
        file.write_text(json.dumps(figures | repeats, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
