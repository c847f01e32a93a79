"""Frozen weights in int8 and int4: how far they are from the weights, and how they are cut over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax.config import MeshConfig
from tigerjax.mesh import make_mesh, sharding
from tigerjax.model.quantised import GROUP, held, held_sharding, is_quantised, read

SHAPES = {"layers/attn/q": (2, 256, 3, 10), "layers/attn/o": (2, 3, 128, 20), "layers/mlp/down": (2, 384, 24)}


def matrix(path):
    return jnp.asarray(np.random.default_rng(1).normal(size=SHAPES[path]), jnp.float32)


@pytest.mark.parametrize("path", SHAPES)
@pytest.mark.parametrize(("dtype", "largest"), [("int8", 127), ("int4", 7)])
def test_a_weight_is_off_by_half_a_step_at_most(path, dtype, largest):
    w = matrix(path)
    made = held(path, w, dtype)
    assert made.values.dtype == dtype and made.shape == w.shape
    inputs = 2 if path.endswith("o") else 1
    groups = (1,) * inputs if dtype == "int8" else (*w.shape[1:inputs], w.shape[inputs] // GROUP)
    assert made.scales.shape == (2, *groups, *w.shape[1 + inputs :])
    back = np.asarray(read(made, jnp.float32))
    shared = np.asarray(made.scales)
    for axis, size in enumerate(w.shape):
        shared = np.repeat(shared, size // shared.shape[axis], axis)
    assert (np.abs(back - w) <= shared * 0.5001).all()
    values = np.asarray(made.values, np.int32)
    assert values.max() == largest and values.min() == -largest - 1
    one = jax.tree.map(lambda a: a[1], made)  # of one layer, as it runs
    np.testing.assert_array_equal(read(one, jnp.float32), back[1])


def test_other_weights_are_bfloat16_and_zeros_stay_zeros():
    norm = held("layers/attn_norm/scale", jnp.ones((2, 5)), "int8")
    assert norm.dtype == jnp.bfloat16 and not is_quantised(norm)
    assert not np.asarray(read(held("layers/mlp/up", jnp.zeros((2, 4, 6)), "int8"), jnp.float32)).any()


def test_scales_are_cut_as_their_values_where_the_devices_divide_them():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    cut = sharding(mesh, "layers", "embed", "mlp")
    both = held_sharding("layers/mlp/up", cut, (2, 512, 24), "int4")
    assert both.values == cut and tuple(both.scales.spec) == ("stage", ("fsdp", "sequence"), "tensor")
    few = held_sharding("layers/mlp/up", cut, (2, 256, 24), "int4")  # two groups for four devices
    assert tuple(few.scales.spec) == ("stage", None, "tensor")


@pytest.mark.peers("qwix")
@pytest.mark.parametrize("path", SHAPES)
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_values_and_scales_are_those_of_qwix(path, dtype):
    import qwix

    w, inputs = matrix(path), 2 if path.endswith("o") else 1
    apart = [axis for axis in range(w.ndim) if axis == 0 or axis > inputs]
    tiles = {inputs: GROUP} if dtype == "int4" else {}
    apart += [axis for axis in range(1, inputs) if dtype == "int4"]
    theirs = qwix.quantize(w, dtype, channelwise_axes=apart, tiled_axes=tiles)
    ours = held(path, w, dtype)
    np.testing.assert_allclose(ours.scales, theirs.scale, rtol=1e-6)
    assert (np.asarray(ours.values, np.int32) == np.asarray(theirs.qvalue, np.int32)).mean() > 0.9999
