"""What the optimiser keeps of adapters is what the plan of a run counts for them."""

import dataclasses
import math

import jax
import pytest
from tiny_run import tiny_config

from tigerjax.config import LoraConfig
from tigerjax.mesh import run_mesh
from tigerjax.plan import search
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import abstract_state


@pytest.mark.parametrize("targets", [("q", "v"), LoraConfig().targets])
def test_the_optimiser_keeps_as_many_bytes_of_adapters_as_the_plan_counts(targets):
    config = tiny_config()
    config = dataclasses.replace(config, lora=LoraConfig(rank=3, targets=targets))
    mesh = run_mesh(config)
    state = abstract_state(token_objective(config, mesh), make_optimizer(config.optim), mesh)
    kept = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]  # without the counts of steps
    found = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept)
    layers, ends = search._state_bytes(config, float(search.least_moments(config.optim)))
    frozen = search._state_bytes(config, 0.0)
    planned = (layers - frozen[0]) * config.model.num_layers + ends - frozen[1]
    assert found == planned == search.least_moments(config.optim) * sum(w.size for w in jax.tree.leaves(state.weights))
