"""The state that training carries from step to step: made on the mesh, or put there from given weights."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from tigerjax.errors import DataError
from tigerjax.mesh import logical_rules, sharding
from tigerjax.train.moments import moment_shardings
from tigerjax.train.objective import Objective, in_layer_order, in_stage_order


class TrainState(NamedTuple):
    """Weights, and the optimiser's moments, which are sharded as the weights are.

    All are float32, except for moments that the config asks for in bfloat16 or in 8 bits. With an interleaved pipeline
    (`Objective.order`) the layers are in stage order here; on disk they are always in layer order.
    """

    step: jax.Array  # int32 (): batches consumed so far
    weights: Any
    opt_state: Any


def state_shardings(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The NamedSharding of every leaf, in the tree of TrainState."""
    boxed = jax.eval_shape(objective.init, jax.random.key(0))
    weights = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, logical_rules())
    whole: Any = sharding(mesh)
    opt_state = jax.eval_shape(lambda: tx.init(nn.unbox(objective.init(jax.random.key(0)))))
    return TrainState(whole, weights, moment_shardings(opt_state, nn.unbox(boxed), weights, whole))


def abstract_state(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings without arrays: for restoring and for ahead-of-time compilation."""
    shapes = jax.eval_shape(lambda: _fresh(objective.init, tx, jax.random.key(0)))
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
        shapes,
        state_shardings(objective, tx, mesh),
    )


def init_state(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh, *, seed: int) -> TrainState:
    """A new state with random weights. It is made in its shardings, so no device ever holds more than its part."""
    key = jax.random.key(seed)
    init = jax.jit(lambda key: _fresh(objective.init, tx, key), out_shardings=state_shardings(objective, tx, mesh))
    return init(key)


def state_from_weights(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh, weights: Any) -> TrainState:
    """The state of step 0 with given weights, which are in layer order. DataError names every one that does not fit.

    An array that is on the mesh already, in the sharding of training, is used as it is, and the first step donates it.
    Any other array this process must have whole; each device gets a copy of its part."""
    wanted = jax.eval_shape(lambda: nn.unbox(objective.init(jax.random.key(0))))
    check_same_shapes(weights, wanted, what="start weights")
    shardings = state_shardings(objective, tx, mesh)

    def place(w: Any, leaf: Any, cut: Any) -> jax.Array:
        if isinstance(w, jax.Array) and w.dtype == leaf.dtype and w.sharding.is_equivalent_to(cut, w.ndim):
            return w
        # Not device_put: it would put the whole array on a device first, and make the hosts compare theirs. A copy,
        # because the step donates its state.
        whole = np.asarray(w)
        return jax.make_array_from_callback(leaf.shape, cut, lambda index: np.array(whole[index], leaf.dtype))

    placed = in_stage_order(jax.tree.map(place, dict(weights), wanted, shardings.weights), objective.order)
    finish = jax.jit(lambda w: (jnp.int32(0), tx.init(w)), out_shardings=(shardings.step, shardings.opt_state))
    step, opt_state = finish(placed)
    return TrainState(step, placed, opt_state)


def to_disk(state: TrainState, objective: Objective) -> TrainState:
    """`state` as checkpoints store it, with the layers in layer order; unchanged when they are so already."""
    return in_layer_order(state, objective.order)


def from_disk(state: TrainState, objective: Objective) -> TrainState:
    """The inverse of `to_disk`."""
    return in_stage_order(state, objective.order)


def check_same_shapes(given: Any, wanted: Any, *, what: str) -> None:
    """Raises DataError that names every tensor that is missing, left over or of another shape."""
    have, need = (
        {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(leaf.shape) for p, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(given), jax.tree_util.tree_leaves_with_path(wanted))
    )
    wrong = [f"{name} is missing" for name in sorted(need.keys() - have.keys())]
    wrong += [f"{name} is left over" for name in sorted(have.keys() - need.keys())]
    wrong += [f"{n} is {have[n]}, need {need[n]}" for n in sorted(have.keys() & need.keys()) if have[n] != need[n]]
    if wrong:
        raise DataError(f"{what} do not fit the config's model: {'; '.join(wrong)}")


def _fresh(init: Any, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    weights = nn.unbox(init(key))
    return TrainState(jnp.int32(0), weights, tx.init(weights))
