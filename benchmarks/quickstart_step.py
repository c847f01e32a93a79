"""Seconds of the quick start's holistic step on this CPU, with XLA's default fusions and with those of the quick start.

    python benchmarks/quickstart_step.py --repeats 3

The two settings run in turn, a process each; the figures are medians over the steps of all repeats of a setting.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

STEPS = 60


def measure() -> list[float]:
    """Seconds of each of STEPS updates after the first, on random tokens."""
    import jax
    import numpy as np

    from tigerjax.data.rows import Batch
    from tigerjax.quickstart.training import CONFIGS, config_lib
    from tigerjax.train.loop import run_mesh
    from tigerjax.train.objective import token_objective
    from tigerjax.train.optim import make_optimizer
    from tigerjax.train.state import init_state
    from tigerjax.train.step import compile_step

    config = config_lib.load(CONFIGS / "quickstart_holistic.py")
    B, T = config.batch_rows, config.data.seq_len
    tokens_BT = np.random.default_rng(0).integers(3, config.model.vocab_size, (B, T)).astype(np.int32)
    batch = Batch(
        tokens_BT=tokens_BT,
        targets_BT=np.roll(tokens_BT, -1, 1),
        weights_BT=np.ones((B, T), np.float32),
        positions_BT=np.tile(np.arange(T, dtype=np.int32), (B, 1)),
        segment_ids_BT=np.ones((B, T), np.int32),
    )
    mesh = run_mesh(config)
    objective, tx = token_objective(config, mesh), make_optimizer(config.optim)
    state = init_state(objective, tx, mesh, seed=0)
    step, seconds = compile_step(objective, tx, config.optim, mesh), []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        state, values = step(state, batch)
        jax.block_until_ready(values)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        print(json.dumps(measure()))
        return
    from tigerjax.quickstart.run import XLA_FLAGS

    seconds: dict[str, list[float]] = {"": [], XLA_FLAGS: []}
    for _ in range(args.repeats):
        for flags, found in seconds.items():
            env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
            done = subprocess.run(
                [sys.executable, __file__, "--in-process"], env=env, capture_output=True, text=True, check=True
            )
            found += json.loads(done.stdout.splitlines()[-1])
    for flags, found in seconds.items():
        print(f"{statistics.median(found):.4f} s   least {min(found):.4f} s   {flags or 'default'}")


if __name__ == "__main__":
    main()
