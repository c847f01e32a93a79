"""The chunked loss against a plain one, and how much memory it takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tigerjax.model.loss import token_loss, token_nll

# float32 sums of 60 exponentials in another order
TOLERANCE = 1e-5
B, T, D, V, VOCAB = 4, 12, 6, 32, 29


def inputs(seed: int = 0):
    keys = jax.random.split(jax.random.key(seed), 4)
    hidden_BTD = jax.random.normal(keys[0], (B, T, D))
    head_DV = jax.random.normal(keys[1], (D, V))
    targets_BT = jax.random.randint(keys[2], (B, T), 0, VOCAB)
    weights_BT = jax.random.uniform(keys[3], (B, T)).at[:, -3:].set(0.0)
    return hidden_BTD, head_DV, targets_BT, weights_BT


def plain(hidden_BTD, head_DV, targets_BT, weights_BT):
    logp_BTV = jax.nn.log_softmax((hidden_BTD @ head_DV)[..., :VOCAB])
    nll_BT = -jnp.take_along_axis(logp_BTV, targets_BT[..., None], axis=-1)[..., 0]
    correct_BT = jnp.argmax(logp_BTV, axis=-1) == targets_BT
    return jnp.sum(nll_BT * weights_BT), jnp.sum(weights_BT), jnp.sum(correct_BT * weights_BT)


def chunked(chunk_tokens, batch_shards=1, length_shards=1, z_loss=0.0):
    return functools.partial(
        token_loss,
        vocab_size=VOCAB,
        chunk_tokens=chunk_tokens,
        batch_shards=batch_shards,
        length_shards=length_shards,
        z_loss=z_loss,
    )


@pytest.mark.parametrize(("chunk_tokens", "shards"), [(1, (1, 1)), (20, (2, 1)), (1000, (4, 1)), (20, (2, 3))])
def test_loss_count_and_gradients_do_not_depend_on_the_chunk(chunk_tokens, shards):
    arrays = inputs()
    loss = chunked(chunk_tokens, *shards)
    np.testing.assert_allclose(loss(*arrays), (*plain(*arrays), 0), rtol=TOLERANCE)
    for argument in (0, 1):
        ours = jax.grad(lambda *a: 3.0 * loss(*a)[0], argument)(*arrays)
        wanted = jax.grad(lambda *a: 3.0 * plain(*a)[0], argument)(*arrays)
        np.testing.assert_allclose(ours, wanted, atol=TOLERANCE)


@pytest.mark.parametrize(("chunk_tokens", "shards"), [(1000, (1, 1)), (20, (2, 3))])
def test_z_loss_and_its_gradients_are_those_of_the_formula(chunk_tokens, shards):
    arrays, z_loss = inputs(), 0.3  # 3,000 times PaLM's, so that a wrong factor shows

    def wanted(hidden_BTD, head_DV, targets_BT, weights_BT):
        log_z_BT = jax.nn.logsumexp((hidden_BTD @ head_DV)[..., :VOCAB], axis=-1)
        return plain(hidden_BTD, head_DV, targets_BT, weights_BT)[0] + z_loss * jnp.sum(log_z_BT**2 * weights_BT)

    loss = chunked(chunk_tokens, *shards, z_loss=z_loss)
    found = loss(*arrays)
    np.testing.assert_allclose(found.loss_sum, wanted(*arrays), rtol=TOLERANCE)
    np.testing.assert_allclose(found.loss_sum - found.z_sum, plain(*arrays)[0], rtol=TOLERANCE)
    for argument in (0, 1):
        ours = jax.grad(lambda *a: 3.0 * loss(*a)[0], argument)(*arrays)
        np.testing.assert_allclose(ours, jax.grad(lambda *a: 3.0 * wanted(*a), argument)(*arrays), atol=1e-4)


@pytest.mark.parametrize(("chunk_tokens", "shards"), [(1, (1, 1)), (20, (2, 3))])
def test_the_loss_of_each_token_and_its_gradients_do_not_depend_on_the_chunk(chunk_tokens, shards):
    hidden_BTD, head_DV, targets_BT, weights_BT = inputs()
    cut = dict(zip(("batch_shards", "length_shards"), shards, strict=True))

    def ours(hidden_BTD, head_DV):
        return token_nll(hidden_BTD, head_DV, targets_BT, vocab_size=VOCAB, chunk_tokens=chunk_tokens, **cut)

    def wanted(hidden_BTD, head_DV):
        logp_BTV = jax.nn.log_softmax((hidden_BTD @ head_DV)[..., :VOCAB])
        return -jnp.take_along_axis(logp_BTV, targets_BT[..., None], axis=-1)[..., 0]

    np.testing.assert_allclose(ours(hidden_BTD, head_DV), wanted(hidden_BTD, head_DV), atol=TOLERANCE)
    for argument in (0, 1):  # a loss that is no weighted sum: what flows back into a token depends on its value

        def loss(nll, *arrays):
            return jnp.sum(jnp.tanh(nll(*arrays)) * (weights_BT - 0.5))

        gradients = [jax.grad(functools.partial(loss, nll), argument)(hidden_BTD, head_DV) for nll in (ours, wanted)]
        np.testing.assert_allclose(*gradients, atol=TOLERANCE)


def test_padding_columns_have_no_probability_and_no_gradient():
    hidden_BTD, head_DV, targets_BT, weights_BT = inputs()
    loud_DV = head_DV.at[:, VOCAB:].set(50.0)
    arrays = (hidden_BTD, head_DV, targets_BT, weights_BT)
    loud = (hidden_BTD, loud_DV, targets_BT, weights_BT)
    assert chunked(8)(*arrays) == chunked(8)(*loud)
    assert not jax.grad(lambda h: chunked(8)(hidden_BTD, h, targets_BT, weights_BT)[0])(loud_DV)[:, VOCAB:].any()


def test_bfloat16_activations_give_a_float32_loss_and_head_gradient():
    hidden_BTD, *rest = inputs()
    loss, gradient = jax.value_and_grad(lambda h: chunked(8)(hidden_BTD.astype(jnp.bfloat16), h, *rest[1:])[0])(rest[0])
    assert loss.dtype == gradient.dtype == jnp.float32


def sizes_in(jaxpr) -> list[int]:
    """Elements of every array that any equation writes, at any depth."""
    sizes = []
    for equation in jaxpr.eqns:
        sizes += [v.aval.size for v in equation.outvars if hasattr(v.aval, "size")]
        for inner in jaxprs_in_params(equation.params):
            sizes += sizes_in(inner)
    return sizes


def test_no_array_of_the_gradient_holds_all_logits():
    arrays, chunk_tokens = inputs(), 2 * B
    gradient = jax.make_jaxpr(jax.grad(lambda *a: chunked(chunk_tokens, z_loss=1e-4)(*a)[0], (0, 1)))(*arrays)
    sizes = sizes_in(gradient.jaxpr)
    assert chunk_tokens * V in sizes  # the logits of one chunk are there: the walk reaches the loop's body
    assert max(sizes) <= max(chunk_tokens * V, B * T * D, D * V) < B * T * V


def test_compiled_temporaries_are_smaller_than_the_logits():
    b, t, d, v = 4, 256, 8, 512
    shapes = [((b, t, d), jnp.float32), ((d, v), jnp.float32), ((b, t), jnp.int32), ((b, t), jnp.float32)]

    def loss(*a):
        return token_loss(*a, vocab_size=v, chunk_tokens=64, batch_shards=1, length_shards=1, z_loss=1e-4)[0]

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*(jax.ShapeDtypeStruct(*s) for s in shapes)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * b * t * v / 2
