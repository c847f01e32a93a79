"""Mesh axes and the one table that maps logical array axes onto them.

Model code names *logical* axes ('embed', 'heads', ...). Nothing outside this file names a mesh axis,
except `model/pipeline.py`, whose subject is the 'stage' axis.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tigerjax.config import MeshConfig, RunConfig
from tigerjax.errors import ConfigError
from tigerjax.processes import hosts

AXES = ("data", "stage", "fsdp", "sequence", "tensor")

COPIES = "data"
"""The axis of the copies of the model: it alone crosses slices."""

RULES: dict[str, Any] = {
    # weights
    "layers": "stage",
    "vocab": "tensor",
    "embed": ("fsdp", "sequence"),  # all that share a batch, so that longer rows do not need more memory for weights
    # model_dim of embedding and head: outside the pipeline, so the stages share them
    "table": ("stage", "fsdp", "sequence"),
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "norm": None,
    "rank": None,
    # activations
    "batch": ("data", "stage", "fsdp"),
    "length": "sequence",
    "act_length": ("sequence", "tensor"),  # between blocks: 'tensor' splits T where it splits neither heads nor mlp
    "shares": ("data", "stage", "fsdp", "sequence"),  # of a batch: rows, each cut along T
    "act_embed": None,
    "act_heads": "tensor",
    "act_kv_heads": "tensor",
    "act_vocab": "tensor",
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices, or over those given. ConfigError when the degrees do not multiply to their count."""
    devices = jax.devices() if devices is None else devices
    shape = tuple(getattr(config, axis) for axis in AXES)
    need = math.prod(shape)
    if need != len(devices):
        degrees = " x ".join(f"{axis}={n}" for axis, n in zip(AXES, shape, strict=True))
        raise ConfigError(
            f"mesh {degrees} = {need} devices, but {len(devices)} are present; change one degree of the config's mesh"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if config.data % slices:
        raise ConfigError(
            f"mesh.data={config.data} is not a multiple of the {slices} slices that it crosses; change it"
        )
    # jax.make_mesh refuses several slices, and axes of a v5p torus split over two mesh axes; mesh_utils does both.
    if slices > 1:
        inner, outer = (shape[0] // slices, *shape[1:]), (slices, *(1 for _ in shape[1:]))
        grid = mesh_utils.create_hybrid_device_mesh(inner, outer, devices=devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
    # Explicit axes, the default of jax now, fail linen's logical constraints: Auto.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def run_mesh(config: RunConfig) -> Mesh:
    """The config's mesh; one device of several when every degree is 1 (and there is one process)."""
    return _mesh_of(config.mesh)


def mesh_of_several(degrees: MeshConfig) -> Mesh | None:
    """The mesh for sampling and evaluation; None when it would be a single device.

    It is `run_mesh`, except that rows are not cut along T: the devices of 'sequence' are added to those of 'fsdp' and
    read rows of their own. Weights lie as in training. ConfigError for degrees with `least_data`."""
    if degrees.least_data is not None:
        raise ConfigError(
            f"mesh.least_data={degrees.least_data} is for training; leave it out here, and set mesh.data to the copies"
            " that are there"
        )
    mesh = _mesh_of(dataclasses.replace(degrees, fsdp=degrees.fsdp * degrees.sequence, sequence=1))
    return mesh if mesh.size > 1 else None


def platform() -> str:
    """Of the devices that a program is traced for, such as cpu or tpu: those of the mesh that is set, if one is."""
    of_mesh = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if of_mesh is None else of_mesh.platform


def rows_whole(mesh: Mesh) -> Mesh:
    """The same devices in the same order, with those of 'sequence' added to 'fsdp': as `mesh_of_several`, of a mesh."""
    data, stage, fsdp, sequence, tensor = mesh.devices.shape
    devices = mesh.devices.reshape(data, stage, fsdp * sequence, 1, tensor)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _mesh_of(degrees: MeshConfig) -> Mesh:
    alone = math.prod(getattr(degrees, axis) for axis in AXES) == 1 and not hosts.several()
    return make_mesh(degrees, jax.devices()[:1] if alone else None)


def in_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, always called with the mesh and the axis table set, so that logical constraints mean something."""

    def call(*args: Any) -> Any:
        with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
            return function(*args)

    return call


def spec(*logical_axes: str | None) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes; None is an axis that is never sharded.

    Mesh axes that are manual here are left out (inside a shard_map, as 'stage' is in the pipeline): there an array is
    already one device's share.
    """
    return PartitionSpec(*(None if a is None else _automatic(RULES[a]) for a in logical_axes))


def sharding(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    """The NamedSharding of an array with these logical axes on `mesh`."""
    return NamedSharding(mesh, spec(*logical_axes))


def on_each(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function`, applied by each device to its own share of the arguments.

    The function itself when no mesh is set, or when all its axes are manual already."""
    mesh = jax.sharding.get_abstract_mesh()
    free = {a for a, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual}
    if not free:
        return function
    # check_vma off: a kernel's outputs do not say over which axes they vary (jax 0.10.2); the tests compare with the
    # reference instead.
    return jax.shard_map(function, axis_names=free, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def copies_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of (weights, frozen weights, batch), run by each copy of the model on its own rows. Nothing crosses
    'data' but what it gives to `added_to_others`, and its results must be such sums."""

    def alone(weights: Any, frozen: Any, batch: Any) -> Any:
        with nn.logical_axis_rules(logical_rules()):  # without 'data', which is manual here
            return function(weights, frozen, batch)

    whole = PartitionSpec()
    in_specs = whole, whole, PartitionSpec(COPIES)
    # check_vma off, as in `on_each`.
    return jax.shard_map(alone, axis_names={COPIES}, in_specs=in_specs, out_specs=whole, check_vma=False)


def added_to_others(array: jax.Array, spec: PartitionSpec | None = None) -> jax.Array:
    """Inside `copies_alone`: the sum of the array over all copies, in its own dtype.

    With its `spec` each device adds its own share."""
    if spec is not None:
        array = jax.lax.with_sharding_constraint(array, spec)
    return jax.lax.psum(array, COPIES)


def manual_row_ways() -> int:
    """Over how many devices the rows have been split already where this is traced: 1 outside `copies_alone`."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return math.prod(mesh.shape[a] for a, kind in kinds if kind == AxisType.Manual and a in RULES["batch"])


def length_ways() -> int:
    """Into how many shares the mesh that is set here cuts each row along T; 1 when none is set."""
    return int(jax.sharding.get_abstract_mesh().shape.get(RULES["length"], 1))


def embed_ways() -> int:
    """Over how many devices the mesh that is set here splits the weights of layers along D; 1 when none is set."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in RULES["embed"])


def embed_index() -> jax.Array:
    """Inside `on_each`: which of the `embed_ways` shares along D this device has."""
    return jax.lax.axis_index(RULES["embed"])


def embed_gathered(array: jax.Array, axis: int) -> jax.Array:
    """Inside `on_each`: the array whole along its dimension `axis`, which is D and of which each device has a share."""
    return jax.lax.all_gather(array, RULES["embed"], axis=axis, tiled=True)


def to_neighbour(array: jax.Array, ring: int, stride: int, way: int) -> jax.Array:
    """Inside `on_each`: what the neighbour behind sends, when every device sends its `array` ahead.

    The devices that share D form rings of `ring` devices, `stride` apart in their order. Ahead is up the order where
    `way` is 1, and down where it is -1."""
    pairs = []
    for device in range(embed_ways()):
        place = device // stride % ring
        pairs.append((device, device + ((place + way) % ring - place) * stride))
    return jax.lax.ppermute(array, RULES["embed"], pairs)


def balanced_places(length: int) -> np.ndarray:
    """place_PT int32: the places in a row of `length` tokens that each of its P = `length_ways()` shares has.

    The row is cut into 2 P chunks, and share i holds chunks i and 2 P - 1 - i. Then every share has the same causal
    work: a late token reads more keys than an early one. With one share the order is that of the row.
    """
    ways = length_ways()
    place = np.arange(length, dtype=np.int32)
    if ways == 1:
        return place[None]
    early, late = place.reshape(2, ways, -1)
    return np.concatenate([early, late[::-1]], axis=1)


def balanced(array: jax.Array, axis: int = 1) -> jax.Array:
    """`array`, whose dimension `axis` is T, in the order of `balanced_places`, which the model's rows have."""
    last = 2 * length_ways() - 1
    return _chunks(array, [chunk for i in range(length_ways()) for chunk in (i, last - i)], axis)


def in_row_order(array: jax.Array, axis: int = 1) -> jax.Array:
    """The inverse of `balanced`, for an array that every device has whole along T."""
    last = 2 * length_ways() - 1
    return _chunks(array, [*range(0, last, 2), *range(last, 0, -2)], axis)


def gathered(array: jax.Array, axis: int) -> jax.Array:
    """Inside `on_each`: the array whole along its dimension `axis`, of which each device has its share of a row."""
    return jax.lax.all_gather(array, RULES["length"], axis=axis, tiled=True)


def _chunks(array: jax.Array, order: list[int], axis: int) -> jax.Array:
    if len(order) == 2:  # one share
        return array
    # Slices, not a flip: of that, XLA:TPU makes several copies.
    chunks = jnp.split(array, len(order), axis)
    return jnp.concatenate([chunks[chunk] for chunk in order], axis)


def row_ways(mesh: Mesh | None) -> int:
    """Over how many devices the rows of a batch are split."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in RULES["batch"])


def put(array: np.ndarray, mesh: Mesh, *logical_axes: str | None) -> jax.Array:
    """Puts a numpy array on the mesh. Every process must have all of it; none communicates with another."""
    return jax.make_array_from_callback(array.shape, sharding(mesh, *logical_axes), array.__getitem__)


def put_rows(local: np.ndarray, mesh: Mesh, mine: Sequence[int], batch_rows: int) -> jax.Array:
    """The global array of `batch_rows` rows, of which this process has only its own: `mine` (`host_rows`), in order."""
    assert len(local) == len(mine), (local.shape, mine)
    place_of = {row: place for place, row in enumerate(mine)}

    def cut(index: Any) -> np.ndarray:
        first, last, _ = index[0].indices(batch_rows)
        at = place_of[first]
        return local[at : at + last - first]

    return jax.make_array_from_callback((batch_rows, *local.shape[1:]), sharding(mesh, "batch"), cut)


def host_rows(mesh: Mesh, batch_rows: int) -> list[int]:
    """The numbers of the rows of a global batch that this process's loader must read, in order.

    They are the rows that its devices hold. Two hosts read the same rows when a mesh axis that does not split rows,
    such as 'tensor', crosses hosts.
    """
    mine = sharding(mesh, "batch").addressable_devices_indices_map((batch_rows,)).values()
    return sorted({row for index in mine if index for row in range(batch_rows)[index[0]]})


def logical_rules() -> list[tuple[str, Any]]:
    """The table in the form flax.linen's partitioning functions take, without mesh axes that are manual here."""
    return [(name, _automatic(axes)) for name, axes in RULES.items()]


def _automatic(axes: Any) -> Any:
    here = jax.sharding.get_abstract_mesh()
    manual = {a for a, kind in zip(here.axis_names, here.axis_types, strict=True) if kind == AxisType.Manual}
    if isinstance(axes, tuple):
        return tuple(a for a in axes if a not in manual)
    return None if axes in manual else axes
