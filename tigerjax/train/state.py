"""The state that training carries from step to step: made on the mesh, or put there from given weights."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from tigerjax.errors import DataError
from tigerjax.mesh import logical_rules, sharding
from tigerjax.model import adapters
from tigerjax.model.quantised import is_quantised
from tigerjax.model.weights import get, leaves, nested
from tigerjax.train.moments import moment_shardings
from tigerjax.train.objective import Objective, in_layer_order, in_stage_order


class TrainState(NamedTuple):
    """The weights that are trained, the optimiser's moments, which are sharded as they are, and the frozen weights.

    What is trained is float32, and so are the moments, except for those that the config asks for in bfloat16 or in 8
    bits. With an interleaved pipeline (`Objective.order`) the layers are in stage order here; on disk they are always
    in layer order.
    """

    step: jax.Array  # int32 (): batches consumed so far
    weights: Any
    """All weights, or those that `Objective.trained` selects."""
    opt_state: Any
    frozen: Any = None
    """The other weights, as `weights.frozen_dtype` holds them; None where all are trained."""


def whole_weights(state: TrainState, objective: Objective) -> Any:
    """All weights, as the functions of the objective read them. Only an embedding or a head that is trained in part is
    copied for it."""
    return objective.whole(state.weights, state.frozen)


def state_shardings(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The NamedSharding of every leaf, in the tree of TrainState."""
    boxed = _boxed(objective.init)
    weights = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, logical_rules())
    shapes, frozen = _shapes(objective, tx), None
    if objective.trained is not None:
        weights, frozen = objective.trained.split_shardings(weights)
        frozen = objective.trained.held_shardings(frozen, nn.unbox(boxed))
    whole: Any = sharding(mesh)
    return TrainState(whole, weights, moment_shardings(shapes.opt_state, shapes.weights, weights, whole), frozen)


def abstract_state(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings without arrays: for restoring and for ahead-of-time compilation."""
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
        _shapes(objective, tx),
        state_shardings(objective, tx, mesh),
    )


def init_state(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh, *, seed: int) -> TrainState:
    """A new state with random weights. It is made in its shardings, so no device ever holds more than its part."""
    key = jax.random.key(seed)
    fresh = jax.jit(
        lambda key: _fresh(objective, tx, nn.unbox(objective.init(key))),
        out_shardings=state_shardings(objective, tx, mesh),
    )
    return fresh(key)


def state_from_weights(
    objective: Objective, tx: optax.GradientTransformation, mesh: Mesh, weights: Any, *, seed: int
) -> TrainState:
    """The state of step 0 with given weights, which are in layer order. A stored model has no adapters, so these are
    drawn from `seed`. DataError names every weight that does not fit.

    Two kinds of weights are used without a copy: an array that is on the mesh already, in the sharding of training,
    which the first step donates, and a weight that is held as `frozen_dtype` asks. Of any other weight this process
    needs the whole array, and each device gets a copy of its part."""
    boxed = _boxed(objective.init)
    wanted, selection = nn.unbox(boxed), objective.trained
    cuts = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, logical_rules())
    given = dict(weights)
    if selection is not None and selection.lora.rank:
        given = nested([*leaves(given), *_adapters(objective, adapters.paths(selection.lora), cuts, seed)])
    check_same_shapes(given, wanted, what="start weights")

    def on_mesh(path: str, leaf: Any) -> Any:
        w = get(given, path)
        narrow = is_quantised(w) or (isinstance(w, jax.Array) and w.dtype == jnp.bfloat16)
        if narrow and selection is not None and path not in selection.first:
            return w
        return _placed(w, leaf, get(cuts, path))

    placed = nested((path, on_mesh(path, leaf)) for path, leaf in leaves(wanted))
    trained, frozen = in_stage_order(placed, objective.order), None
    if selection is not None:
        trained, frozen = selection.split(trained)
        frozen = selection.hold(frozen)
    shardings = state_shardings(objective, tx, mesh)
    finish = jax.jit(lambda w: (jnp.int32(0), tx.init(w)), out_shardings=(shardings.step, shardings.opt_state))
    step, opt_state = finish(trained)
    return TrainState(step, trained, opt_state, frozen)


def _placed(w: Any, leaf: Any, cut: Any) -> jax.Array:
    if isinstance(w, jax.Array) and w.dtype == leaf.dtype and w.sharding.is_equivalent_to(cut, w.ndim):
        return w
    # Not device_put: it would put the whole array on a device first, and make the hosts compare theirs. A copy,
    # because the step donates its state.
    whole = np.asarray(w)
    return jax.make_array_from_callback(leaf.shape, cut, lambda index: np.array(whole[index], leaf.dtype))


def _adapters(objective: Objective, names: list[str], cuts: Any, seed: int) -> Iterator[tuple[str, jax.Array]]:
    """The first weights of the adapters of these paths, in layer order."""

    def draw(key: jax.Array) -> list[jax.Array]:
        drawn = in_layer_order(nn.unbox(objective.init(key)), objective.order)
        return [get(drawn, name) for name in names]

    drawn = jax.jit(draw, out_shardings=[get(cuts, name) for name in names])(jax.random.key(seed))
    yield from zip(names, drawn, strict=True)


def on_disk(abstract: TrainState, objective: Objective) -> TrainState:
    """The shapes of what `to_disk` gives of such a state."""
    if objective.trained is None or objective.trained.partial:
        return abstract._replace(frozen=None)
    # Of what is trained in part, `frozen` has the whole shape.
    return abstract._replace(weights=nested([*leaves(abstract.weights), *leaves(abstract.frozen)]), frozen=None)


def to_disk(state: TrainState, objective: Objective) -> TrainState:
    """`state` as checkpoints store it: with the layers in layer order and, unless they hold only what is trained, with
    all weights in `weights`."""
    if objective.trained is not None and not objective.trained.partial:
        state = state._replace(weights=whole_weights(state, objective))
    return in_layer_order(state._replace(frozen=None), objective.order)


def from_disk(state: TrainState, objective: Objective, frozen: Any) -> TrainState:
    """The inverse of `to_disk`. `frozen` are the frozen weights, where checkpoints do not hold them."""
    state = in_stage_order(state, objective.order)
    if objective.trained is None:
        return state
    if objective.trained.partial:
        return state._replace(frozen=frozen)
    trained, frozen = objective.trained.split(state.weights)
    return state._replace(weights=trained, frozen=frozen)


def check_same_shapes(given: Any, wanted: Any, *, what: str) -> None:
    """Raises DataError that names every tensor that is missing, left over or of another shape."""
    have, need = (
        {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(leaf.shape) for p, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_quantised) for tree in (given, wanted))
    )
    wrong = [f"{name} is missing" for name in sorted(need.keys() - have.keys())]
    wrong += [f"{name} is left over" for name in sorted(have.keys() - need.keys())]
    wrong += [f"{n} is {have[n]}, need {need[n]}" for n in sorted(have.keys() & need.keys()) if have[n] != need[n]]
    if wrong:
        raise DataError(f"{what} do not fit the config's model: {'; '.join(wrong)}")


@functools.lru_cache(maxsize=2)
def _boxed(init: Callable[[jax.Array], Any]) -> Any:
    """The shapes of the weights of `Objective.init`, boxed. A run asks for them often, and each time the model would be
    traced."""
    return jax.eval_shape(init, jax.random.key(0))


def _shapes(objective: Objective, tx: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of a new state."""
    return jax.eval_shape(lambda weights: _fresh(objective, tx, weights), nn.unbox(_boxed(objective.init)))


def _fresh(objective: Objective, tx: optax.GradientTransformation, weights: Any) -> TrainState:
    if (selection := objective.trained) is None:
        return TrainState(jnp.int32(0), weights, tx.init(weights))
    trained, frozen = selection.split(weights)
    return TrainState(jnp.int32(0), trained, tx.init(trained), selection.hold(frozen))
