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

from tigerjax.config import LoraConfig, MeshConfig, PipelineConfig, SplashConfig, WeightsConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import in_mesh, run_mesh
from tigerjax.model import ring, stack
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
        start, mesh=mesh, compute=dataclasses.replace(start.compute, reduce=reduce, **compute), lora=lora or LoraConfig()
    )


def summed(run):
    """(loss sum, gradients) of one packed batch, on the host."""
    mesh = run_mesh(run)
    objective = token_objective(run, mesh)
    alone = dataclasses.replace(run, mesh=MeshConfig(), compute=dataclasses.replace(run.compute, reduce="auto"))
    one = run_mesh(alone)
    weights = jax.device_get(init_state(token_objective(alone, one), make_optimizer(run.optim), one, seed=3))
    shardings = state_shardings(objective, make_optimizer(run.optim), mesh)
    weights, frozen = (
        jax.device_put(w, s) for w, s in zip((weights.weights, weights.frozen), (shardings.weights, shardings.frozen))
    )
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
