"""A function of stacked arrays, computed one layer at a time, so that what it makes on the way is that of one layer."""

from collections.abc import Callable
from typing import Any

import jax

from tigerjax.mesh import RULES


def by_layer(function: Callable[..., Any], *stacked: Any) -> Any:
    """`function` of every layer, its results stacked again. All arrays, in trees or not, lead with L.

    Where a pipeline splits the layers, each stage computes one of its own at the same time, so none of them moves.
    """
    stages = jax.sharding.get_abstract_mesh().shape.get(RULES["layers"], 1)

    def split(a: jax.Array) -> jax.Array:
        return a.reshape(stages, -1, *a.shape[1:]).swapaxes(0, 1)

    def joined(a: jax.Array) -> jax.Array:
        return a.swapaxes(0, 1).reshape(-1, *a.shape[2:])

    def step(_: None, layers: Any) -> tuple[None, Any]:
        return None, jax.vmap(function)(*layers)

    return jax.tree.map(joined, jax.lax.scan(step, None, jax.tree.map(split, stacked))[1])
