"""Loss curves of training in int8 and float8 (`compute.quantise`) beside bfloat16's, on the manual of the Python that
runs.

    python benchmarks/studies/low_precision.py --out runs/low_precision      finished runs are read, not made again
    python benchmarks/studies/low_precision.py --out runs/low_precision --model quickstart --seeds 0
    python benchmarks/studies/low_precision.py --out runs/low_precision --write      the table of docs/TPU.md

The models are the quick start's and one of 32 million weights, with 256 entries instead of their vocabularies. They
read bytes as in `optimisers.py`; each arm sees the same rows from the same weights. The figure is the held-out loss, in
nats per byte, after each quarter of the run, and how far an arm's is from that of bfloat16 with the same seed.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "speed"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tpu"))
import optimisers  # before jax, which it sets to the CPU
from tpu_table import DOC, write
from train_beside_transformers import model_config

from tigerjax.config import RunConfig
from tigerjax.model.llama.presets import quickstart_base
from tigerjax.train.held_out import HeldOut
from tigerjax.train.loop import train

ARMS = ("none", "int8", "fp8")
STEPS = {"quickstart": 240, "30m": 120}
RATES = {"quickstart": 2e-3, "30m": 1e-3}
HELD_OUT_ROWS = 64


def config(model: str, arm: Any, seed: int) -> RunConfig:
    run = optimisers.config("adamw", RATES[model], STEPS[model], seed)
    sizes = quickstart_base() if model == "quickstart" else model_config("30m")
    bytes_ = dataclasses.replace(sizes, vocab_size=optimisers.BYTES, padded_vocab_size=optimisers.BYTES)
    return dataclasses.replace(
        run, name="low_precision", model=bytes_,
        compute=dataclasses.replace(run.compute, dtype="bfloat16", quantise=arm),
    )  # fmt: skip


def curve(model: str, arm: str, seed: int) -> list[float]:
    """The held-out loss after each quarter."""
    trained, held = optimisers.rows()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        read = HeldOut([optimisers.Held(held[:HELD_OUT_ROWS])])
        loader = optimisers.Loader(trained, seed)
        train(config(model, arm, seed), loader, run_dir=run, held_out=read, reporting=optimisers.SILENT)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["validation"]["manual"]["loss_nats"] for record in records if "validation" in record]


def cells(model: str, arm: str, found: dict[str, dict[int, list[float]]]) -> list[str]:
    """A row of the table: the mean over seeds, and the largest distance from bfloat16 of one seed, in %."""
    curves, plain = found[arm], found["none"]
    shown = [f"{statistics.mean(curve[quarter] for curve in curves.values()):.4f}" for quarter in range(4)]
    apart = [100 * abs(curves[seed][q] / plain[seed][q] - 1) for seed in curves.keys() & plain.keys() for q in range(4)]
    name = "bfloat16" if arm == "none" else arm
    return [model, name, str(len(curves)), *shown, "" if arm == "none" else f"{max(apart):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/low_precision"), help="folder of the runs' JSON files")
    parser.add_argument("--model", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help="train nothing; put the runs that are there into docs")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    head = ["model", "products", "seeds", "25% of steps", "50%", "75%", "100%", "largest distance, %"]
    print(" | ".join(head), flush=True)
    rows = []
    for model in a.model:
        found: dict[str, dict[int, list[float]]] = {arm: {} for arm in ARMS}
        for arm in ARMS:
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
