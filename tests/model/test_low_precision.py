"""Products in int8 and float8: what they are, what their derivatives are, and that whole models learn with them."""

import dataclasses
import functools
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from tiny_run import tiny_batch, tiny_config

from tigerjax.config import LoraConfig, MeshConfig, PipelineConfig, WeightsConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import in_mesh, run_mesh
from tigerjax.model import low_precision, products
from tigerjax.model.quantised import rounded
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state, state_shardings
from tigerjax.train.step import compile_step, loss_and_gradient

KINDS = ("int8", "fp8", "fp8_full")
ONE = MeshConfig()
ERROR = {"int8": 0.02, "fp8": 0.05, "fp8_full": 0.05}
"""Of a product of normal numbers, beside its own size: half a step of 1/127 of the largest, and 3 bits of mantissa."""
FORMULAS = {"BTD,DNH->BTNH": ((2, 5, 24), (24, 3, 4)), "BTNH,NHD->BTD": ((2, 5, 3, 8), (3, 8, 10))}
INPUTS = {"BTD,DNH->BTNH": 1, "BTNH,NHD->BTD": 2}
"""Axes of the matrix that are summed over."""
PLACES = {1: ("attn", "q"), 2: ("attn", "o")}


def with_values(w, n, kind):
    """A matrix of `n` axes of inputs, as training rounds it."""
    part, name = PLACES[n]
    found = low_precision.of_layers({part: {name: w[None]}}, kind)[part][name]
    return low_precision.with_rounded(w, type(found)(found.values[0], found.scales[0]))


def operands(formula, kind):
    """(x, the matrix as training rounds it, the matrix)."""
    of_x, of_w = FORMULAS[formula]
    rng = np.random.default_rng(4)
    x, w = (jnp.asarray(rng.normal(size=shape) * 3, jnp.float32) for shape in (of_x, of_w))
    return x, with_values(w, INPUTS[formula], kind), w


def relative(ours, wanted):
    return float(jnp.linalg.norm(ours - wanted) / jnp.linalg.norm(wanted))


@pytest.mark.parametrize("formula", FORMULAS)
def test_an_int8_product_is_that_of_whole_numbers_with_a_scale_for_each_token_and_each_output(formula):
    x, matrix, w = operands(formula, "int8")
    n = INPUTS[formula]
    values, by_token = (np.asarray(a) for a in rounded(x, tuple(range(x.ndim - n, x.ndim)), "int8"))
    of_w = np.asarray(rounded(w, tuple(range(n)), "int8").values).reshape(np.prod(w.shape[:n]), -1)
    whole = values.reshape(-1, np.prod(w.shape[:n])).astype(np.int64) @ of_w
    wanted = whole * by_token.reshape(-1, 1) * np.asarray(matrix.scales).reshape(1, -1)
    np.testing.assert_allclose(low_precision.times(x, matrix, n).reshape(wanted.shape), wanted, rtol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("formula", FORMULAS)
def test_products_and_gradients_are_near_and_those_of_the_weight_exact_unless_they_are_rounded(formula, kind):
    x, matrix, w = operands(formula, kind)
    d_y = jnp.asarray(np.random.default_rng(5).normal(size=jnp.einsum(formula, x, w).shape), jnp.float32)
    y, pullback = jax.vjp(lambda x, w: low_precision.times(x, w, INPUTS[formula]), x, matrix)
    wanted, plain = jax.vjp(functools.partial(jnp.einsum, formula), x, w)
    d_x, d_matrix = pullback(d_y)
    d_x_plain, d_w = plain(d_y)
    assert 1e-4 < relative(y, wanted) < ERROR[kind] and 1e-4 < relative(d_x, d_x_plain) < ERROR[kind]
    if kind == "fp8_full":
        assert 1e-4 < relative(d_matrix.weight, d_w) < ERROR[kind]
    else:
        np.testing.assert_allclose(d_matrix.weight, d_w, rtol=1e-5, atol=1e-5)
    assert y.dtype == x.dtype and not d_matrix.scales.any()


PRODUCTS = {
    "hidden": (products.to_hidden, ((24,),), (24, 40)),
    "out": (products.out_projection, ((3, 8),), (3, 8, 40)),
    "down": (products.swiglu_down, ((24,), (24,)), (24, 40)),
}
"""(function, features of its activations, its matrix)."""


@pytest.mark.parametrize("name", PRODUCTS)
def test_gradients_in_float8_of_tokens_of_very_different_sizes_are_those_in_float64(name):
    """Tokens' gradients from 1e-9 to 1e-5, and activations from 0.01 to 100; of some tokens either is 0."""
    times, features, of_w = PRODUCTS[name]
    rng = np.random.default_rng(6)
    sizes = 10 ** rng.uniform(-2, 2, (2, 64)) * (np.arange(64) != 3)
    xs = [rng.normal(size=(2, 64, *own)) * sizes.reshape(2, 64, *[1] * len(own)) for own in features]
    w, d_y = rng.normal(size=of_w), rng.normal(size=(2, 64, 40)) * 10 ** rng.uniform(-9, -5, (2, 64, 1))
    d_y[:, 5] = 0
    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in (*xs, w, d_y)]
        wanted = jax.vjp(times, *wide[:-1])[1](wide[-1])
        assert wanted[-1].dtype == jnp.float64
    matrix = with_values(jnp.asarray(w, jnp.float32), w.ndim - 1, "fp8_full")
    narrow = [jnp.asarray(x, jnp.float32) for x in xs]
    ours = jax.vjp(times, *narrow, matrix)[1](jnp.asarray(d_y, jnp.float32))
    assert 1e-3 < relative(ours[-1].weight, np.asarray(wanted[-1])) < 0.06
    for own, other in zip(ours[:-1], wanted[:-1], strict=True):
        assert 1e-3 < relative(own, np.asarray(other)) < 0.06


def test_gradients_in_float8_of_a_batch_without_gradients_are_zero():
    for times, features, of_w in PRODUCTS.values():
        xs = [jnp.zeros((2, 4, *own)) for own in features]
        for d_y in (jnp.zeros((2, 4, 40)), jnp.ones((2, 4, 40))):
            *_, d_w = jax.vjp(times, *xs, with_values(jnp.ones(of_w), len(of_w) - 1, "fp8_full"))[1](d_y)
            assert not np.any(d_w.weight)  # nan counts as any


def parts(kind, mesh=ONE, **compute):
    """(mesh, objective, optimiser) of the tiny run."""
    config = tiny_config()
    config = dataclasses.replace(
        config, mesh=mesh, pipeline=PipelineConfig(microbatches=mesh.stage),
        compute=dataclasses.replace(config.compute, quantise=kind, **compute),
    )  # fmt: skip
    mesh = run_mesh(config)
    return mesh, token_objective(config, mesh), make_optimizer(config.optim)


@functools.cache
def start():
    mesh, objective, tx = parts("none")
    return jax.device_get(init_state(objective, tx, mesh, seed=3).weights)


def gradient(objective):
    return jax.jit(lambda w, batch: loss_and_gradient(objective, w, batch, accumulate=1))


@functools.cache
def means(kind, mesh=ONE, remat="none"):
    """(loss, gradient on the host) of one packed batch, both divided by the weight."""
    made, objective, tx = parts(kind, mesh, remat=remat)
    weights = jax.device_put(start(), state_shardings(objective, tx, made).weights)
    total, weight, _, summed = jax.device_get(in_mesh(made, gradient(objective))(weights, tiny_batch(0)))
    return total / weight, jax.tree.map(lambda g: g / weight, summed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_every_weight_points_where_that_without_rounding_does(kind):
    loss, ours = means(kind)
    exact, wanted = means("none")
    assert 0 < abs(loss - exact) < 1e-3 * exact
    for own, other in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        cosine = np.vdot(own, other) / np.linalg.norm(own) / np.linalg.norm(other)
        assert cosine > 0.99, cosine


def distance(ours, wanted):
    """Of two gradients, as a share of the second one's length."""
    both = list(zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True))
    return (sum(np.sum((a - b) ** 2) for a, b in both) / sum(np.sum(b**2) for _, b in both)) ** 0.5


def alike(other, kind="int8"):
    """The same but for what rounding does to sums in another order: a number between two whole ones may become either.
    So the measure is what rounding itself changes."""
    one, exact = means(kind), means("none")
    assert abs(one[0] - other[0]) < abs(one[0] - exact[0]) / 2
    assert distance(other[1], one[1]) < distance(one[1], exact[1]) / 2


@pytest.mark.parametrize(
    "mesh", [dict(fsdp=4, tensor=2), dict(stage=2, fsdp=2, tensor=2), dict(fsdp=2, sequence=2, tensor=2)], ids=str
)
def test_every_mesh_rounds_alike(mesh):
    alike(means("int8", MeshConfig(**mesh)))


def test_the_scale_of_all_tokens_is_that_of_all_devices():
    alike(means("fp8_full", MeshConfig(fsdp=4, tensor=2)), "fp8_full")


@pytest.mark.parametrize("remat", ["full", "save_qkv", "save_dots"])
def test_remat_changes_nothing(remat):
    alike(means("int8", remat=remat))


def test_a_layer_has_fourteen_products_of_whole_numbers_and_reads_no_other_weight_forward():
    _, objective, _ = parts("int8")
    text = gradient(objective).lower(start(), tiny_batch(0)).as_text()
    assert len(re.findall(r"stablehlo\.dot_general.*-> tensor<[x\d]*xi32>", text)) == 14


def test_the_gradients_of_weights_are_products_in_float8_where_that_is_asked():
    def count(kind):
        text = gradient(parts(kind)[1]).lower(start(), tiny_batch(0)).as_text()
        return len(re.findall(r"stablehlo\.dot_general.*\(tensor<[x\d]*xf8E4M3FN>, tensor<[x\d]*xf8E4M3FN>\)", text))

    assert (count("fp8"), count("fp8_full")) == (14, 21)


@pytest.mark.parametrize("kind", ["int8", "fp8_full"])
def test_a_quantised_run_learns_as_one_without(kind):
    def losses(kind):
        mesh, objective, tx = parts(kind, dtype="bfloat16")
        step, state = compile_step(objective, tx, tiny_config().optim, mesh), init_state(objective, tx, mesh, seed=3)
        found = []
        for i in range(12):
            state, metrics = step(state, tiny_batch(i))
            found.append(float(metrics["loss_nats"]))
        return found, jax.tree.map(lambda a: (a.shape, a.dtype), state)

    (plain, held), (ours, held_by_ours) = losses("none"), losses(kind)
    assert held == held_by_ours  # a checkpoint of either is one of both
    assert plain[-1] < plain[0] - 0.5
    np.testing.assert_allclose(ours, plain, rtol=0.01)
    assert ours != plain


def test_matrices_that_are_held_in_whole_numbers_are_not_rounded_twice():
    config = tiny_config()
    compute = dataclasses.replace(config.compute, quantise="int8")
    adapted = dataclasses.replace(config, compute=compute, lora=LoraConfig(rank=2))
    with pytest.raises(ConfigError, match=r"compute\.quantise=int8 rounds matrices that weights\.frozen_dtype=int4"):
        dataclasses.replace(adapted, weights=WeightsConfig(frozen_dtype="int4"))
    assert dataclasses.replace(adapted, weights=WeightsConfig(frozen_dtype="bfloat16")).compute.quantise == "int8"
