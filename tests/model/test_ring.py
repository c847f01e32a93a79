"""Gradients of a layer's matrices by rings: the same sums as XLA's own, on every mesh and with every policy."""

import dataclasses
import functools
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from tiny_run import tiny_batch, tiny_config

from tigerjax.config import LoraConfig, MeshConfig, PipelineConfig, WeightsConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import in_mesh, make_mesh, run_mesh
from tigerjax.model import ring, stack
from tigerjax.plan import collectives, topology
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state, state_shardings
from tigerjax.train.step import loss_and_gradient

CLOSE = dict(rtol=1e-5, atol=1e-5)
"""Float32 sums in another order."""
EIGHT = MeshConfig(fsdp=8)


def config(reduce, mesh=EIGHT, lora=None, **compute):
    """The tiny run: 4 query heads over 2 key heads, rows of several segments and padding."""
    start = tiny_config()
    compute = dict(remat="full") | compute
    return dataclasses.replace(
        start,
        mesh=mesh,
        compute=dataclasses.replace(start.compute, reduce=reduce, **compute),
        lora=lora or LoraConfig(),
    )


def summed(run):
    """(loss sum, gradients) of one packed batch, on the host."""
    mesh = run_mesh(run)
    objective = token_objective(run, mesh)
    alone = dataclasses.replace(run, mesh=MeshConfig(), compute=dataclasses.replace(run.compute, reduce="auto"))
    one = run_mesh(alone)
    weights = jax.device_get(init_state(token_objective(alone, one), make_optimizer(run.optim), one, seed=3))
    shardings = state_shardings(objective, make_optimizer(run.optim), mesh)
    frozen = jax.device_put(weights.frozen, shardings.frozen)
    weights = jax.device_put(weights.weights, shardings.weights)
    both = jax.jit(lambda w, frozen, batch: loss_and_gradient(objective, w, batch, accumulate=1, frozen=frozen))
    total, _, _, gradient = jax.device_get(in_mesh(mesh, both)(weights, frozen, tiny_batch(0)))
    return total, gradient


@functools.cache
def alone():
    return summed(config("auto", MeshConfig()))


def agree(ours, wanted):
    np.testing.assert_allclose(ours[0], wanted[0], **CLOSE)
    assert jax.tree.structure(ours[1]) == jax.tree.structure(wanted[1])
    scale = max(float(np.abs(g).max()) for g in jax.tree.leaves(wanted[1]))
    for own, other in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(own / scale, other / scale, **CLOSE)


@pytest.mark.parametrize("mesh", [dict(fsdp=8), dict(fsdp=4, data=2), dict(fsdp=2, data=4), dict(data=8)], ids=str)
def test_every_mesh_has_the_gradient_of_one_device(mesh):
    agree(summed(config("ring", MeshConfig(**mesh))), alone())


@pytest.mark.parametrize("remat", [policy for policy in stack.SAVED if policy not in stack.OFFLOADED])
def test_every_remat_policy_has_it(remat):
    agree(summed(config("ring", remat=remat)), alone())


def test_adapters_beside_frozen_weights_have_their_gradients():
    lora = LoraConfig(rank=3, alpha=6.0)
    agree(summed(config("ring", lora=lora)), summed(config("auto", MeshConfig(), lora=lora)))


@pytest.mark.parametrize("n, wanted", [(256, (16, 16)), (128, (8, 16)), (64, (8, 8)), (6, (2, 3)), (7, (1, 7))])
def test_devices_form_two_rings_as_on_a_torus(n, wanted):
    assert ring.rings(n) == wanted


REFUSED = {
    "mesh.tensor=2": dict(mesh=MeshConfig(fsdp=4, tensor=2)),
    "mesh.sequence=2": dict(mesh=MeshConfig(fsdp=4, sequence=2)),
    "mesh.stage=2": dict(mesh=MeshConfig(fsdp=4, stage=2), pipeline=PipelineConfig(microbatches=2)),
    "compute.quantise=int8": dict(compute=dict(quantise="int8")),
    "weights.frozen_dtype=int8": dict(weights=WeightsConfig(frozen_dtype="int8"), lora=LoraConfig(rank=2)),
    "compute.remat=none": dict(compute=dict(remat="none")),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_the_rings_do_not_know_is_refused(words):
    start, other = config("ring"), dict(REFUSED[words])
    compute = dataclasses.replace(start.compute, **other.pop("compute", {}))
    with pytest.raises(ConfigError, match=rf"compute.reduce=ring.*{re.escape(words)}"):
        dataclasses.replace(start, compute=compute, **other)


SLICE = topology.parse("v5e:4x4")
D, F = 1024, 4096


def compiled(reduce):
    """What travels in the loops of two layers on 16 chips without SparseCores."""
    from tigerjax.plan.compile import compile_for
    from tigerjax.plan.trips import Program

    start = config(reduce, dtype="bfloat16", loss_chunk_tokens=2048)
    run = dataclasses.replace(
        start, mesh=MeshConfig(fsdp=16), global_batch_size=16,
        model=dataclasses.replace(start.model, model_dim=D, mlp_dim=F, head_dim=128),
        data=dataclasses.replace(start.data, seq_len=128),
    )  # fmt: skip
    with jax.default_matmul_precision("default"):
        program = Program(compile_for(run, SLICE, options={}).hlo)
    mesh = make_mesh(run.mesh, topology.describe(SLICE))
    return [c for c in collectives.collectives(program, mesh, SLICE) if c.loops]


@pytest.mark.tpu
def test_on_chips_without_sparse_cores_gradients_go_to_neighbours_and_none_is_all_reduced_whole():
    """With compute.reduce=auto those of the MLP are, in each layer."""
    travels = compiled("ring")
    whole = 2 * D * F
    assert not [c for c in travels if c.op in ("all-reduce", "reduce-scatter") and c.payload >= whole]
    parts = [c for c in travels if c.op == "collective-permute" and c.payload == whole // 4]
    # Each of 3 matrices goes round 4 devices: 2 steps one way, and 1 the other; in each of 2 layers.
    assert sum(c.times for c in parts) == 3 * 3 * 2 and all(c.asynchronous for c in parts)
