"""What each optimiser and the running mean of the weights keep, in bytes a weight.

It is counted from the shapes of the state: nothing is compiled, and no TPU is needed.

    python benchmarks/tpu/optimizer_memory.py              the table of docs/MEMORY.md, for 7B and 70B
    python benchmarks/tpu/optimizer_memory.py --configs configs/tiger_13b_pretrain.py=v5p:4x4x4

"A weight" is a mean over all weights, the embedding among them. "A chip" is what one chip of the slice holds of weights
and state, as they are split over it.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax

from tigerjax import config as config_lib
from tigerjax.config import OptimConfig
from tigerjax.mesh import make_mesh
from tigerjax.plan import topology
from tigerjax.plan.compile import sharded_bytes
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import abstract_state

CONFIGS = ("configs/tiger_7b_pretrain.py=v5p:4x4x4", "configs/tiger_70b_pretrain.py=v5p:4x8x8")
OTHERS: dict[str, dict[str, Any]] = {
    "`adamw`": {},
    '`adamw`, `first_moment_dtype = "bfloat16"`': {"first_moment_dtype": "bfloat16"},
    "`adamw_8bit`": {"kind": "adamw_8bit"},
    "`muon`": {"kind": "muon"},
    '`muon`, `first_moment_dtype = "bfloat16"`': {"kind": "muon", "first_moment_dtype": "bfloat16"},
    "`adafactor`": {"kind": "adafactor", "beta2": None, "eps": None},
    "`adafactor`, `beta1 = 0`": {"kind": "adafactor", "beta1": 0.0, "beta2": None, "eps": None},
    "`ema_decay`, besides": {"ema_decay": 0.999},
}


def bytes_of(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="CONFIG=SLICE")
    a = parser.parse_args()
    topology.set_compiler_environment()
    columns: dict[str, list[str]] = {name: [] for name in OTHERS}
    heads = []
    for given in a.configs:
        path, _, slice_name = given.partition("=")
        run = config_lib.load(path)
        mesh = make_mesh(run.mesh, topology.describe(topology.parse(slice_name)))
        objective = token_objective(run, mesh)
        heads += [f"{Path(path).stem} on {slice_name}: bytes a weight", "GB a chip"]
        plain = None
        for name, change in OTHERS.items():
            optim: OptimConfig = dataclasses.replace(run.optim, **change)
            state = abstract_state(objective, make_optimizer(optim), mesh)
            weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.weights))
            kept, held = bytes_of(state.opt_state), sharded_bytes(state)
            plain = plain or (kept, held)
            if optim.ema_decay is not None:  # beside adamw
                kept, held = kept - plain[0], held - plain[1]
            columns[name] += [f"{kept / weights:.2f}", f"{held / 1e9:.2f}"]
    print(f"| optimiser | {' | '.join(heads)} |")
    print(f"|---|{'---|' * len(heads)}")
    for name, cells in columns.items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
