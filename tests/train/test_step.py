"""One update: packing, accumulation and meshes change nothing; NaN changes nothing either."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from tiny_run import LENGTH, TinyLoader, segments, tiny_batch, tiny_config

from tigerjax.config import MeshConfig, ObjectiveConfig, PipelineConfig
from tigerjax.data.rows import make_batch, make_row
from tigerjax.mesh import in_mesh, run_mesh
from tigerjax.model.qwen3.sizes import Qwen3Config
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state, state_from_weights, state_shardings
from tigerjax.train.step import compile_step, loss_and_gradient

# float32: another order of the same sums
TOLERANCE = 1e-5
# Adam divides by the root of the second moment: a gradient near 0 turns a last-bit difference into a visible one
WEIGHT_TOLERANCE = 1e-4
ONE = MeshConfig()


def close(ours, wanted, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance), ours, wanted)


PLAIN = tiny_config().model
WITH_ALL = Qwen3Config(
    **{f.name: getattr(PLAIN, f.name) for f in dataclasses.fields(PLAIN) if f.name != "tied"},
    tied=True, attention_bias=True, sliding_window=5,
)  # fmt: skip


@functools.cache
def parts(mesh_config=ONE, accumulate=1, model=PLAIN):
    """(mesh, objective, optimiser, its settings) of a run."""
    pipeline = PipelineConfig(microbatches=mesh_config.stage)
    config = tiny_config(accumulate=accumulate)
    config = dataclasses.replace(config, model=model, mesh=mesh_config, pipeline=pipeline)
    mesh = run_mesh(config)
    return mesh, token_objective(config, mesh), make_optimizer(config.optim), config.optim


@functools.cache
def compiled(mesh_config=ONE, accumulate=1, model=PLAIN):
    mesh, objective, tx, optim = parts(mesh_config, accumulate, model)
    return compile_step(objective, tx, optim, mesh)


@functools.cache
def start(model=PLAIN):
    """Random weights, on the host."""
    mesh, objective, tx, _ = parts(model=model)
    return jax.device_get(init_state(objective, tx, mesh, seed=3).weights)


@functools.cache
def three_steps(mesh_config=ONE, accumulate=1, model=PLAIN):
    """(losses, final weights on the host, shardings) after three updates."""
    mesh, objective, tx, _ = parts(mesh_config, accumulate, model)
    state, losses = init_state(objective, tx, mesh, seed=3), []
    for i in range(3):
        state, metrics = compiled(mesh_config, accumulate, model)(state, tiny_batch(i))
        losses.append(float(metrics["loss_nats"]))
    return losses, jax.device_get(state.weights), jax.tree.map(lambda w: w.sharding, state.weights)


def test_packed_equals_unpacked_in_loss_and_gradient():
    objective, weights, alone = parts()[1], start(), []
    for row in segments(0):
        for part in row:
            pad = LENGTH - len(part)
            mark = np.concatenate([np.ones(len(part), int), np.zeros(pad, int)])
            alone.append(make_row(np.concatenate([part, np.zeros(pad, int)]), mark, mark.astype(np.float32)))
    gradient = jax.jit(lambda w, batch: loss_and_gradient(objective, w, batch, accumulate=1))
    packed, unpacked = gradient(weights, tiny_batch(0)), gradient(weights, make_batch(alone))
    assert float(packed[1]) == float(unpacked[1]) > 0
    close(packed[0] / packed[1], unpacked[0] / unpacked[1], TOLERANCE)
    close(*(jax.tree.map(lambda g, n=side[1]: g / n, side[3]) for side in (packed, unpacked)), TOLERANCE)


@pytest.mark.parametrize("mesh", [dict(fsdp=4, tensor=2), dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_every_mesh_equals_one_device_after_three_steps(mesh):
    one, other = three_steps(), three_steps(MeshConfig(**mesh))
    np.testing.assert_allclose(other[0], one[0], atol=TOLERANCE)
    close(other[1], one[1], WEIGHT_TOLERANCE)
    sharded = other[2]["layers"]["mlp"]["up"].spec
    assert sharded == jax.sharding.PartitionSpec("stage", ("fsdp", "sequence"), "tensor"), sharded


@functools.cache
def means(mesh_config=ONE, model=PLAIN):
    """(loss, gradient on the host) of one packed batch, both divided by the weight, at random weights."""
    mesh, objective, tx, _ = parts(mesh_config, model=model)
    weights = jax.device_put(start(model), state_shardings(objective, tx, mesh).weights)
    gradient = in_mesh(mesh, jax.jit(lambda w, batch: loss_and_gradient(objective, w, batch, accumulate=1)))
    total, weight, _, summed = jax.device_get(gradient(weights, tiny_batch(0)))
    return total / weight, jax.tree.map(lambda g: g / weight, summed)


@pytest.mark.parametrize(
    ("mesh", "model"),
    [
        (dict(fsdp=2, sequence=2, tensor=2), PLAIN),
        (dict(fsdp=2, sequence=4), WITH_ALL),
        (dict(sequence=8), PLAIN),
    ],
    ids=["2 shares", "4 shares and a window", "8 shares"],
)
def test_rows_cut_along_their_length_give_the_loss_and_gradients_of_one_device(mesh, model):
    one, other = means(model=model), means(MeshConfig(**mesh), model)
    assert abs(other[0] - one[0]) <= TOLERANCE
    close(other[1], one[1], TOLERANCE)


def test_a_tied_head_with_biases_norms_and_a_window_trains_alike_on_every_axis():
    mesh = MeshConfig(stage=2, fsdp=2, tensor=2)
    one, other = three_steps(model=WITH_ALL), three_steps(mesh, model=WITH_ALL)
    np.testing.assert_allclose(other[0], one[0], atol=TOLERANCE)
    close(other[1], one[1], WEIGHT_TOLERANCE)
    assert "head" not in one[1] and np.abs(one[1]["layers"]["attn"]["q_bias"]).max() > 0
    assert not one[1]["embed"][PLAIN.vocab_size :].any(), "padding has no gradient through either use"
    assert tuple(other[2]["layers"]["attn"]["q_bias"].spec)[:2] == ("stage", "tensor")


def test_z_loss_is_a_part_of_the_loss_and_a_metric():
    mesh, objective, _, _ = parts()
    weights = start()
    plain, weight, _ = jax.jit(objective.loss)(weights, tiny_batch(0))
    more = token_objective(dataclasses.replace(tiny_config(), objective=ObjectiveConfig(z_loss=0.1)), mesh)
    total, same, aux = jax.jit(more.loss)(weights, tiny_batch(0))
    assert same == weight and aux["z_loss_nats"] > 0.1 * weight  # log(Z) of 60 logits near 0 is about 4
    np.testing.assert_allclose([aux["nll_nats"], aux["nll_nats"] + aux["z_loss_nats"]], [plain, total], rtol=1e-6)


def test_four_micro_batches_equal_one_batch():
    one, four = three_steps(), three_steps(ONE, 4)
    np.testing.assert_allclose(four[0], one[0], atol=TOLERANCE)
    close(four[1], one[1], WEIGHT_TOLERANCE)


def test_a_batch_that_is_not_finite_leaves_weights_and_moments_as_they_are():
    mesh, objective, tx, _ = parts()
    before = state_from_weights(objective, tx, mesh, start(), seed=3)
    kept = jax.device_get(before)
    after, metrics = compiled()(before, next(TinyLoader(nan_from=0)))
    assert bool(metrics["skipped"]) and int(after.step) == 1
    close((after.weights, after.opt_state), (kept.weights, kept.opt_state), 0)
