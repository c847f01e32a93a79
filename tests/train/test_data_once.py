"""Copies of the model that compute alone and add their gradients once a step (`mesh.data_once`)."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from test_policy_loss import GIVEN
from test_policy_loss import batch as answers
from test_preference_step import batch as pairs
from tiny_run import tiny_batch, tiny_config

from tigerjax.config import (
    DpoConfig,
    GrpoConfig,
    KtoConfig,
    LoraConfig,
    MeshConfig,
    OrpoConfig,
    PpoConfig,
    WeightsConfig,
)
from tigerjax.errors import ConfigError
from tigerjax.mesh import in_mesh, make_mesh
from tigerjax.plan.collectives import axis_name, groups_of
from tigerjax.train import objective as objectives
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state
from tigerjax.train.step import jit_step, loss_and_gradient, over_copies

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


@pytest.mark.parametrize("accumulate", [1, 4])
def test_gradients_cross_once_a_step_and_those_of_a_layer_where_it_is_computed(accumulate):
    """In float32, whatever the number of micro-batches; in no loop but that over the layers."""
    mesh, step, first = parts(MeshConfig(data=2, data_once=True), accumulate)
    state = first()
    sums = list(added(in_mesh(mesh, jax.make_jaxpr(step))(state, uneven_batch()).jaxpr))
    layers = tiny_config().model.num_layers
    assert {loops for loops, _ in sums} == {(), (layers,)}
    assert all(array.dtype == np.float32 for _, array in sums)
    for of_layers, loops in ((True, (layers,)), (False, ())):
        weights = [
            w for name, tree in state.weights.items() if (name == "layers") == of_layers for w in jax.tree.leaves(tree)
        ]
        numbers = sum(math.prod(loops) * array.size for inside, array in sums if inside == loops)
        assert 0 <= numbers - sum(w.size for w in weights) < 5  # beside them a few scalars, such as the loss


def added(jaxpr, loops=()):
    """(lengths of the loops around it, outermost first; array) of each sum over the copies."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name.startswith("psum") and "data" in eqn.params["axes"]:
            yield from ((loops, var.aval) for var in eqn.invars)
        inside = (*loops, eqn.params["length"]) if eqn.primitive.name == "scan" else loops
        for inner in jaxprs_in_params(eqn.params):
            yield from added(inner, inside)


def test_the_compiler_lets_nothing_else_cross_with_more_micro_batches():
    counts = {}
    for accumulate in (1, 2):
        mesh, step, first = parts(TWO_COPIES, accumulate)
        text = in_mesh(mesh, step.lower)(first(), uneven_batch()).compile().as_text()
        crossing = [
            line
            for line in text.splitlines()
            if re.search(r" (all-reduce|all-gather|reduce-scatter|all-to-all)(-start)?\(", line)
            and "data" in axis_name(groups_of(line, mesh.size), mesh)
        ]
        assert all(" all-reduce" in line for line in crossing), crossing
        counts[accumulate] = len(crossing)
    assert 0 < counts[1] == counts[2], counts


@pytest.mark.parametrize(("differs", "tolerance"), [
    (dict(compute=dict(remat="save_residual")), 1e-5),
    (dict(compute=dict(dtype="bfloat16", remat="full")), 0.02),
    (dict(compute=dict(quantise="int8")), 0.02),
    (dict(compute=dict(reduce="ring", remat="full")), 1e-5),
    (dict(model=dict(tied=True)), 1e-5),
    (dict(lora=LoraConfig(rank=3)), 1e-5),
    (dict(weights=WeightsConfig(trained=("embed[36:]", "layers/mlp/*")), compute=dict(quantise="fp8")), 0.02),
    (dict(weights=WeightsConfig(frozen=("layers/*",))), 1e-5),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_those_of_one_device(differs, tolerance, accumulate):
    def gradient(mesh_config):
        config = dataclasses.replace(tiny_config(model=differs.get("model")), mesh=mesh_config)
        config = dataclasses.replace(
            config,
            compute=dataclasses.replace(config.compute, **differs.get("compute", {})),
            **{field: differs[field] for field in ("lora", "weights") if field in differs},
        )
        mesh = mesh_of(mesh_config)
        objective, tx = objectives.of(config, mesh), make_optimizer(config.optim)
        state = init_state(objective, tx, mesh, seed=3)
        of_step = loss_and_gradient
        if objective.copies > 1:
            specs = jax.tree.map(lambda w: w.sharding.spec, state.weights)
            of_step = functools.partial(over_copies, specs=specs)
        of_step = functools.partial(of_step, objective, accumulate=accumulate)
        found = in_mesh(mesh, jax.jit(lambda w, frozen, batch: of_step(w, batch, frozen=frozen)))
        return jax.device_get(found(state.weights, state.frozen, uneven_batch()))

    (*sums, ours), (*wanted_sums, wanted) = gradient(TWO_COPIES), gradient(ONE_DEVICE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance), sums, wanted_sums)

    def close(own, other):
        assert own.dtype == other.dtype == np.float32
        np.testing.assert_allclose(own, other, atol=tolerance * np.abs(other).max())

    jax.tree.map(close, ours, wanted)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_runs_the_layers_twice_is_refused(accumulate):
    """It would add the gradients of the micro-batches before twice."""
    config = dataclasses.replace(tiny_config(accumulate=accumulate), mesh=TWO_COPIES)
    mesh = mesh_of(TWO_COPIES)
    objective = objectives.of(config, mesh)
    of_once = objective.loss

    def of_twice(weights, batch):
        return jax.tree.map(jax.numpy.add, of_once(weights, batch), of_once(weights, batch))

    step = jit_step(dataclasses.replace(objective, loss=of_twice), make_optimizer(config.optim), config.optim, mesh)
    state = init_state(objective, make_optimizer(config.optim), mesh, seed=3)
    with pytest.raises(ValueError, match=r"runs the layers twice.*mesh\.data_once=False"):
        in_mesh(mesh, step.lower)(state, uneven_batch())


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
