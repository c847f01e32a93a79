"""The schedule, the decay mask and one AdamW update against the formula."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tigerjax.config import OptimConfig
from tigerjax.train.optim import decay_mask, learning_rate, make_optimizer

TOLERANCE = 1e-6  # float32
OPTIM = OptimConfig(
    peak_lr=0.5, final_lr_fraction=0.1, warmup_steps=4, total_steps=20, beta1=0.8, beta2=0.9, eps=1e-3,
    weight_decay=0.3, clip_norm=None,
)  # fmt: skip


def test_the_rate_rises_to_the_peak_and_falls_to_its_last_fraction():
    rates = [float(learning_rate(OPTIM, i)) for i in range(20)]
    np.testing.assert_allclose(rates[:4], [0.125, 0.25, 0.375, 0.5], rtol=TOLERANCE)
    assert rates[3] == max(rates) and rates[4:] == sorted(rates[4:], reverse=True)
    np.testing.assert_allclose(rates[-1], 0.05, rtol=TOLERANCE)
    np.testing.assert_allclose(rates[11], 0.05 + 0.45 / 2, rtol=TOLERANCE)  # half way down the cosine


def test_only_matrices_decay_and_the_layer_axis_does_not_count():
    shapes = {
        "embed": (5, 4), "head": (4, 5), "score": (4,), "final_norm": {"scale": (4,)},
        "layers": {"attn_norm": {"scale": (2, 4)}, "mlp": {"up": (2, 4, 6)},
                   "attn": {"q": (2, 4, 3, 2), "q_bias": (2, 3, 2)}},
    }  # fmt: skip

    def build(t):
        return {k: build(v) if isinstance(v, dict) else jnp.zeros(v) for k, v in t.items()}

    assert decay_mask(build(shapes)) == {
        "embed": True, "head": True, "score": False, "final_norm": {"scale": False},
        "layers": {"attn_norm": {"scale": False}, "attn": {"q": True, "q_bias": False}, "mlp": {"up": True}},
    }  # fmt: skip


def test_the_first_direction_is_adamw_by_hand():
    weights = {"embed": jnp.array([[2.0, -1.0]]), "scale": jnp.array([3.0])}
    gradient = {"embed": jnp.array([[0.5, -4.0]]), "scale": jnp.array([0.2])}
    tx = make_optimizer(OPTIM)
    direction, _ = tx.update(gradient, tx.init(weights), weights)
    # after the bias correction of the first step, moment 1 is g and moment 2 is g * g
    adam = {k: g / (np.abs(g) + OPTIM.eps) for k, g in gradient.items()}
    np.testing.assert_allclose(direction["embed"], adam["embed"] + 0.3 * weights["embed"], rtol=TOLERANCE)
    np.testing.assert_allclose(direction["scale"], adam["scale"], rtol=TOLERANCE)


def test_a_gradient_over_the_norm_is_scaled_down_as_a_whole():
    tx = make_optimizer(dataclasses.replace(OPTIM, clip_norm=1.0, weight_decay=0.0))
    weights = {"a": jnp.zeros((1, 1)), "b": jnp.zeros((1, 1))}
    gradient = {"a": jnp.array([[30.0]]), "b": jnp.array([[40.0]])}
    _, (_, adam, *_) = tx.update(gradient, tx.init(weights), weights)
    np.testing.assert_allclose([adam.mu["a"][0, 0], adam.mu["b"][0, 0]], [0.2 * 0.6, 0.2 * 0.8], rtol=TOLERANCE)


def test_a_first_moment_in_bfloat16_is_stored_so_and_nothing_else_is():
    weights, gradient = {"a": jnp.ones((2, 2))}, {"a": jnp.full((2, 2), 0.3, jnp.float32)}
    plain, low = make_optimizer(OPTIM), make_optimizer(dataclasses.replace(OPTIM, first_moment_dtype="bfloat16"))
    wanted, _ = plain.update(gradient, plain.init(weights), weights)
    direction, (_, adam, *_) = low.update(gradient, low.init(weights), weights)
    assert adam.mu["a"].dtype == jnp.bfloat16 and adam.nu["a"].dtype == direction["a"].dtype == jnp.float32
    # The direction of this step is computed before the moment is rounded.
    np.testing.assert_allclose(direction["a"], wanted["a"], rtol=TOLERANCE)
