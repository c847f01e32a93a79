"""One update of the losses over preferences: every mesh equals one device, and micro-batches equal one batch."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from test_step import PLAIN, TOLERANCE, WITH_ALL, close
from tiny_run import LENGTH, ROWS, segments, tiny_config

from tigerjax.config import DpoConfig, KtoConfig, MeshConfig, OrpoConfig, PipelineConfig
from tigerjax.data.rows import make_batch, make_row
from tigerjax.mesh import in_mesh, run_mesh
from tigerjax.train import objective as objectives
from tigerjax.train.optim import make_optimizer
from tigerjax.train.preference_loss import PreferenceBatch
from tigerjax.train.state import init_state
from tigerjax.train.step import joined, loss_and_gradient, micro_batches

ONE, FILES = MeshConfig(), {"preferences": ("p",)}


def batch():
    """Three answers in each row: two of a pair, and one to another prompt; the first token of each is its prompt."""
    rows = []
    for parts in segments(0):
        ids = np.concatenate([np.full(len(part), 1 + i) for i, part in enumerate(parts)])
        weights = np.concatenate([np.arange(len(part)) > 0 for part in parts])
        row = [np.pad(a, (0, LENGTH - len(ids))) for a in (np.concatenate(parts), ids, weights)]
        rows.append(make_row(*row))
    rng = np.random.default_rng(0)
    winner = rng.integers(0, 2, (ROWS, 1)).astype(np.int32)
    unrelated = np.tile(np.array([0, 0, 1], np.float32), (ROWS, 1))
    reference = -rng.uniform(8, 20, (ROWS, 3)).astype(np.float32)
    weight = rng.uniform(0.2, 1, (ROWS, 1)).astype(np.float32)
    return PreferenceBatch(make_batch(rows), winner, 1 - winner, weight, unrelated, reference)


@functools.cache
def means(settings, mesh_config=ONE, accumulate=1, model=PLAIN):
    """(loss, metrics, gradient on the host), divided by the weight, at random weights."""
    config = tiny_config(accumulate=accumulate)
    pipeline = PipelineConfig(microbatches=mesh_config.stage)
    config = dataclasses.replace(config, model=model, mesh=mesh_config, pipeline=pipeline, objective=settings)
    mesh = run_mesh(config)
    objective = objectives.of(config, mesh)
    weights = init_state(objective, make_optimizer(config.optim), mesh, seed=3).weights
    gradient = in_mesh(mesh, jax.jit(lambda w, b: loss_and_gradient(objective, w, b, accumulate=accumulate)))
    total, weight, sums, summed = jax.device_get(gradient(weights, batch()))
    return total / weight, {n: v / weight for n, v in sums.items()}, jax.tree.map(lambda g: g / weight, summed)


@pytest.mark.parametrize(
    ("settings", "mesh", "model"),
    [
        (KtoConfig(**FILES), dict(fsdp=4, tensor=2), PLAIN),
        (DpoConfig(**FILES, label_smoothing=0.1), dict(stage=2, fsdp=2, tensor=2), WITH_ALL),
        (OrpoConfig(**FILES), dict(data=2, fsdp=2, sequence=2), PLAIN),
    ],
    ids=["kto", "dpo in stages, with all that a family may have", "orpo on rows cut along T"],
)
def test_every_mesh_gives_the_loss_and_gradients_of_one_device(settings, mesh, model):
    one, other = means(settings, model=model), means(settings, MeshConfig(**mesh), model=model)
    assert abs(other[0] - one[0]) <= TOLERANCE * max(1, abs(one[0]))
    close(other[1:], one[1:], TOLERANCE)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[2])) > 100 * TOLERANCE


def test_four_micro_batches_equal_one_batch():
    settings = OrpoConfig(**FILES)
    one, four = means(settings), means(settings, ONE, 4)
    assert abs(four[0] - one[0]) <= TOLERANCE
    close(four[1:], one[1:], TOLERANCE)
    whole = batch()
    close(joined(micro_batches(whole, 4)), whole, 0)
