"""What every optimiser must hold: any mesh gives the same, and a saved state goes on bit for bit."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from tiny_run import tiny_batch, tiny_config

from tigerjax.checkpoint.model import make_meta
from tigerjax.config import MeshConfig, PipelineConfig
from tigerjax.mesh import run_mesh
from tigerjax.model.pipeline import LayerOrder
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.objective import in_layer_order, in_stage_order, token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import abstract_state, init_state
from tigerjax.train.step import compile_step

KINDS = {
    "adamw": {},
    "adamw_8bit": {},
    "muon": {},
    "adafactor": {"beta2": None, "eps": None},
}
ONE, MANY = MeshConfig(), MeshConfig(stage=2, fsdp=2, tensor=2)
# As in test_step.py; the loss of 8-bit means moves further, since a number near the middle of two values may be rounded
# either way.
TOLERANCE, EIGHT_BITS = 1e-4, 5e-3
SAVED, STEPS = 2, 4


@functools.cache
def built(kind, mesh_config):
    config = tiny_config()
    optim = dataclasses.replace(config.optim, kind=kind, ema_decay=0.8, **KINDS[kind])
    pipeline = PipelineConfig(microbatches=mesh_config.stage)
    config = dataclasses.replace(config, mesh=mesh_config, pipeline=pipeline, optim=optim)
    mesh = run_mesh(config)
    objective, tx = token_objective(config, mesh), make_optimizer(optim)
    return config, mesh, objective, tx, compile_step(objective, tx, optim, mesh)


def steps(kind, mesh_config, state, first, last):
    """(The state after the steps from `first` to `last`, their losses)."""
    step, losses = built(kind, mesh_config)[-1], []
    for i in range(first, last):
        state, metrics = step(state, tiny_batch(i))
        losses.append(float(metrics["loss_nats"]))
    return state, losses


@functools.cache
def whole(kind, mesh_config, folder):
    """(All losses, the state at the end on the host) of a run on a mesh; the state after SAVED steps is in `folder`."""
    config, mesh, objective, tx, _ = built(kind, mesh_config)
    state, before = steps(kind, mesh_config, init_state(objective, tx, mesh, seed=3), 0, SAVED)
    if folder is not None:
        saver = Checkpointer(folder, keep=1)
        saver.save(SAVED, state, make_meta(kind=objective.kind, model=config.model, tokenizer_sha256=None))
        saver.close()
    state, after = steps(kind, mesh_config, state, SAVED, STEPS)
    return before + after, jax.device_get(state)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}


def same(ours, wanted):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(wanted))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adamw"])
def test_every_mesh_equals_one_device(kind, folders):
    one, many = whole(kind, ONE, None), whole(kind, MANY, folders[kind])
    np.testing.assert_allclose(many[0], one[0], atol=EIGHT_BITS if kind == "adamw_8bit" else TOLERANCE)
    assert one[0][-1] < one[0][0], "it learns"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_goes_on_bit_for_bit_and_lies_on_another_mesh(kind, folders):
    wanted = whole(kind, MANY, folders[kind])
    _, mesh, objective, tx, _ = built(kind, MANY)
    saver = Checkpointer(folders[kind], keep=1)
    state, _ = saver.restore(abstract_state(objective, tx, mesh))
    _, alone, other, tx, _ = built(kind, ONE)
    elsewhere, _ = saver.restore(abstract_state(other, tx, alone))
    saver.close()
    same(elsewhere, state)
    same(steps(kind, MANY, state, SAVED, STEPS)[0], wanted[1])


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_a_state_are_split_as_their_weights_are(kind):
    _, mesh, objective, tx, _ = built(kind, MANY)
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
    _, mesh, objective, tx, _ = built(kind, ONE)
    state, order = jax.device_get(init_state(objective, tx, mesh, seed=3)), LayerOrder(stages=2, rounds=1)
    same(in_layer_order(in_stage_order(state, order), order), state)
