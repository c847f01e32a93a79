"""8-bit means: the values that codes stand for, the nearest one to a number, and Adam with them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tigerjax.train.adam_8bit import Codes, Cut, decode, encode, scale_by_adam_8bit


def table(signed: bool) -> np.ndarray:
    """The 256 values of the paper's dynamic quantisation, smallest first, written out from its description: seven
    bands of powers of ten, each cut into equal parts of which the middles are taken; 0; and 1."""
    values = [0.0, 1.0]
    for band in range(7):
        edges = np.linspace(0.1, 1.0, 2 ** (band + (0 if signed else 1)) + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (band - 6)
        values += [*middles, *(-middles if signed else ())]
    assert len(values) == 256
    return np.sort(np.array(values))


@pytest.mark.parametrize("signed", [True, False])
def test_the_codes_stand_for_the_values_of_the_paper(signed):
    code = np.arange(-128, 128, dtype=np.int8) if signed else np.arange(256, dtype=np.uint8)
    found = decode(Codes(jnp.asarray(code), jnp.ones(1)), Cut(0, 256))
    np.testing.assert_allclose(np.sort(np.asarray(found)), table(signed), rtol=1e-6)


@pytest.mark.parametrize("signed", [True, False])
def test_each_number_gets_the_nearest_value_of_its_block(signed):
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-8, 0, (6, 512)) * (rng.choice([-1, 1], (6, 512)) if signed else 1)
    array, cut = jnp.asarray(sizes, jnp.float32), Cut(1, 128)
    codes = encode(array, cut, signed)
    assert codes.code.shape == (6, 512) and codes.scale.shape == (6, 4)
    blocks = np.asarray(array, np.float64).reshape(6, 4, 128)
    largest = np.abs(blocks).max(-1, keepdims=True)
    values = table(signed)
    nearest = values[np.abs((blocks / largest)[..., None] - values).argmin(-1)]
    if not signed:
        nearest = np.maximum(nearest, values[1])  # no positive mean of squares becomes 0
    found = np.asarray(decode(codes, cut)).reshape(6, 4, 128) / largest
    # Where two values are as near, float32 may take the other one.
    off = np.abs(np.abs(found - blocks / largest) - np.abs(nearest - blocks / largest))
    assert off.max() < 1e-6


def test_blocks_lie_within_the_shares_of_a_weight_and_zeros_stay_zeros():
    sizes = {128: 128, 11008: 32, 28672: 256, 60928: 64, 48: 16, 10: 2}
    found = {
        n: Cut.of(jax.ShapeDtypeStruct((3, n), np.float32), 1, 1 if n == 128 else 8, stacked=True).size for n in sizes
    }
    assert found == sizes
    zeros = jnp.zeros((4, 32))
    for signed in (True, False):
        np.testing.assert_array_equal(decode(encode(zeros, Cut(1, 16), signed), Cut(1, 16)), zeros)


def test_the_first_direction_is_adams_and_later_ones_differ_by_the_rounding_only():
    rng = np.random.default_rng(1)
    weights = {"matrix": jnp.zeros((8, 64)), "layers": jnp.zeros((3, 4, 64)), "scale": jnp.zeros(5)}
    plain = optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8)

    def cut_of(path, w):
        return Cut(w.ndim - 1, 32, stacked=w.ndim == 3) if w.ndim > 1 else None

    ours = scale_by_adam_8bit(b1=0.9, b2=0.95, eps=1e-8, cut_of=cut_of)
    states = plain.init(weights), ours.init(weights)
    update = jax.jit(lambda g, states: tuple(tx.update(g, s) for tx, s in zip((plain, ours), states, strict=True)))
    for step in range(10):
        gradient = {k: jnp.asarray(rng.normal(0.3, 1.0, w.shape), jnp.float32) for k, w in weights.items()}
        (wanted, first), (found, second) = update(gradient, states)
        states = first, second
        np.testing.assert_allclose(found["scale"], wanted["scale"], rtol=1e-5)
        for name in ("matrix", "layers"):
            off = np.abs(found[name] - wanted[name])
            assert off.max() < (1e-5 if step == 0 else 0.1) and off.mean() < 0.01, (step, name)
    assert second.mu["matrix"].code.dtype == jnp.int8 and second.nu["matrix"].code.dtype == jnp.uint8
    assert second.mu["scale"].dtype == jnp.float32
