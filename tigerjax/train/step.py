"""One update: adds losses and gradients of the micro-batches, divides once, applies the optimiser, skips NaN."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tigerjax.config import OptimConfig
from tigerjax.mesh import added_to_others, copies_alone, in_mesh
from tigerjax.model import copies
from tigerjax.train.objective import Objective
from tigerjax.train.optim import averaged
from tigerjax.train.schedule import learning_rate
from tigerjax.train.state import TrainState, state_shardings

Metrics = dict[str, jax.Array]


def loss_and_gradient(
    objective: Objective, weights: Any, batch: Any, *, accumulate: int, frozen: Any = None
) -> tuple[Any, ...]:
    """(sum, weight, metric sums, gradient of the sum), added over `accumulate` micro-batches in float32.

    The gradient is that by `weights`, the trained ones; nothing is derived by the `frozen` ones."""
    if accumulate == 1:
        return _of_micro(objective, weights, batch, frozen)
    return _accumulated(objective, weights, micro_batches(batch, accumulate), frozen)


def over_copies(
    objective: Objective, weights: Any, batch: Any, *, accumulate: int, frozen: Any, specs: Any
) -> tuple[Any, ...]:
    """`loss_and_gradient` where each copy of the model takes its own rows, and all copies add up once.

    Each gradient is added as soon as the backward pass of the last micro-batch has it, so that what is left of that
    pass hides the sum. `specs` are the PartitionSpecs of the weights."""

    def alone(weights: Any, frozen: Any, batch: Any) -> tuple[Any, ...]:
        batch_M = micro_batches(batch, accumulate)
        first_M, last = jax.tree.map(lambda a: a[:-1], batch_M), jax.tree.map(lambda a: a[-1], batch_M)
        *sums, before = _accumulated(objective, weights, first_M, frozen) if accumulate > 1 else [None]
        # The last one begins when the others are done. Else both hold their activations at one time.
        before, last = jax.lax.optimization_barrier((before, last))
        *of_last, gradient = _of_micro(
            objective, weights, last, frozen, trained=lambda weights: copies.added(weights, before, specs)
        )
        sums = jax.tree.map(jnp.add, sums, of_last) if sums else of_last
        return (*jax.tree.map(added_to_others, sums), gradient)

    return copies_alone(alone)(weights, frozen, batch)


def _of_micro(
    objective: Objective, weights: Any, batch: Any, frozen: Any, trained: Callable[[Any], Any] = lambda weights: weights
) -> tuple[Any, ...]:
    """`loss_and_gradient` of one micro-batch. The loss reads the weights as `trained` makes them."""

    def summed(weights: Any) -> tuple[jax.Array, Any]:
        total, weight, aux = objective.loss(objective.whole(trained(weights), frozen), batch)
        return total, (weight, aux)

    (total, (weight, aux)), gradient = jax.value_and_grad(summed, has_aux=True)(weights)
    return total, weight, aux, gradient


def _accumulated(objective: Objective, weights: Any, batch_M: Any, frozen: Any) -> tuple[Any, ...]:
    """`loss_and_gradient` of these micro-batches together."""
    of_micro = functools.partial(_of_micro, objective, weights, frozen=frozen)
    micro = jax.tree.map(lambda a: a[0], batch_M)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(of_micro, micro))

    def add(sums: Any, micro: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, of_micro(micro)), None

    return jax.lax.scan(add, zeros, batch_M)[0]


def micro_batches(batch: Any, count: int) -> Any:
    """The micro-batches of a batch, stacked: arrays [B, …] become [M, B / M, …].

    Micro-batch m has the rows m, m + count, … So every device splits its own rows, and none moves to another.
    """
    return jax.tree.map(lambda a: a.reshape(a.shape[0] // count, count, *a.shape[1:]).swapaxes(0, 1), batch)


def joined(batch_M: Any) -> Any:
    """The inverse of `micro_batches`."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(a.shape[0] * a.shape[1], *a.shape[2:]), batch_M)


def make_step(
    objective: Objective, tx: optax.GradientTransformation, c: OptimConfig, specs: Any = None
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The update as a function (state, batch, limits) -> (state, metrics), not yet compiled. `specs` are the
    PartitionSpecs of the weights, which an objective with `copies` needs.

    When the loss or the gradient norm is not finite or above `limits` (float32 [2], see `tigerjax.train.spikes`; None:
    no limit), weights and optimiser stay as they are and the metric `skipped` is 1. The step still counts, since its
    batch is used up."""

    def step(state: TrainState, batch: Any, limits: Any = None) -> tuple[TrainState, Metrics]:
        of_step = loss_and_gradient if objective.copies == 1 else functools.partial(over_copies, specs=specs)
        total, weight, aux, gradient = of_step(
            objective, state.weights, batch, accumulate=c.gradient_accumulation_steps, frozen=state.frozen
        )
        weight = jnp.where(weight == 0, 1.0, weight)  # a batch without loss tokens has loss 0
        gradient = jax.tree.map(lambda g: g / weight, gradient)
        loss, grad_norm = total / weight, optax.tree.norm(gradient)
        rate = learning_rate(c, state.step)
        direction, opt_state = tx.update(gradient, state.opt_state, state.weights)
        weights = jax.tree.map(lambda w, d: w - rate * d, state.weights, direction)
        opt_state = averaged(c, opt_state, weights)

        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        if limits is not None:
            good &= (loss <= limits[0]) & (grad_norm <= limits[1])
        weights, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), (weights, opt_state), (state.weights, state.opt_state)
        )
        metrics = {name: value / weight for name, value in aux.items()}
        metrics |= {"loss_nats": loss, "grad_norm": grad_norm, "lr": rate, "loss_weight": weight, "skipped": ~good}
        return TrainState(state.step + 1, weights, opt_state, state.frozen), metrics

    return step


def jit_step(objective: Objective, tx: optax.GradientTransformation, c: OptimConfig, mesh: Mesh) -> Any:
    """The update as `jax.jit` makes it, for `mesh`: the state is donated and comes back in the same shardings.

    Call or `.lower` it under `in_mesh`: `compile_step` does the first, `tigerjax.plan` the second.
    """
    shardings = state_shardings(objective, tx, mesh)
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings.weights)
    return jax.jit(make_step(objective, tx, c, specs), donate_argnums=0, out_shardings=(shardings, None))


def compile_step(
    objective: Objective, tx: optax.GradientTransformation, c: OptimConfig, mesh: Mesh
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`jit_step`, always called in its mesh; compiled at the first call."""
    return in_mesh(mesh, jit_step(objective, tx, c, mesh))
