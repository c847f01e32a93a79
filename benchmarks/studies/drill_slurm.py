"""Preemption drill under a real Slurm: a job of two nodes, one of which loses its task, is queued again and resumes.

    python benchmarks/studies/drill_slurm.py [--steps 300] [--json FILE]
    python benchmarks/studies/drill_slurm.py --elastic      a node is gone for a third of the steps, and comes back

As root, after `apt-get install slurm-wlm munge`. A controller and two nodes are started on this machine
(tests/slurm_up.sh). `launch/run.sh slurm` submits a small run from a copy of the repository, once undisturbed and once
disturbed: the task of the second node gets SIGKILL, and the disk of that node (its local saves) is emptied. The job's
script then has Slurm queue it again, and it resumes.

With --elastic the job takes one or two nodes (NODES=1-2, --mesh.least-data 1). A third of the way node 2 is drained and
its task gets SIGKILL: the job is queued again, and goes on with the other node, which computes twice as many
micro-batches. Two thirds of the way node 2 is resumed, and the job is queued again, as a person would do it, and takes
both.

It prints how often the job was started, from which step it resumed, and whether the final weights and optimiser state
are bit-identical. It exits with 5 when they are not, or when the job was not queued again. With --elastic it prints the
nodes of each start and the largest difference of a loss to the undisturbed run, and exits with 5 when a start had other
nodes than expected or a loss differs by more than SAME_LOSS: there sums are added in another order.

Differences to a cluster: the nodes have no GPUs, so the job asks for none (SBATCH_GPUS_PER_NODE), and their names are
in no DNS, so the coordinator's address is given (JAX_COORDINATOR_ADDRESS).
"""

import argparse
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drill import last_step, state_sha256

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 1200.0
PAUSE_S = 5.0
"""Slurm refuses a job that starts in the second in which it was queued again: "Job credential revoked"."""
SAME_LOSS = 1e-4
TEXTS, LINES = ("corpus_zh.jsonl", "corpus_en.jsonl", "sft.jsonl"), 200
CONFIG = """
from tigerjax.config import *

def config():
    return RunConfig(
        name="drill",
        model=ModelConfig(num_layers=2, model_dim=32, mlp_dim=48, num_heads=4, num_kv_heads=2, head_dim=8,
                          vocab_size=950, padded_vocab_size=1024, rope_base=5000.0, norm_eps=1e-5),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=512),
        mesh=MeshConfig(fsdp=2),
        optim=OptimConfig(peak_lr=3e-3, final_lr_fraction=0.1, warmup_steps=2, total_steps=300, beta1=0.9, beta2=0.95,
                          eps=1e-8, weight_decay=0.1, clip_norm=1.0),
        data=DataConfig(mixture="drill", modules=("drill_mixture",), tokenizer="tok", cache_dir="rows", seq_len=64),
        checkpoint=CheckpointConfig(every_steps=100, keep=2, local_every_steps=10, local_dir="disks"),
        global_batch_size=8, seed=0, log_every_steps=1)
"""
MIXTURE = """
from tigerjax.data.mixture import Source, holistic
holistic("drill", tokenizer="tok", zh={"a": Source("corpus_zh.jsonl")}, en={"b": Source("corpus_en.jsonl")},
         instruct=Source("sft.jsonl"), instruct_fraction=0.1)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A Slurm of two nodes; the environment that names it."""
    named = {"SLURM_CONF": str(folder / "slurm.conf"), "SLURM_UP_PORT": str(free_port())}
    try:
        subprocess.run(["sh", ROOT / "tests" / "slurm_up.sh", folder], env=os.environ | named, check=True)
        until(lambda: "idle" in said(["sinfo"], os.environ | named), "no node is idle")
        yield named
    finally:
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                process = int((folder / f"{name}.pid").read_text())
                os.kill(process, signal.SIGTERM)
                until(functools.partial(gone, process), f"{name} did not end")  # it writes to the folder until then


def until(fine: Callable[[], Any], what: str) -> None:
    """Returns when `fine()` is; RuntimeError with `what` when that takes too long."""
    end = time.monotonic() + WAIT_S
    while not fine():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} after {WAIT_S:.0f} s")
        time.sleep(0.1)


def gone(process: int) -> bool:
    """Whether a process has ended, though its parent may not have asked for it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def said(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout


def copied(work: Path) -> Path:
    """A copy of the repository with a config, a mixture and a tokenizer for it."""
    repo = work / "repo"
    for name in ("tigerjax", "launch", "data_mixtures"):
        shutil.copytree(ROOT / name, repo / name, ignore=shutil.ignore_patterns("__pycache__"))
    (repo / ".venv").symlink_to(sys.prefix)
    (repo / "configs").mkdir()
    (repo / "configs" / "drill.py").write_text(CONFIG)
    (repo / "drill_mixture.py").write_text(MIXTURE)
    for name in TEXTS:
        lines = (ROOT / "data_mixtures" / "embedded" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (repo / name).write_text("".join(lines[:LINES]), encoding="utf-8")
    return repo


def task(job: str, number: int) -> int | None:
    """The process of a task of the job, which Slurm's variables name."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (place / "environ").read_bytes().split(b"\0")
            wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={number}".encode()}
            if wanted <= set(variables) and b"\0train\0" in (place / "cmdline").read_bytes():
                return int(place.name)
    return None


def kill(job: str) -> None:
    """SIGKILL for the task of the job's second node."""
    victim = task(job, 1)
    if victim is None:
        raise RuntimeError("the task of the second node was not found")
    os.kill(victim, signal.SIGKILL)


def submitted(repo: Path, out: str, steps: int, env: dict[str, str], *more: str) -> str:
    """Submits the run to the folder `out`; the number of its job."""
    words = [
        "bash",
        "launch/run.sh",
        "slurm",
        "configs/drill.py",
        "--out",
        out,
        "--optim.total-steps",
        str(steps),
        *more,
    ]
    done = subprocess.run(words, cwd=repo, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"launch/run.sh slurm ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.split()[-1]


def restarts(job: str, env: dict[str, str]) -> int:
    """How often Slurm has queued a job again."""
    found = re.search(r"Restarts=(\d+)", said(["scontrol", "show", "job", job], env))
    return int(found[1]) if found else 0


def finish(job: str, repo: Path, env: dict[str, str]) -> None:
    """Waits for the end of a job; one that was queued again need not wait for the time that Slurm sets for that."""

    def ended() -> bool:
        state = re.search(r"JobState=(\w+)", said(["scontrol", "show", "job", job], env))
        if state is not None and state[1] == "PENDING":
            time.sleep(PAUSE_S)
            said(["scontrol", "update", f"JobId={job}", "StartTime=now"], env)
        return state is not None and state[1] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    until(ended, "the job has not ended")
    if "JobState=COMPLETED" not in said(["scontrol", "show", "job", job], env):
        raise RuntimeError("the job failed: …" + next(repo.glob(f"*-{job}.log")).read_text()[-3000:])


def prepared(work: Path) -> tuple[Path, dict[str, str]]:
    """(A copy of the repository with all that the run needs, the environment of its commands.)"""
    repo = copied(work)
    env = os.environ | {
        "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(repo), "NODES": "2", "GPUS_PER_NODE": "1",
        "SBATCH_GPUS_PER_NODE": "0", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "XLA_FLAGS": "",
    }  # fmt: skip
    tokenizer = ["tokenizer", "train", "--vocab-size", "950", "--out", "tok", "--input", *TEXTS[:2]]
    subprocess.run([".venv/bin/tigerjax", *tokenizer], cwd=repo, env=env, check=True)
    return repo, env


def elastic(work: Path, *, steps: int) -> dict[str, Any]:
    repo, env = prepared(work)
    run, mesh = repo / "drilled", ["--mesh.data", "2", "--mesh.fsdp", "1"]
    with cluster(work / "slurm") as named:
        env |= named
        finish(submitted(repo, "whole", steps, env, *mesh), repo, env)
        until(lambda: said(["sinfo", "-h", "-N", "-o", "%T"], env).split() == ["idle"] * 2, "a node is not idle")
        job = submitted(repo, "drilled", steps, env | {"NODES": "1-2"}, *mesh, "--mesh.least-data", "1")
        until(lambda: last_step(run) >= steps // 3, "the run did not come to its first third")
        said(["scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=drill"], env)
        kill(job)
        until(lambda: again(job, 1, env), "the job was not queued again")
        until(lambda: copies(run) == [2, 1], "the run did not go on with one node")
        until(lambda: last_step(run) >= 2 * steps // 3, "the run did not come to its second third")
        said(["scontrol", "update", "NodeName=n2", "State=RESUME"], env)
        until(lambda: "drain" not in said(["sinfo", "-h", "-N", "-o", "%T"], env), "node 2 did not come back")
        said(["scontrol", "requeue", job], env)
        finish(job, repo, env)
    losses = [[record["loss_nats"] for record in records(repo / name)] for name in ("whole", "drilled")]
    differences = [abs(a - b) for a, b in zip(*losses, strict=True)]
    return {"steps": steps, "nodes_of_each_start": copies(run), "largest_difference": max(differences)}


def again(job: str, wanted: int, env: dict[str, str]) -> bool:
    """Whether Slurm has queued the job again so often; it then need not wait for the time that Slurm sets."""
    if restarts(job, env) < wanted:
        return False
    time.sleep(PAUSE_S)
    said(["scontrol", "update", f"JobId={job}", "StartTime=now"], env)
    return True


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def copies(run: Path) -> list[int]:
    """With how many copies of the model each start of the run went on."""
    there = (run / "events.jsonl").read_text().splitlines() if (run / "events.jsonl").is_file() else []
    return [event["present"] for event in map(json.loads, there) if event["event"] == "copies"]


def drill(work: Path, *, steps: int) -> dict[str, Any]:
    repo, env = prepared(work)
    with cluster(work / "slurm") as named:
        env |= named
        finish(submitted(repo, "whole", steps, env), repo, env)
        job, began = submitted(repo, "drilled", steps, env), time.monotonic()
        until(lambda: last_step(repo / "drilled") >= steps // 2, "the disturbed run did not come to its middle")
        before = restarts(job, env)
        kill(job)
        until(lambda: restarts(job, env) > before, "the job was not queued again")
        reached = last_step(repo / "drilled")
        for disk in (repo / "disks").glob("*/1"):
            shutil.rmtree(disk)
        finish(job, repo, env)
        log, queued_again = next(repo.glob(f"*-{job}.log")).read_text(), restarts(job, env)
    resumed = re.findall(r"resuming drill from step (\d+)", log)
    return {
        "steps": steps,
        "reached": reached,
        "queued_again": queued_again,
        "resumed_from": int(resumed[-1]) if resumed else None,
        "from_local_saves": "is taken from the local saves" in log,
        "bit_identical": state_sha256(repo / "whole", steps) == state_sha256(repo / "drilled", steps),
        "disturbed_s": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--elastic", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if missing or os.getuid():
        print(f"{' and '.join(missing) or 'root'} is needed: apt-get install slurm-wlm munge, and be root")
        return 2
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        figures = (elastic if given.elastic else drill)(Path(work), steps=given.steps)
    for name, value in figures.items():
        print(f"{name:20} {value}")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    if given.elastic:
        return 0 if figures["nodes_of_each_start"] == [2, 1, 2] and figures["largest_difference"] <= SAME_LOSS else 5
    return 0 if figures["bit_identical"] and figures["resumed_from"] else 5


if __name__ == "__main__":
    sys.exit(main())
