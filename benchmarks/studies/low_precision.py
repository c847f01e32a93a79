"""Loss curves of training in int8 and float8 (`compute.quantise`) beside bfloat16's, on the manual of the Python that
runs.

    python benchmarks/studies/low_precision.py --out runs/low_precision      finished runs are read, not made again
    python benchmarks/studies/low_precision.py --out runs/low_precision --model quickstart --seeds 0 1 2 3
    python benchmarks/studies/low_precision.py --out runs/low_precision --write      the table of docs/TPU.md

The models are the quick start's and one of 32 million weights, with 256 entries instead of their vocabularies. They
read bytes as in `optimisers.py`; each arm sees the same rows from the same weights. The figure is the held-out loss, in
nats per byte, after each quarter of the run, and the largest distance from that of bfloat16: of the mean over seeds,
with its standard error, and of one seed. The arm `float32` has no rounding: its distance is that of bfloat16 itself.

The rounded numbers are multiplied in float32, which holds each of their products exactly. A CPU has no products of
whole numbers or of float8 that are as fast. Sums of more than 2^24 in int8 are rounded to float32.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported
sys.path.append(str(Path(__file__).resolve().parents[1] / "speed"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tpu"))
import jax
import jax.numpy as jnp
import optimisers
from tpu_table import DOC, write
from train_beside_transformers import model_config

from tigerjax.config import RunConfig
from tigerjax.model import low_precision
from tigerjax.model.llama.presets import quickstart_base
from tigerjax.train.held_out import HeldOut
from tigerjax.train.loop import train

ARMS = ("none", "float32", "int8", "fp8", "fp8_full")
STEPS = {"quickstart": 240, "30m": 60}
ROWS = {"quickstart": 8, "30m": 4}
"""Of a step."""
RATES = {"quickstart": 2e-3, "30m": 1e-3}
HELD_OUT_ROWS = {"quickstart": 64, "30m": 32}


def in_float32(x: jax.Array, w: jax.Array, over: Any, dtype: Any) -> jax.Array:
    """`low_precision.product`."""
    return jax.lax.dot_general(x.astype(jnp.float32), w.astype(jnp.float32), (over, ((), ()))).astype(dtype)


def config(model: str, arm: Any, seed: int) -> RunConfig:
    optimisers.BATCH = ROWS[model]
    run = optimisers.config("adamw", RATES[model], STEPS[model], seed)
    sizes = quickstart_base() if model == "quickstart" else model_config("30m")
    bytes_ = dataclasses.replace(sizes, vocab_size=optimisers.BYTES, padded_vocab_size=optimisers.BYTES)
    return dataclasses.replace(
        run, name="low_precision", model=bytes_,
        compute=dataclasses.replace(
            run.compute,
            dtype="float32" if arm == "float32" else "bfloat16", quantise="none" if arm == "float32" else arm,
        ),
    )  # fmt: skip


def curve(model: str, arm: str, seed: int) -> list[float]:
    """The held-out loss after each quarter."""
    low_precision.product = in_float32
    trained, held = optimisers.rows()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        read = HeldOut([optimisers.Held(held[: HELD_OUT_ROWS[model]])])
        run_config = config(model, arm, seed)
        loader = optimisers.Loader(trained, seed)
        train(run_config, loader, run_dir=run, held_out=read, reporting=optimisers.SILENT)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["validation"]["manual"]["loss_nats"] for record in records if "validation" in record]


def cells(model: str, arm: str, found: dict[str, dict[int, list[float]]]) -> list[str]:
    """A row of the table: the mean over seeds, the largest distance of it from bfloat16 with its standard error, and
    that of one seed, in %."""
    both = sorted(found[arm].keys() & found["none"].keys())
    curves, plain = ([found[name][seed] for seed in both] for name in (arm, "none"))
    means, wanted = ([statistics.mean(quarter) for quarter in zip(*own, strict=True)] for own in (curves, plain))
    shown = [f"{mean:.4f}" for mean in means]
    if arm == "none":
        return [model, "bfloat16", str(len(both)), *shown, "", "", ""]
    of_means = [100 * abs(own / other - 1) for own, other in zip(means, wanted, strict=True)]
    of_seeds = [
        [100 * (own[quarter] / other[quarter] - 1) for own, other in zip(curves, plain, strict=True)]
        for quarter in range(len(means))
    ]
    largest = max(range(len(means)), key=lambda quarter: of_means[quarter])
    error = f"{statistics.stdev(of_seeds[largest]) / len(both) ** 0.5:.2f}" if len(both) > 1 else ""
    of_one = max(abs(distance) for quarter in of_seeds for distance in quarter)
    return [model, arm, str(len(both)), *shown, f"{of_means[largest]:.2f}", error, f"{of_one:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/low_precision"), help="folder of the runs' JSON files")
    parser.add_argument("--model", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help="train nothing; put the runs that are there into docs")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    head = ["model", "products", "seeds", "25% of steps", "50%", "75%", "100%"]
    head += ["distance, %", "standard error, %", "of one seed, %"]
    print(" | ".join(head), flush=True)
    rows = []
    for model in a.model:
        found: dict[str, dict[int, list[float]]] = {arm: {} for arm in ARMS}
        for arm in a.arms:
            for seed in a.seeds:
                path = a.out / f"{model}_{arm}_{seed}.json"
                if not a.write and not path.is_file():
                    path.write_text(json.dumps(curve(model, arm, seed)) + "\n", encoding="utf-8")
                if path.is_file():
                    found[arm][seed] = json.loads(path.read_text(encoding="utf-8"))
            if found[arm] and found["none"]:
                rows.append(cells(model, arm, found))
                print(" | ".join(rows[-1]), flush=True)
    if a.write:
        write(DOC, "low_precision", head, rows)


if __name__ == "__main__":
    main()
