"""Weights that are not finite are never saved as good ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax.errors import DataError


def not_finite(tree: Any) -> list[str]:
    """The names of the arrays that hold NaN or infinity. Arrays on devices are looked at where they are."""
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    there = [leaf for _, leaf in named if isinstance(leaf, jax.Array)]
    looked = iter(jax.device_get(_finite(there)) if there else [])
    whole = [next(looked) if isinstance(leaf, jax.Array) else _finite_here(leaf) for _, leaf in named]
    return [name for (name, _), fine in zip(named, whole, strict=True) if not fine]


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def _finite_here(array: Any) -> bool:
    """A layer at a time, so that no mask of the whole array is made."""
    array = np.asarray(array)
    parts = array if array.ndim > 1 else [array]
    return all(bool(np.isfinite(np.asarray(part, np.float32)).all()) for part in parts)


def refuse_not_finite(tree: Any, where: str) -> None:
    """DataError that names arrays with NaN or infinity."""
    if names := not_finite(tree):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise DataError(f"{where}: not finite: {', '.join(names[:3])}{more}; take an earlier checkpoint")
