"""Golden shardings: every weight of 7B, 13B and 70B on a named slice, with its PartitionSpec and bytes a chip.

And every array that each optimiser keeps for a 7B.

A wanted change rewrites them: `python tests/plan/test_shardings.py` from the root of the repository.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import pytest

from tigerjax import config as config_lib
from tigerjax.config import MeshConfig
from tigerjax.mesh import AXES, make_mesh
from tigerjax.plan import topology
from tigerjax.plan.compile import sharded_bytes
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import abstract_state

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/shardings"
CASES = {
    "tiger_7b_pretrain": "v5p:4x4x4",
    "tiger_13b_pretrain": "v5p:4x4x4",
    "tiger_70b_pretrain": "v5p:4x8x8",
    "tiger_70b_sft": "v5p:4x4x4",
}

OPTIMISERS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adamw_8bit": {},
    "muon": {},
    "adafactor": {"beta2": None, "eps": None},
}
OF_OPTIMISERS = "optimisers"

pytestmark = pytest.mark.tpu


def table(name: str, slice_name: str) -> list[str]:
    """One line a weight: path, dtype and shape, PartitionSpec, bytes on one chip; then the sums."""
    run, place = config_lib.load(ROOT / f"configs/{name}.py"), topology.parse(slice_name)
    mesh = make_mesh(run.mesh, topology.describe(place))
    degrees = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
    state = abstract_state(token_objective(run, mesh), make_optimizer(run.optim), mesh)
    lines = [f"{name} on {slice_name}: {degrees}", "", *arrays(nn.unbox(state.weights), 26)]
    return [*lines, "", f"weights {sharded_bytes(state.weights):,}", f"state {sharded_bytes(state):,}"]


def arrays(tree: Any, width: int) -> list[str]:
    """A line an array: path, dtype and shape, PartitionSpec, bytes on one chip."""
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        word = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        spec = ", ".join("-" if part is None else str(part) for part in leaf.sharding.spec)
        lines.append(f"{word:{width}} {shape:30} ({spec:30}) {sharded_bytes(leaf):>14,}")
    return lines


def of_optimisers() -> list[str]:
    """What every optimiser keeps for a 7B whose weights are split by fsdp and tensor; for AdamW the mean of the weights
    too."""
    run = config_lib.load(ROOT / "configs/tiger_7b_pretrain.py")
    mesh = make_mesh(MeshConfig(fsdp=8, tensor=8), topology.describe(topology.parse("v5p:4x4x4")))
    lines = ["tiger_7b_pretrain on v5p:4x4x4: fsdp 8 x tensor 8"]
    for kind, change in OPTIMISERS.items():
        optim = dataclasses.replace(run.optim, kind=kind, ema_decay=0.999 if kind == "adamw" else None, **change)
        state = abstract_state(token_objective(run, mesh), make_optimizer(optim), mesh)
        lines += ["", kind, *arrays(state.opt_state, 58), f"all {sharded_bytes(state.opt_state):,}"]
    return lines


def test_arrays_of_optimisers_lie_where_the_golden_ones_do():
    assert of_optimisers() == (GOLDEN / f"{OF_OPTIMISERS}.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", CASES)
def test_shardings_are_the_golden_ones(name):
    golden = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert table(name, CASES[name]) == golden


@pytest.mark.parametrize("name", CASES)
def test_every_matrix_is_split_over_all_chips(name):
    run, place = config_lib.load(ROOT / f"configs/{name}.py"), topology.parse(CASES[name])
    mesh = make_mesh(run.mesh, topology.describe(place))
    state = abstract_state(token_objective(run, mesh), make_optimizer(run.optim), mesh)
    for path, leaf in jax.tree_util.tree_leaves_with_path(nn.unbox(state.weights)):
        if getattr(path[-1], "key", None) != "scale":  # the scale of a norm is whole everywhere: it is small
            assert sharded_bytes(leaf) * place.chips == math.prod(leaf.shape) * leaf.dtype.itemsize, path


if __name__ == "__main__":
    topology.set_compiler_environment()
    GOLDEN.mkdir(exist_ok=True)
    for case, where in CASES.items():
        (GOLDEN / f"{case}.txt").write_text("\n".join(table(case, where)) + "\n", encoding="utf-8")
    (GOLDEN / f"{OF_OPTIMISERS}.txt").write_text("\n".join(of_optimisers()) + "\n", encoding="utf-8")
