"""What every optimiser must hold: any mesh gives the same, and a saved state goes on bit for bit."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from test_loop import assert_same, run
from tiny_run import TinyLoader, tiny_config

from tigerjax.checkpoint.model import make_meta
from tigerjax.config import MeshConfig, PipelineConfig
from tigerjax.mesh import in_mesh, run_mesh
from tigerjax.model.pipeline import LayerOrder
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.objective import in_layer_order, in_stage_order, token_objective
from tigerjax.train.optim import averaged, make_optimizer
from tigerjax.train.state import TrainState, abstract_state, state_from_weights

KINDS = {
    "adamw": {},
    "adamw_8bit": {},
    "muon": {},
    "adafactor": {"beta2": None, "eps": None},
}
ONE, MANY = MeshConfig(), MeshConfig(stage=2, fsdp=2, tensor=2)
TOLERANCE = 1e-5  # float32: another order of the same sums
# A number near the middle of two values may be rounded either way, and a direction is divided by the root of another.
EIGHT_BITS = 2e-3
RATE, SAVED, STEPS = 0.01, 2, 4


def optim(kind):
    return dataclasses.replace(tiny_config().optim, kind=kind, ema_decay=0.8, **KINDS[kind])


@functools.cache
def built(kind, mesh_config):
    """(mesh, objective, optimiser, the update of training with given gradients instead of a model's)."""
    pipeline = PipelineConfig(microbatches=mesh_config.stage)
    config = dataclasses.replace(tiny_config(), optim=optim(kind), mesh=mesh_config, pipeline=pipeline)
    mesh = run_mesh(config)
    objective, tx = token_objective(config, mesh), make_optimizer(config.optim)

    def update(state, gradient):
        direction, opt_state = tx.update(gradient, state.opt_state, state.weights)
        weights = jax.tree.map(lambda w, d: w - RATE * d, state.weights, direction)
        return TrainState(state.step + 1, weights, averaged(config.optim, opt_state, weights))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(objective, tx, mesh))
    return mesh, objective, tx, in_mesh(mesh, jax.jit(update, out_shardings=shardings))


def numbers(seed, like):
    """A tree of random numbers, in the shapes and the shardings of another tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jax.device_put(rng.normal(0, 1, a.shape).astype(np.float32), a.sharding), like)


def begun(kind, mesh_config):
    mesh, objective, tx, _ = built(kind, mesh_config)
    weights = numbers(0, abstract_state(objective, tx, mesh).weights)
    return state_from_weights(objective, tx, mesh, weights)


def steps(kind, mesh_config, state, first, last):
    for i in range(first, last):
        state = built(kind, mesh_config)[-1](state, numbers(1 + i, state.weights))
    return state


@functools.cache
def half(kind, mesh_config):
    """The state after SAVED updates."""
    return steps(kind, mesh_config, begun(kind, mesh_config), 0, SAVED)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adamw"])
def test_every_mesh_equals_one_device(kind):
    one, many = (jax.device_get(half(kind, mesh)) for mesh in (ONE, MANY))
    tolerance = EIGHT_BITS if kind == "adamw_8bit" else TOLERANCE
    for ours, wanted in ((many.weights, one.weights), (many.opt_state[-1].mean, one.opt_state[-1].mean)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), ours, wanted)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adamw"])
def test_a_saved_state_goes_on_bit_for_bit_and_lies_on_another_mesh(kind, tmp_path):
    mesh, objective, tx, _ = built(kind, MANY)
    saver, meta = (
        Checkpointer(tmp_path, keep=1),
        make_meta(kind=objective.kind, model=tiny_config().model, tokenizer_sha256=None),
    )
    saver.save(SAVED, half(kind, MANY), meta)
    state, _ = saver.restore(abstract_state(objective, tx, mesh))
    elsewhere, _ = saver.restore(abstract_state(*(built(kind, ONE)[i] for i in (1, 2, 0))))
    saver.close()
    assert_same(elsewhere, half(kind, MANY)._replace(step=elsewhere.step))
    wanted = steps(kind, MANY, half(kind, MANY), SAVED, STEPS)
    assert_same(steps(kind, MANY, state, SAVED, STEPS)[1:], wanted[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_a_state_are_split_as_their_weights_are(kind):
    mesh, objective, tx, _ = built(kind, MANY)
    state = abstract_state(objective, tx, mesh)
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    }
    up = state.weights["layers"]["mlp"]["up"].sharding.spec
    found = {spec for name, spec in specs.items() if name.endswith(("mlp/up", "mlp/up/code")) and any(spec)}
    assert found == {up}, specs


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_a_state_move_between_the_orders_of_a_pipeline_and_back(kind):
    mesh, objective, tx, _ = built(kind, ONE)
    shapes = abstract_state(objective, tx, mesh)
    state, order = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes), LayerOrder(stages=2, rounds=1)
    assert_same(in_layer_order(in_stage_order(state, order), order), state)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(kind, tmp_path):
    config = dataclasses.replace(tiny_config(total_steps=6, every_steps=2), optim=optim(kind))
    whole = run(tmp_path / "whole", config)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(tmp_path / "killed", config, TinyLoader(crash_at=5))
    assert_same(run(tmp_path / "killed", config), whole)
