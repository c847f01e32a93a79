"""Where the arrays of an optimiser's state lie: each is split over devices as the weight that it belongs to."""

import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def moment_shardings(opt_state: Any, weights: Any, shardings: Any, whole: NamedSharding) -> Any:
    """The NamedSharding of every array of `opt_state`, from those of `weights`; both are trees with shapes.

    An array belongs to the weight whose path ends its own; the name of a field, such as `scale`, may follow. It is
    split along the same axes as the weight, where it has them (Adafactor's means lack one) and where it has enough
    entries (the scales of 8-bit means have few). `whole` is for the others, such as counters.
    """
    cuts = jax.tree.leaves(shardings, is_leaf=lambda s: isinstance(s, NamedSharding))
    of_weight = {
        _words(path): (leaf.shape, cut)
        for (path, leaf), cut in zip(jax.tree_util.tree_leaves_with_path(weights), cuts, strict=True)
    }

    def one(path: Any, leaf: Any) -> NamedSharding:
        words = _words(path)
        for end in (len(words), len(words) - 1):
            for start in range(end):
                if (found := of_weight.get(words[start:end])) is not None:
                    return _split_alike(leaf.shape, *found)
        return whole

    return jax.tree_util.tree_map_with_path(one, opt_state)


def _words(path: Any) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _split_alike(shape: tuple[int, ...], weight: tuple[int, ...], cut: NamedSharding) -> NamedSharding:
    parts = [*cut.spec, *(None for _ in range(len(weight) - len(cut.spec)))]
    if len(shape) == len(weight) - 1:
        lacks = [i for i in range(len(weight)) if weight[:i] + weight[i + 1 :] == shape]
        parts = parts[: lacks[0]] + parts[lacks[0] + 1 :] if lacks else [None] * len(shape)
    elif len(shape) != len(weight):
        parts = [None] * len(shape)
    fits = (part if size % _ways(cut, part) == 0 else None for size, part in zip(shape, parts, strict=True))
    return NamedSharding(cut.mesh, PartitionSpec(*fits))


def _ways(cut: NamedSharding, part: Any) -> int:
    """Over how many devices a part of a spec splits its axis."""
    axes = () if part is None else (part,) if isinstance(part, str) else part
    return math.prod(cut.mesh.shape[axis] for axis in axes)
