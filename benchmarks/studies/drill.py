"""Preemption drill: a run of two processes, killed at random moments and started again, ends with the same weights.

    python benchmarks/studies/drill.py [--kills 20] [--steps 400] [--seed 0] [--json FILE]

First the run goes through undisturbed. Then it is disturbed --kills times and started again each time. One process or
both get SIGKILL: one time in three at a random moment of the start (imports, restore, compilation), otherwise after a
random number of steps (in a step or a save). Every fifth time the newest checkpoint is also cut in half. Every seventh
time a process is stopped with SIGSTOP instead, until the other one reports that it stalled.

Each process also saves on its own disk every LOCAL_EVERY steps (a folder of its own stands for that). Every second time
that one process alone is killed, its disk is emptied too, as when a machine is replaced.

It prints the disturbances by kind, the starts (and how many of them went on from local saves), the steps done again,
the longest time in which the processes ended, and whether the final weights and optimiser state are bit-identical. It
exits with 5 when they are not, when a save was lost, or when there were too few disturbances.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROCESSES, DEVICES, ROWS, LENGTH, VOCAB, EVERY = 2, 2, 8, 16, 60, 10
LOCAL_EVERY = 2
START_S = 45  # when a process dies before the others have found it, they end only after this long
STALL_S, HEARTBEAT_S = 30, 20  # of the run; after a kill it must end within the sum of both and 30 s
STEP_S = 0.02  # a step waits as long for its batch, so that hits fall into steps and not into start-ups only


class Rows:
    """Batch i holds rows counting upwards from numbers drawn with seed i."""

    def __init__(self, mine: list[int]):
        self.mine, self.index = mine, 0

    def __next__(self) -> Any:
        import numpy as np

        from tigerjax.data.rows import make_batch, make_row

        time.sleep(STEP_S)
        first = np.random.default_rng(self.index).integers(0, VOCAB, ROWS)
        self.index += 1
        ones = np.ones(LENGTH, int)
        return make_batch([make_row((first[row] + np.arange(LENGTH)) % VOCAB, ones, ones) for row in self.mine])

    def state(self) -> dict[str, int]:
        return {"index": self.index}

    def restore(self, state: dict[str, int]) -> None:
        self.index = state["index"]


def worker(folder: Path, steps: int) -> None:
    """One process of the run; the coordinator is in JAX's variables."""
    from tigerjax import config as c
    from tigerjax.mesh import host_rows, run_mesh
    from tigerjax.processes import hosts
    from tigerjax.processes.rendezvous import HostsConfig
    from tigerjax.train.loop import train
    from tigerjax.train.metrics import Reporting

    hosts.start(
        HostsConfig(
            start_timeout_s=START_S, stall_timeout_s=STALL_S, barrier_timeout_s=60, heartbeat_timeout_s=HEARTBEAT_S
        )
    )
    config = c.RunConfig(
        name="drill",
        model=c.ModelConfig(
            num_layers=2, model_dim=32, mlp_dim=48, num_heads=4, num_kv_heads=2, head_dim=10, vocab_size=VOCAB,
            padded_vocab_size=64, rope_base=5000.0, norm_eps=1e-5,
        ),
        compute=c.ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=64),
        mesh=c.MeshConfig(fsdp=PROCESSES * DEVICES),
        optim=c.OptimConfig(
            peak_lr=1e-2, final_lr_fraction=0.1, warmup_steps=2, total_steps=steps, beta1=0.9, beta2=0.95, eps=1e-8,
            weight_decay=0.1, clip_norm=1.0,
        ),
        data=c.DataConfig(mixture="drill", modules=(), tokenizer="", cache_dir="", seq_len=LENGTH),
        checkpoint=c.CheckpointConfig(
            every_steps=EVERY, keep=3, local_every_steps=LOCAL_EVERY, local_dir=str(folder.with_name("disks"))
        ),
        global_batch_size=ROWS,
        seed=0,
        log_every_steps=1,
    )  # fmt: skip
    with hosts.together():
        mesh = run_mesh(config)
        train(config, Rows(host_rows(mesh, ROWS)), run_dir=folder, mesh=mesh, reporting=Reporting(progress=False))


def start(folder: Path, steps: int, log: Path, cache: Path) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for process in range(PROCESSES):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(PROCESSES),
            "JAX_PROCESS_ID": str(process),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, __file__, "--worker", str(folder), "--steps", str(steps)]
        with open(log, "a") as out:
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
    return started


def ends(started: list[subprocess.Popen[bytes]], limit_s: float) -> list[int]:
    """The exit codes; RuntimeError when they do not come in time: that is a hang."""
    until = time.monotonic() + limit_s
    try:
        return [process.wait(max(until - time.monotonic(), 0.1)) for process in started]
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no end within {limit_s:.0f} s: a hang") from error
    finally:
        for process in started:
            process.kill()


def saved(folder: Path) -> list[int]:
    """Steps whose checkpoints are complete, newest first."""
    names = [p.name for p in (folder / "checkpoints").glob("*")] if (folder / "checkpoints").is_dir() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def cut(folder: Path) -> int | None:
    """Cuts the longest file of the newest checkpoint in half, when there is another one to fall back to; its step."""
    if len(have := saved(folder)) < 2:
        return None
    files = [p for p in (folder / "checkpoints" / str(have[0])).rglob("*") if p.is_file()]
    longest = max(files, key=lambda p: p.stat().st_size)
    os.truncate(longest, longest.stat().st_size // 2)
    return have[0]


def state_sha256(folder: Path, step: int) -> str:
    """Of every array of weights and optimiser state, as one process reads them."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    total = hashlib.sha256()
    for room in ("weights", "opt_state"):
        path = folder / "checkpoints" / str(step) / room
        handler = ocp.PyTreeCheckpointHandler()  # not in a Checkpointer, as in tigerjax.checkpoint.model
        whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
        arrays = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=whole))
        handler.close()
        for name, leaf in jax.tree_util.tree_leaves_with_path(arrays):
            total.update(jax.tree_util.keystr(name).encode() + np.asarray(leaf).tobytes())
    return total.hexdigest()


def drill(work: Path, *, kills: int, steps: int, seed: int) -> dict[str, Any]:
    draw, cache, log = random.Random(seed), work / "compiled", work / "log"
    began = time.monotonic()
    if codes := [code for code in ends(start(work / "whole", steps, log, cache), 3600) if code]:
        raise RuntimeError(f"the undisturbed run ended with {codes}: …{log.read_text()[-3000:]}")
    whole_s = time.monotonic() - began
    spent = json.loads((work / "whole" / "metrics.jsonl").read_text().splitlines()[-1])["spent_s"]
    start_s = spent["start"] + spent["compile"]

    folder, hits = work / "drilled", {"one": 0, "all": 0, "cut": 0, "stall": 0, "disk": 0}
    starts, again, lost, slowest_s = 0, 0, 0, 0.0
    broken: int | None = None
    while True:
        before, reached, said = (
            [step for step in saved(folder) if step != broken],
            last_step(folder),
            log.stat().st_size,
        )
        started, starts = start(folder, steps, log, cache), starts + 1
        number = starts  # one hit a start
        hit = sum(hits[kind] for kind in ("one", "all", "stall")) < kills
        began_here, late_s, ahead = time.monotonic(), draw.uniform(0.0, start_s), draw.randint(1, 2 * steps // kills)
        at_step = None if draw.random() < 1 / 3 else (saved(folder) or [0])[0] + ahead
        while hit and all(process.poll() is None for process in started):
            if at_step is None and time.monotonic() - began_here > late_s:
                break
            if at_step is not None and last_step(folder) >= at_step:
                time.sleep(draw.uniform(0.0, 2 * STEP_S))
                break
            time.sleep(0.01)
        alive = all(process.poll() is None for process in started)
        at = time.monotonic()
        if hit and alive:
            victim = draw.choice(started)
            kind = "stall" if number % 7 == 0 else draw.choice(["one", "all"])
            hits[kind] += 1
            for process in started if kind == "all" else [victim]:
                process.send_signal(signal.SIGSTOP if kind == "stall" else signal.SIGKILL)
            if kind == "stall":  # the others end by themselves; then the stalled one is taken away
                ends([process for process in started if process is not victim], STALL_S + HEARTBEAT_S + 30)
                victim.kill()
        codes = ends(started, 3600 if not (hit and alive) else STALL_S + HEARTBEAT_S + 30)
        if hit and alive:
            slowest_s = max(slowest_s, time.monotonic() - at)
        lost += bool(before and (not saved(folder) or saved(folder)[0] < before[0]))
        if resumed := re.findall(r"resuming drill from step (\d+)", log.read_text()[said:]):
            again += reached - int(resumed[0])
        if not any(codes):
            break
        if not (hit and alive):
            raise RuntimeError(f"a run that nobody hit ended with {codes}: …{log.read_text()[-3000:]}")
        if hit and alive and kind == "one" and hits["one"] % 2:
            for disk in (work / "disks").glob(f"*/{started.index(victim)}"):
                shutil.rmtree(disk)
                hits["disk"] += 1
        broken = cut(folder) if number % 5 == 0 else None
        hits["cut"] += broken is not None
    same = state_sha256(work / "whole", steps) == state_sha256(folder, steps)
    return {
        "hits": hits,
        "hits_wanted": kills,
        "starts": starts,
        "starts_from_local_saves": log.read_text().count("is taken from the local saves"),
        "steps": steps,
        "steps_done_again": again,
        "saves_lost": lost,
        "slowest_end_s": round(slowest_s, 1),
        "bit_identical": same,
        "undisturbed_s": round(whole_s, 1),
        "drilled_s": round(time.monotonic() - began - whole_s, 1),
    }


def last_step(folder: Path) -> int:
    """Of the last whole line of metrics.jsonl, which a process may be writing; 0 when there is none."""
    path = folder / "metrics.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.is_file() else []
    return json.loads(whole[-1])["step"] if whole else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        worker(given.worker, given.steps)
        return 0
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as work:
        figures = drill(Path(work), kills=given.kills, steps=given.steps, seed=given.seed)
    for name, value in figures.items():
        print(f"{name:20} {value}")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    enough = sum(figures["hits"][kind] for kind in ("one", "all", "stall")) >= given.kills  # else raise --steps
    return 0 if enough and figures["bit_identical"] and not figures["saves_lost"] else 5


if __name__ == "__main__":
    sys.exit(main())
