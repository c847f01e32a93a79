"""What each optimiser and the running mean of the weights keep, in bytes per weight.

    python benchmarks/tpu/optimizer_memory.py              the table of docs/MEMORY.md, for 7B and 70B
    python benchmarks/tpu/optimizer_memory.py --compile    and what the update needs for a while
    python benchmarks/tpu/optimizer_memory.py --configs configs/tiger_13b_pretrain.py=v5p:4x4x4

It is counted from the shapes of the state, and no TPU is needed. "A weight" is a mean over all weights, the embedding
among them. "A chip" is what one chip of the slice holds of weights and state, as they are split over it. With --compile
the TPU compiler compiles the update alone, and its temporaries are those of one chip.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from tigerjax import config as config_lib
from tigerjax.mesh import in_mesh, make_mesh
from tigerjax.plan import topology
from tigerjax.plan.compile import sharded_bytes
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import TrainState, abstract_state

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


def temporaries(tx: optax.GradientTransformation, state: TrainState, mesh: Mesh) -> int:
    """Bytes that the update needs on one chip beside gradients, weights and state, by the TPU compiler."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (state.weights, state.opt_state))
    update = jax.jit(tx.update, out_shardings=shardings, donate_argnums=(0, 1))
    compiled = in_mesh(mesh, update.lower)(state.weights, state.opt_state, state.weights).compile()
    memory: Any = compiled.memory_analysis()
    return int(memory.temp_size_in_bytes)


def column(path: str, slice_name: str, compiled: bool) -> list[list[str]]:
    """The cells of every optimiser for one config."""
    run = config_lib.load(path)
    mesh = make_mesh(run.mesh, topology.describe(topology.parse(slice_name)))
    objective, plain, cells = token_objective(run, mesh), (0, 0), []
    for change in OTHERS.values():
        optim = dataclasses.replace(run.optim, **change)
        tx = make_optimizer(optim)
        state = abstract_state(objective, tx, mesh)
        weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.weights))
        kept, held = bytes_of(state.opt_state), sharded_bytes(state)
        if not change:
            plain = kept, held
        if optim.ema_decay is not None:  # beside adamw
            kept, held = kept - plain[0], held - plain[1]
        cells.append([f"{kept / weights:.2f}", f"{held / 1e9:.2f}"])
        if compiled:
            cells[-1].append("-" if optim.ema_decay else f"{temporaries(tx, state, mesh) / 1e9:.2f}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="CONFIG=SLICE")
    parser.add_argument("--compile", action="store_true")
    a = parser.parse_args()
    topology.set_compiler_environment()
    heads, columns = [], []
    for given in a.configs:
        path, _, slice_name = given.partition("=")
        columns.append(column(path, slice_name, a.compile))
        heads += [f"{Path(path).stem} on {slice_name}: bytes per weight", "GB per chip"]
        heads += ["the update for a while, GB per chip"] * a.compile
    print(f"| optimiser | {' | '.join(heads)} |")
    print(f"|---|{'---|' * len(heads)}")
    for name, *rows in zip(OTHERS, *columns, strict=True):
        print(f"| {name} | {' | '.join(cell for row in rows for cell in row)} |")


if __name__ == "__main__":
    main()
