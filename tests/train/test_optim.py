"""The decay mask, and updates of every optimiser against formulas, optax and torch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tigerjax.config import OptimConfig
from tigerjax.errors import ConfigError
from tigerjax.train.optim import averaged, decay_mask, make_optimizer

TOLERANCE = 1e-6  # float32
OPTIM = OptimConfig(
    peak_lr=0.5, final_lr_fraction=0.1, warmup_steps=4, total_steps=20, beta1=0.8, beta2=0.9, eps=1e-3,
    weight_decay=0.3, clip_norm=None,
)  # fmt: skip


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


RATE, STEPS = 0.1, 5
NO_DECAY = dataclasses.replace(OPTIM, weight_decay=0.0)


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)


def trained(c, weights, gradients):
    """The weights after an update with each of the gradients, and the state; as the step of training does it."""
    tx = make_optimizer(c)
    state = tx.init(weights)

    @jax.jit
    def step(weights, state, gradient):
        direction, state = tx.update(gradient, state, weights)
        weights = jax.tree.map(lambda w, d: w - RATE * d, weights, direction)
        return weights, averaged(c, state, weights)

    for gradient in gradients:
        weights, state = step(weights, state, gradient)
    return weights, state


def by_optax(tx, weights, gradients):
    state = tx.init(weights)
    for gradient in gradients:
        updates, state = jax.jit(tx.update)(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
    return weights


@pytest.mark.peers
def test_adamw_is_torchs_and_the_mean_of_the_weights_is_its_averaged_model():
    import torch

    module = torch.nn.Linear(4, 3)  # a matrix, which decays, and a bias, which does not
    weights = {"embed": jnp.asarray(module.weight.detach().numpy()), "scale": jnp.asarray(module.bias.detach().numpy())}
    both = list(module.parameters())
    adamw = torch.optim.AdamW(
        [{"params": both[:1], "weight_decay": 0.3}, {"params": both[1:], "weight_decay": 0.0}],
        lr=RATE, betas=(OPTIM.beta1, OPTIM.beta2), eps=OPTIM.eps,
    )  # fmt: skip
    mean = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.7))
    mean.update_parameters(module)  # torch begins with the weights of the first call
    gradients = [{"embed": numbers(i, 3, 4), "scale": numbers(10 + i, 3)} for i in range(STEPS)]
    for gradient in gradients:
        for parameter, name in zip(both, ("embed", "scale"), strict=True):
            parameter.grad = torch.tensor(gradient[name])
        adamw.step()
        mean.update_parameters(module)
    found, state = trained(dataclasses.replace(OPTIM, ema_decay=0.7), weights, gradients)
    for ours, theirs in ((found, module), (state[-1].mean, mean.module)):
        np.testing.assert_allclose(ours["embed"], theirs.weight.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(ours["scale"], theirs.bias.detach().numpy(), atol=1e-5)


def test_muon_is_optaxs_for_the_matrices_of_layers_and_adamw_for_the_rest():
    heads, flat = (2, 6, 4, 3), (2, 6, 12)  # [L, D, N, H], and its two axes of heads as one
    weights = {"layers": {"attn": {"q": jnp.zeros(heads), "o": jnp.zeros((2, 4, 3, 6))},
                          "mlp": {"up": jnp.zeros(flat)}}, "embed": jnp.zeros((5, 4))}  # fmt: skip
    given = [
        {"q": numbers(i, *flat), "o": numbers(20 + i, 2, 12, 6), "up": numbers(40 + i, *flat)} for i in range(STEPS)
    ]
    embed = [numbers(60 + i, 5, 4) for i in range(STEPS)]
    gradients = [
        {"layers": {"attn": {"q": g["q"].reshape(heads), "o": g["o"].reshape(2, 4, 3, 6)}, "mlp": {"up": g["up"]}},
         "embed": e}
        for g, e in zip(given, embed, strict=True)
    ]  # fmt: skip
    found, _ = trained(dataclasses.replace(NO_DECAY, kind="muon", muon_momentum=0.9), weights, gradients)
    muon = optax.contrib.muon(RATE, beta=0.9, consistent_rms=0.2)
    for layer in range(2):
        one = [{name: jnp.asarray(a[layer]) for name, a in g.items()} for g in given]
        wanted = by_optax(muon, jax.tree.map(jnp.zeros_like, one[0]), one)
        ours = {"q": found["layers"]["attn"]["q"][layer].reshape(6, 12), "up": found["layers"]["mlp"]["up"][layer],
                "o": found["layers"]["attn"]["o"][layer].reshape(12, 6)}  # fmt: skip
        for name in wanted:
            np.testing.assert_allclose(ours[name], wanted[name], atol=1e-5, err_msg=name)
    adamw, _ = trained(NO_DECAY, {"embed": weights["embed"]}, [{"embed": e} for e in embed])
    np.testing.assert_allclose(found["embed"], adamw["embed"], atol=1e-6)


@pytest.mark.parametrize("beta1", [0.0, 0.8])
def test_adafactor_is_optaxs(beta1):
    weights = {"head": jnp.asarray(numbers(0, 130, 140)), "scale": jnp.ones(3)}
    gradients = [{"head": numbers(1 + i, 130, 140), "scale": numbers(20 + i, 3)} for i in range(3)]
    c = dataclasses.replace(NO_DECAY, kind="adafactor", beta1=beta1, beta2=None, eps=None)
    found, state = trained(c, weights, gradients)
    theirs = optax.adafactor(RATE, multiply_by_parameter_scale=False, momentum=beta1 or None)
    wanted = by_optax(theirs, weights, gradients)
    jax.tree.map(lambda ours, other: np.testing.assert_allclose(ours, other, atol=1e-5), found, wanted)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim and leaf.size > 3)
    assert shapes == [(130,), *([(130, 140)] if beta1 else []), (140,)]


def test_adafactor_clips_each_layer_by_itself():
    c = dataclasses.replace(NO_DECAY, kind="adafactor", beta1=0.0, beta2=None, eps=None)
    tx = make_optimizer(c)
    weights = {"layers": {"mlp": {"up": jnp.zeros((2, 3, 4))}}}
    state = tx.init(weights)
    for first in (1.0, 100.0):
        gradient = {"layers": {"mlp": {"up": jnp.ones((2, 3, 4)).at[0].set(first)}}}
        direction, state = tx.update(gradient, state, weights)
    rms = np.sqrt(np.mean(np.square(direction["layers"]["mlp"]["up"]), axis=(1, 2)))
    np.testing.assert_allclose(rms, [1.0, 1.0], rtol=1e-5)  # a jump of one layer leaves the other as it is


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(kind="adafactor"), "optim.beta2=0.9, but optim.kind='adafactor' needs None"),
        (dict(beta2=None), "optim.beta2=None, but optim.kind='adamw' needs a number"),
        (dict(kind="adamw_8bit", first_moment_dtype="bfloat16"), "read by optim.kind='adamw_8bit', only by adamw"),
        (dict(muon_momentum=0.9), "muon_momentum=0.9 is not read by optim.kind='adamw', only by muon"),
        (dict(ema_decay=1.0), "optim.ema_decay=1.0 must be above 0 and below 1"),
    ],
)
def test_a_setting_that_an_optimiser_does_not_read_is_refused(change, match):
    with pytest.raises(ConfigError, match=match) as caught:
        dataclasses.replace(OPTIM, **change)
    assert "\n" not in str(caught.value)
