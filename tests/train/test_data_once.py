"""Copies of the model that compute alone and add their gradients once a step (`mesh.data_once`)."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from test_policy_loss import GIVEN
from test_policy_loss import batch as answers
from test_preference_step import batch as pairs
from tiny_run import tiny_batch, tiny_config

from tigerjax.config import DpoConfig, GrpoConfig, KtoConfig, MeshConfig, OrpoConfig, PpoConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import in_mesh, make_mesh
from tigerjax.plan.collectives import axis_name, groups_of
from tigerjax.train import objective as objectives
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state
from tigerjax.train.step import jit_step

TWO_COPIES = MeshConfig(data=2, fsdp=2, data_once=True)
ONE_DEVICE = MeshConfig()


def mesh_of(config):
    degrees = config.data * config.fsdp * config.sequence * config.tensor
    return make_mesh(config, jax.devices()[:degrees])


def uneven_batch():
    """Rows of which the first half, that of the first copy, has fewer tokens in the loss."""
    batch = tiny_batch(0)
    weights_BT = np.array(batch.weights_BT, np.float32)
    weights_BT[: len(weights_BT) // 2, ::3] = 0
    return batch._replace(weights_BT=weights_BT)


@functools.cache
def parts(mesh_config, accumulate, clip_norm=None):
    """(mesh, jitted step, first state) of a run."""
    config = tiny_config(accumulate=accumulate)
    optim = dataclasses.replace(config.optim, clip_norm=clip_norm)
    config = dataclasses.replace(config, mesh=mesh_config, optim=optim)
    mesh = mesh_of(mesh_config)
    objective, tx = objectives.of(config, mesh), make_optimizer(optim)
    return mesh, jit_step(objective, tx, optim, mesh), functools.partial(init_state, objective, tx, mesh, seed=3)


def one_step(mesh_config, accumulate, clip_norm=None):
    mesh, step, first = parts(mesh_config, accumulate, clip_norm)
    state, metrics = in_mesh(mesh, step)(first(), uneven_batch())
    return jax.device_get((state.weights, metrics))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_a_step_is_that_of_one_device(accumulate, clip_norm):
    weights, metrics = one_step(TWO_COPIES, accumulate, clip_norm)
    wanted_weights, wanted = one_step(ONE_DEVICE, accumulate, clip_norm)
    for name in ("loss_nats", "grad_norm", "loss_weight", "accuracy"):
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, err_msg=name)
    # Adam divides by the root of the second moment: a gradient near 0 turns a last-bit difference into a visible one.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), weights, wanted_weights)


@pytest.mark.parametrize("within", [{"sequence": 2}, {"tensor": 2}, {"fsdp": 2, "sequence": 2}])
def test_within_a_copy_rows_and_matrices_may_be_cut(within):
    _, metrics = one_step(MeshConfig(data=2, data_once=True, **within), 1)
    _, wanted = one_step(ONE_DEVICE, 1)
    for name in ("loss_nats", "grad_norm", "loss_weight", "accuracy"):
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, err_msg=name)


def test_nothing_crosses_data_inside_a_loop():
    """One sum a step, whatever the number of micro-batches, and of that nothing in the loops."""
    counts = {}
    for accumulate in (1, 2):
        mesh, step, first = parts(TWO_COPIES, accumulate)
        text = in_mesh(mesh, step.lower)(first(), uneven_batch()).compile().as_text()
        counts[accumulate] = 0
        for inside, line in by_computation(text):
            if re.search(r" (all-reduce|all-gather|reduce-scatter|all-to-all)(-start)?\(", line):
                if "data" in axis_name(groups_of(line, mesh.size), mesh):
                    assert inside == "ENTRY", line
                    counts[accumulate] += 1
    assert 0 < counts[1] == counts[2], counts


def by_computation(text):
    """(ENTRY or the name of a computation, line) of a program."""
    inside = ""
    for line in text.splitlines():
        if line and not line.startswith((" ", "}")):
            inside = line.split()[0]
        yield inside, line


def test_with_one_copy_the_program_is_the_same():
    def program(mesh_config):
        mesh, step, first = parts(mesh_config, 2)
        return in_mesh(mesh, step.lower)(first(), uneven_batch()).as_text()

    assert program(MeshConfig(fsdp=2, data_once=True)) == program(MeshConfig(fsdp=2))


@pytest.mark.parametrize(("settings", "accumulate"), [
    (DpoConfig(preferences=("p",)), 2),
    (OrpoConfig(preferences=("p",)), 2),
    *((GrpoConfig(**GIVEN, mean=mean), 1) for mean in ("answer", "token", "longest")),
    (PpoConfig(**GIVEN), 1),
])  # fmt: skip
def test_losses_over_preferences_and_over_answers_are_those_of_one_device(settings, accumulate):
    batch = pairs() if isinstance(settings, DpoConfig | OrpoConfig) else answers(settings, reference=bool(settings.kl))

    def one(mesh_config):
        config = dataclasses.replace(tiny_config(accumulate=accumulate), mesh=mesh_config, objective=settings)
        mesh = mesh_of(mesh_config)
        objective, tx = objectives.of(config, mesh), make_optimizer(config.optim)
        step = in_mesh(mesh, jit_step(objective, tx, config.optim, mesh))
        return jax.device_get(step(init_state(objective, tx, mesh, seed=3), batch)[1])

    metrics, wanted = one(TWO_COPIES), one(ONE_DEVICE)
    for name in wanted:
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("made", [
    lambda: MeshConfig(stage=2, data_once=True),
    lambda: MeshConfig(data=2, fsdp=2, tensor=2, data_once=True),
    lambda: MeshConfig(data=2, sequence=2, tensor=2, data_once=True),
    lambda: objectives.of(
        dataclasses.replace(tiny_config(), mesh=TWO_COPIES, objective=KtoConfig(preferences=("p",))), None
    ),
])  # fmt: skip
def test_meshes_without_a_program_are_refused_and_so_is_a_mean_over_all_answers(made):
    with pytest.raises(ConfigError, match=r"mesh\.data_once"):
        made()
