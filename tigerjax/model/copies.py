"""Trained weights whose gradients are added over the copies of the model as soon as the backward pass has them.

A weight outside of the layers is one array, and so is its sum. The layers run in a loop: each of their weights goes
into it as a `Layered`, and becomes an array in the layer. So a layer's gradients travel while the layer before it is
computed. docs/TPU.md has the figures.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import PartitionSpec

from tigerjax.mesh import added_to_others
from tigerjax.model.weights import get, leaves, nested


@dataclasses.dataclass(eq=False)
class Runs:
    """How often a loss runs the layers. A second run would add the gradients of earlier micro-batches once more."""

    started: int = 0


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "rounded", "before"], meta_fields=["spec", "runs"]
)
@dataclasses.dataclass(frozen=True)
class Layered:
    """A stack of weights, or one layer of it."""

    weight: Any
    """As it is trained. Nothing reads it: it is here for its gradient, which has its dtype."""
    rounded: Any
    """What a layer computes with: the weight in the compute dtype."""
    before: Any
    """The gradient of the micro-batches before, of this copy alone; None: there were none."""
    spec: PartitionSpec
    """Of one layer."""
    runs: "Runs"
    """Of the layers, by the loss that reads them."""

    def astype(self, dtype: Any) -> "Layered":
        return dataclasses.replace(self, rounded=jax.lax.stop_gradient(self.weight).astype(dtype))


def is_layered(leaf: Any) -> bool:
    return isinstance(leaf, Layered)


def added(weights: Any, before: Any, specs: Any) -> dict[str, Any]:
    """The trained `weights` as a loss is to read them, whose gradient is `before` and its own, added over all copies.

    The loss must use each weight of the layers in one run of them: `start_run` refuses a second one. `specs` are
    PartitionSpecs of the weights."""
    runs = Runs()

    def one(path: str, w: jax.Array) -> Any:
        earlier, spec = None if before is None else get(before, path), get(specs, path)
        if path.startswith("layers/"):
            return Layered(w, None, earlier, PartitionSpec(*spec[1:]), runs)
        return _tied(spec, w, w, earlier)

    return nested((path, one(path, w)) for path, w in leaves(weights))


def start_run(weights: Any) -> None:
    """Says that the layers run with these weights, before they do.

    ValueError where their gradients are added over copies and the loss has run the layers before."""
    for runs in {w.runs for w in jax.tree.leaves(weights, is_leaf=is_layered) if is_layered(w)}:
        runs.started += 1
        if runs.started > 1:
            raise ValueError(
                "this loss runs the layers twice, and with mesh.data_once=True it may run them once, since there they"
                " add their gradients over the copies; put all rows into one run, or set mesh.data_once=False"
            )


def plain(weights: Any) -> Any:
    """A tree with the weights themselves, whose gradients are nobody's business."""
    return jax.tree.map(lambda w: w.weight if is_layered(w) else w, weights, is_leaf=is_layered)


def read_layer(weights: Any) -> Any:
    """The weights of one layer as arrays."""
    return jax.tree.map(
        lambda w: _tied(w.spec, w.weight, w.rounded, w.before) if is_layered(w) else w, weights, is_leaf=is_layered
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tied(spec: PartitionSpec, weight: jax.Array, rounded: jax.Array, before: Any) -> jax.Array:
    """`rounded`. Its gradient goes to `weight`, with `before`, and added over the copies."""
    return rounded


def _tied_fwd(spec: PartitionSpec, weight: jax.Array, rounded: jax.Array, before: Any) -> Any:
    return rounded, (weight, before)


def _tied_bwd(spec: PartitionSpec, saved: Any, d_w: jax.Array) -> Any:
    weight, before = saved
    total = d_w.astype(weight.dtype)
    return added_to_others(total if before is None else before + total, spec), None, None


_tied.defvjp(_tied_fwd, _tied_bwd)
