"""Seconds to save and restore a training state beside torch.save and safetensors: the same arrays, in turns.

    python benchmarks/speed/checkpoint_peers.py --json checkpoint_peers.json [--scale 1.0] [--repeats 3]

A Llama of 32 million parameters with both moments of Adam, float32 (scale 1.0: 0.38 GB), to the same disk. All are
random numbers, as those of a trained model nearly are. Ours is the trainer's own way: Orbax, with checksums of every
file, and either complete or not there. `blocked` is how long a save keeps the loop waiting, `whole` how long until it
is on disk. A restore is timed twice: `warm`, where the system still has the files in memory, and `cold`, where it has
been asked to forget them (posix_fadvise), so that they come from the disk.
"""

import argparse
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from train_beside_transformers import model_config
from turns import Row, clocked, finish, medians, peer, turns


def forget(folder: Path) -> None:
    """Asks the system to drop the files of a folder from its memory, once they are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of layers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch, st = peer("torch"), peer("safetensors.numpy")
    import jax
    import numpy as np
    from train_step import Run

    from tigerjax.checkpoint.model import make_meta
    from tigerjax.config import ComputeConfig, MeshConfig, OptimConfig
    from tigerjax.mesh import make_mesh
    from tigerjax.train.checkpoint import Checkpointer
    from tigerjax.train.objective import token_objective
    from tigerjax.train.optim import make_optimizer
    from tigerjax.train.state import abstract_state, init_state

    whole = model_config("30m")
    model = dataclasses.replace(whole, num_layers=max(1, round(whole.num_layers * args.scale)))
    compute = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=256)
    optim = OptimConfig(
        peak_lr=1e-4, final_lr_fraction=1.0, warmup_steps=1, total_steps=10, beta1=0.9, beta2=0.95, eps=1e-8,
        weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    run = Run(model, compute, MeshConfig())
    objective, tx = token_objective(run, mesh), make_optimizer(optim)
    state, wanted = init_state(objective, tx, mesh, seed=0), abstract_state(objective, tx, mesh)
    draw = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: leaf if leaf.dtype != np.float32 else jax.device_put(draw.standard_normal(leaf.shape, np.float32)),
        state,
    )
    meta = make_meta(kind=objective.kind, model=model, tokenizer_sha256=None)
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    gigabytes = sum(array.nbytes for array in arrays.values()) / 1e9
    blocked: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def save_ours() -> float:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            checkpoints = Checkpointer(folder, keep=1)
            started = time.perf_counter()
            checkpoints.save(1, state, meta)
            blocked.append(time.perf_counter() - started)
            checkpoints.wait()
            seconds = time.perf_counter() - started
            checkpoints.close()
            return seconds

        def restore_ours() -> float:
            checkpoints = Checkpointer(folder, keep=1)
            checkpoints.newest()
            seconds = clocked(lambda: jax.block_until_ready(checkpoints.restore(wanted)))
            checkpoints.close()
            return seconds

        saved = turns(
            args.repeats,
            {
                "ours": save_ours,
                "torch": lambda: clocked(lambda: torch.save(tensors, folder / "x.pt")),
                "safetensors": lambda: clocked(lambda: st.save_file(arrays, folder / "x.safetensors")),
            },
        )
        sides = {
            "ours": restore_ours,
            "torch": lambda: clocked(lambda: torch.load(folder / "x.pt")),
            "safetensors": lambda: clocked(lambda: st.load_file(folder / "x.safetensors")),
        }

        def cold(side: Callable[[], float]) -> Callable[[], float]:
            def timed() -> float:
                forget(folder)
                return side()

            return timed

        warm_s = turns(args.repeats, sides)
        cold_s = turns(args.repeats, {name: cold(side) for name, side in sides.items()})
    rows = []
    kinds = {"save, whole": saved, "restore, checked, warm": warm_s, "restore, checked, cold": cold_s}
    for verb, timed in kinds.items():
        middle = medians(timed)
        for other in ("torch", "safetensors"):
            beside = {"torch": "torch.save / load", "safetensors": "safetensors.numpy"}[other]
            rows.append(
                Row(f"checkpoint of {gigabytes:.2f} GB, {verb}", "s", middle["ours"], middle[other], beside, "less")
            )
    wait = medians({"ours": blocked})["ours"]
    rows.insert(2, Row("checkpoint, the loop waits", "s", wait, medians(saved)["torch"], "torch.save", "less"))
    raw = {"save_s": saved, "blocked_s": blocked, "restore_s": warm_s, "restore_cold_s": cold_s, "gigabytes": gigabytes}
    finish(rows, raw, args.json)


if __name__ == "__main__":
    main()
