"""Loss curves of the optimisers beside AdamW's, on the manual of the Python that runs.

    python benchmarks/studies/optimisers.py [--steps 120] [--rates 1e-3 4e-3] [--seed 0] [--json FILE]

A small Llama reads bytes of `pydoc_data.topics`, the chapters of Python's language reference: about 0.47 million.
Every tenth row is held out, and 32 of these are measured. Each optimiser trains on the same rows from the same weights,
at each peak rate, with cosine decay to a tenth. The table has the held-out loss in nats per byte at the rate whose last
loss is the lowest.
"""

import argparse
import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

import numpy as np

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvalConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from tigerjax.data.rows import make_batch, make_row
from tigerjax.train.held_out import HeldOut
from tigerjax.train.loop import train
from tigerjax.train.metrics import Reporting

BYTES, LENGTH, BATCH, HELD_OUT = 256, 128, 8, 10
SILENT = Reporting(progress=False, echo=lambda line: None)
ARMS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adamw_8bit": {"kind": "adamw_8bit"},
    "muon": {"kind": "muon"},
    "adafactor": {"kind": "adafactor", "beta2": None, "eps": None},
    "adafactor, beta1 = 0": {"kind": "adafactor", "beta1": 0.0, "beta2": None, "eps": None},
}


def rows() -> tuple[np.ndarray, np.ndarray]:
    """(rows of training, held-out rows) of the manual, [R, 3, LENGTH]."""
    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    bytes_RT = np.frombuffer(text[: len(text) // LENGTH * LENGTH], np.uint8).reshape(-1, LENGTH)
    ones = np.ones(LENGTH, int)
    rows_R3T = np.stack([make_row(row.astype(np.int32), ones, ones) for row in bytes_RT])
    held = np.arange(len(rows_R3T)) % HELD_OUT == 0
    return rows_R3T[~held], rows_R3T[held]


class Loader:
    """Batches of rows in a seeded order, each row once in an epoch."""

    def __init__(self, rows_R3T: np.ndarray, seed: int):
        self._rows_R3T, self._seed, self._taken = rows_R3T, seed, 0

    def __next__(self) -> Any:
        epoch, at = divmod(self._taken, len(self._rows_R3T) // BATCH)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._rows_R3T))
        self._taken += 1
        return make_batch(self._rows_R3T[order[at * BATCH : (at + 1) * BATCH]])

    def state(self) -> dict[str, int]:
        return {"taken": self._taken}

    def restore(self, state: dict[str, int]) -> None:
        self._taken = state["taken"]


class Held:
    """The held-out rows."""

    name, sha256 = "manual", "of the Python that runs"

    def __init__(self, rows_R3T: np.ndarray):
        self._rows_R3T, self.rows = rows_R3T, len(rows_R3T)
        self.groups = ((("en", "manual", "none"), self.rows),)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self._rows_R3T[list(indices)]


def config(arm: str, rate: float, steps: int, seed: int) -> RunConfig:
    optim = OptimConfig(
        peak_lr=rate, final_lr_fraction=0.1, warmup_steps=min(20, steps // 4), total_steps=steps, beta1=0.9, beta2=0.95,
        eps=1e-8, weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip
    return RunConfig(
        name="optimisers",
        model=ModelConfig(
            num_layers=2, model_dim=96, mlp_dim=256, num_heads=3, num_kv_heads=1, head_dim=32, vocab_size=BYTES,
            padded_vocab_size=BYTES, rope_base=10_000.0, norm_eps=1e-5,
        ),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024),
        mesh=MeshConfig(),
        optim=dataclasses.replace(optim, **ARMS[arm]),
        data=DataConfig(mixture="none", modules=(), tokenizer="", cache_dir="", seq_len=LENGTH),
        checkpoint=CheckpointConfig(every_steps=steps, keep=1),
        global_batch_size=BATCH,
        seed=seed,
        log_every_steps=steps,
        eval=EvalConfig(every_steps=steps // 4),
    )  # fmt: skip


def losses(arm: str, rate: float, steps: int, seed: int, held_R3T: np.ndarray, rows_R3T: np.ndarray) -> list[float]:
    """The held-out loss after each quarter of the run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        held = HeldOut([Held(held_R3T)])
        train(config(arm, rate, steps, seed), Loader(rows_R3T, seed), run_dir=run, held_out=held, reporting=SILENT)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["validation"]["manual"]["loss_nats"] for record in records if "validation" in record]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 4e-3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    trained, held = rows()
    held = held[:32]  # enough: 4,096 bytes
    found: dict[str, dict[str, list[float]]] = {}
    quarters = [a.steps // 4 * quarter for quarter in (1, 2, 3, 4)]
    print(f"Python {platform.python_version()}, {len(trained):,} rows of {LENGTH} bytes, seed {a.seed}\n", flush=True)
    print("| optimiser | best peak rate | " + " | ".join(f"loss at step {step}" for step in quarters) + " |")
    print("|---|---|" + "---|" * len(quarters))
    for arm in ARMS:
        found[arm] = {f"{rate:g}": losses(arm, rate, a.steps, a.seed, held, trained) for rate in a.rates}
        rate, curve = min(found[arm].items(), key=lambda one: one[1][-1])
        print(f"| `{arm}` | {rate} | " + " | ".join(f"{loss:.3f}" for loss in curve) + " |", flush=True)
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
