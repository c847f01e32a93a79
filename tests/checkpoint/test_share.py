"""A process's share of a state: every kind of array comes back, and a share for another mesh has another name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saving import META
from tiny_run import tiny_config

from tigerjax.checkpoint import share
from tigerjax.config import MeshConfig
from tigerjax.errors import DataError
from tigerjax.mesh import make_mesh, sharding


def tree(mesh):
    """Arrays of several types, cut and whole, with one of no dimension and one of no elements."""

    def on(array, *axes):
        return jax.device_put(array, sharding(mesh, *axes))

    return {
        "w": on(jnp.arange(48.0).reshape(8, 6), "embed", "mlp"),
        "narrow": on(jnp.arange(8, dtype=jnp.bfloat16) / 3, "embed"),
        "bytes": (on(jnp.arange(-3, 2, dtype=jnp.int8), None), on(jnp.bool_(True))),
        "none": on(jnp.zeros((0, 4)), None, None),
        "count": on(jnp.int32(7)),
    }


def abstract(arrays):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), arrays)


def test_every_kind_of_array_comes_back_to_the_bit_and_to_its_devices(tmp_path):
    arrays = tree(make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4]))
    layout = share.layout(arrays)
    assert layout == share.layout(abstract(arrays))
    data = np.empty(layout.bytes, np.uint8)
    share.copy(arrays, layout, data)
    share.write(tmp_path / "5-1", layout, data, META | {"step": 5})
    assert share.checked(tmp_path / "5-1", layout.name)["step"] == 5
    back = share.read(tmp_path / "5-1", layout, abstract(arrays))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), jax.device_get(arrays))
    assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(arrays), strict=True))


def test_the_name_of_a_share_says_which_parts_of_which_arrays_it_holds():
    names = {
        share.layout(tree(make_mesh(mesh, jax.devices()[:4]))).name
        for mesh in (MeshConfig(fsdp=2, tensor=2), MeshConfig(fsdp=4), MeshConfig(data=2, fsdp=2))
    }
    one = tree(make_mesh(MeshConfig(fsdp=4), jax.devices()[:4]))
    assert len(names) == 3 and share.layout(one | {"count": one["w"]}).name not in names


def test_a_share_that_is_cut_short_or_has_another_bit_is_damaged(tmp_path):
    arrays = tree(make_mesh(tiny_config().mesh, jax.devices()[:1]))
    layout = share.layout(arrays)
    data = np.zeros(layout.bytes, np.uint8)
    share.write(tmp_path, layout, data, META | {"step": 5})
    path = tmp_path / share.files(layout.name)[0]
    for damaged in (data[:-1].tobytes(), b"\1" + data[1:].tobytes()):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="xxh3 is"):
            share.checked(tmp_path, layout.name)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        share.checked(tmp_path, layout.name)
