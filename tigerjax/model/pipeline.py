"""Running the stack of blocks as a pipeline over 'stage': GPipe, or interleaved in V rounds (a circular pipeline).

There are S stages, V rounds and M microbatches. Stage s computes layer l = (v * S + s) * C + c in round v, and
C = L / (V * S) layers at a time. V = 1 is GPipe. The training state keeps the layers in *stage order* (s, v, c). Then
'stage' cuts their leading axis into whole stages, and no weight moves in a step. Checkpoints keep layer order
(v, s, c): see `LayerOrder`.

A stage handles V * M items, one a tick: microbatches in groups of S, each group through all rounds before the next.
Item u is round (u // S) % V of microbatch u // (S * V) * S + u % S, and stage s does it at tick u + s. So an item that
leaves the last stage at tick t is what the first stage needs at tick t + 1, and nothing waits in a buffer.

A pass takes V * M + S - 1 ticks, forward and backward alike. A stage works in V * M of them, each time on C layers and
one microbatch. Its share of idle ticks, the bubble, is

    (S - 1) / (V * M + S - 1)       S = 4: 43% at M = 4, V = 1 (GPipe); 3.6% at M = 4, V = 20

(GPipe: Huang et al. 2018, arXiv:1811.06965, section 2; rounds: Narayanan et al. 2021, arXiv:2104.04473, section 2.2.)
In an idle tick a stage takes the other branch of a conditional: it computes no block, and saves and adds nothing.

The backward pass is written here, as the forward schedule run in reverse. The transpose that JAX derives from a scan
would add a whole stage's gradient in every tick, and would save something for idle ticks. What each item saves is still
chosen by the remat policy.

Every tick gathers its weights over 'fsdp', inside the block. Gathering once a step would hold 34 GB of bfloat16 weights
a chip at 70B and 4 stages, and as much or twice that for the gradients before they are scattered. A tick gathers C
layers (1.7 GB each at 70B) and multiplies them with all rows of its microbatch. So fewer and larger microbatches mean
fewer gathers, and rounds make that affordable: M = S is enough.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from tigerjax.config import Remat
from tigerjax.errors import ConfigError
from tigerjax.mesh import RULES, logical_rules
from tigerjax.model.stack import Block, scan_layers

AXIS = "stage"
STAGES, WHOLE = PartitionSpec(AXIS), PartitionSpec()
# Mesh axes that share the rows outside the pipeline, before and after 'stage'; inside, all but 'stage' do.
BEFORE, AFTER = (RULES["batch"][: RULES["batch"].index(AXIS)], RULES["batch"][RULES["batch"].index(AXIS) + 1 :])
ROWS = BEFORE + AFTER


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerOrder:
    """The two orders of stacked layers, for leaves that lead with L: numpy or jax arrays."""

    stages: int
    rounds: int

    def to_stages(self, w_L: Any) -> Any:
        """From layer order (round, stage, c) to stage order (stage, round, c)."""
        return _swap(w_L, self.rounds, self.stages)

    def to_layers(self, w_L: Any) -> Any:
        """From stage order to layer order."""
        return _swap(w_L, self.stages, self.rounds)


def _swap(w_L: Any, outer: int, inner: int) -> Any:
    return jax.tree.map(lambda a: a.reshape(outer, inner, -1, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape), w_L)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which item each stage does at which tick. The functions take Python or traced integers."""

    stages: int
    microbatches: int
    rounds: int

    @property
    def items(self) -> int:
        """Number of items that each stage does."""
        return self.rounds * self.microbatches

    @property
    def ticks(self) -> int:
        """Number of ticks of a forward pass, and of a backward pass."""
        return self.items + self.stages - 1

    def item(self, tick: Any, stage: Any) -> Any:
        """The item that `stage` does at `tick` of the forward pass; outside [0, items) it is idle."""
        return tick - stage

    def item_back(self, tick: Any, stage: Any) -> Any:
        """The same in the backward pass, which mirrors the forward pass in time."""
        return self.item(self.ticks - 1 - tick, stage)

    def round(self, item: Any) -> Any:
        return item // self.stages % self.rounds

    def microbatch(self, item: Any) -> Any:
        return item // (self.stages * self.rounds) * self.stages + item % self.stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A runner (see stack.py) over the mesh's 'stage' axis; the other axes stay automatic.

    The leaves of `w_L` come in stage order. Floating leaves of `x` go through the layers; integer leaves belong to the
    row (positions, segment ids) and the blocks must not change them.
    """

    mesh: Mesh
    microbatches: int
    rounds: int

    def __call__(self, block: Block, w_L: Any, x: Any, *, remat: Remat) -> Any:
        S, M, V = self.mesh.shape[AXIS], self.microbatches, self.rounds
        B, L = jax.tree.leaves(x)[0].shape[0], jax.tree.leaves(w_L)[0].shape[0]
        before, after = (int(np.prod([self.mesh.shape[a] for a in axes])) for axes in (BEFORE, AFTER))
        if M % S:
            raise ConfigError(f"{M} microbatches do not fill {S} stages in turn; make pipeline.microbatches k x {S}")
        if B % (before * after * M):
            raise ConfigError(
                f"batch of {B} rows does not split into {M} microbatches over {before * after} groups of devices;"
                f" make global_batch_size a multiple of {before * after * M}, or change pipeline.microbatches"
            )
        if L % (S * V):
            raise ConfigError(
                f"{L} layers do not split over mesh.stage={S} x pipeline.rounds={V}; change one of the three"
            )

        # The rows that a stage's devices hold outside the pipeline become M / S whole microbatches, so rows travel
        # along 'stage' only.
        split = (before, S, after, M // S, B // (before * after * M))

        def to_microbatches(a: jax.Array) -> jax.Array:
            a = a.reshape(*split, *a.shape[1:])
            a = jnp.moveaxis(a, (1, 3), (0, 1)).reshape(M, B // M, *a.shape[5:])
            return _cut(_cut(a, AXIS, ROWS), None, ROWS)

        def to_rows(a: jax.Array) -> jax.Array:
            a = a.reshape(S, M // S, before, after, split[-1], *a.shape[2:])
            return _cut(jnp.moveaxis(a, (0, 1), (1, 3)).reshape(B, *a.shape[5:]), RULES["batch"])

        leaves, tree = jax.tree.flatten(x)
        moves = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
        floats_M, fixed_M = (
            [to_microbatches(a) for a, m in zip(leaves, moves, strict=True) if m is want] for want in (True, False)
        )

        def chunk(w_item: Any, floats: list[jax.Array], fixed: list[jax.Array]) -> list[jax.Array]:
            both = iter(floats), iter(fixed)
            parts = jax.tree.unflatten(tree, [next(both[0] if m else both[1]) for m in moves])
            # Here 'stage' is not an axis to be sharded over any more.
            with nn.logical_axis_rules(logical_rules() if nn.get_logical_axis_rules() else ()):
                parts = scan_layers(block, w_item, parts, remat=remat)
            return [leaf for leaf, m in zip(jax.tree.leaves(parts), moves, strict=True) if m]

        run = _differentiable(chunk, Schedule(stages=S, microbatches=M, rounds=V), self.mesh)
        done = iter(run(w_L, floats_M, fixed_M))
        return jax.tree.unflatten(tree, [to_rows(next(done)) if m else a for a, m in zip(leaves, moves, strict=True)])


def _differentiable(chunk: Any, plan: Schedule, mesh: Mesh) -> Any:
    """(w_L, floats_M, fixed_M) -> floats_M through all layers. Every stage is given and has all microbatches.

    `chunk(w_item, floats, fixed) -> floats` applies the C layers of one item.
    """

    def over_stages(function: Any, in_specs: Any, out_specs: Any) -> Any:
        # check_vma is off because the custom gradient of attention kernels does not carry the 'varies over stage'
        # type (jax 0.10.2); the tests compare gradients with the scan's instead.
        return jax.shard_map(
            function, mesh=mesh, axis_names={AXIS}, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def forward(w_L: Any, floats_M: Any, fixed_M: Any, *, save: bool) -> Any:
        s, w_rounds = jax.lax.axis_index(AXIS), _by_round(w_L, plan)

        def item(u: jax.Array, arrived: Any, out_M: Any, saved: Any) -> Any:
            v, m = plan.round(u), plan.microbatch(u)
            x = _where((s == 0) & (v == 0), _at(floats_M, m), arrived)
            of_item = _at(w_rounds, v), x, _at(fixed_M, m)
            y, residuals = _with_residuals(chunk, *of_item) if save else (chunk(*of_item), [])
            # A microbatch is written in every round; its last round is the last to write.
            return y, _set(out_M, m, y), _set(saved, u, residuals)

        zero = _cut(jax.tree.map(jnp.zeros_like, _at(floats_M, 0)), ROWS)
        shapes = jax.eval_shape(
            lambda w_item, *x: _with_residuals(chunk, w_item, *x)[1], *_at((w_rounds, floats_M, fixed_M), 0)
        )
        # Every stage writes each of its items before the backward pass reads it, so nothing need be there before.
        saved = jax.tree.map(lambda a: jax.lax.empty((plan.items, *a.shape), a.dtype), shapes if save else [])
        start = (zero, _cut(jax.tree.map(jnp.zeros_like, floats_M), None, ROWS), saved)
        _, out_M, saved = _run(plan, plan.item, item, start, s, shift=1)
        return _from_stage(out_M, s == plan.stages - 1), saved

    def backward(w_L: Any, fixed_M: Any, saved: Any, d_out_M: Any, *, derived: list[bool]) -> Any:
        s, w_rounds = jax.lax.axis_index(AXIS), _by_round(w_L, plan)
        zero = _cut(jax.tree.map(jnp.zeros_like, _at(d_out_M, 0)), ROWS)

        def chosen(tree: Any) -> list[Any]:
            return [leaf for leaf, yes in zip(jax.tree.leaves(tree), derived, strict=True) if yes]

        def item(u: jax.Array, arrived: Any, d_in_M: Any, d_w: Any) -> Any:
            v, m = plan.round(u), plan.microbatch(u)
            d_y = _where((s == plan.stages - 1) & (v == plan.rounds - 1), _at(d_out_M, m), arrived)
            d_w_item, d_x = _pull_back(chunk, _at(w_rounds, v), zero, _at(fixed_M, m), _at(saved, u), d_y)
            d_w = [a.at[v].add(d.astype(a.dtype)) for a, d in zip(d_w, chosen(d_w_item), strict=True)]
            return d_x, _set(d_in_M, m, d_x), d_w  # round 0 of a microbatch is the last to write

        # float32: M microbatches are added, whatever the dtype in which weights came and gradients leave.
        d_w = [jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32)) for w in chosen(w_rounds)]
        start = (zero, _cut(jax.tree.map(jnp.zeros_like, d_out_M), None, ROWS), d_w)
        _, d_in_M, d_w = _run(plan, plan.item_back, item, start, s, shift=-1)
        d_w_L = [d.reshape(w.shape).astype(w.dtype) for d, w in zip(d_w, chosen(w_L), strict=True)]
        return d_w_L, _from_stage(d_in_M, s == 0)

    @jax.custom_vjp
    def run(w_L: Any, floats_M: Any, fixed_M: Any) -> Any:
        def output(*args: Any) -> Any:
            return forward(*args, save=False)[0]

        return over_stages(output, (STAGES, WHOLE, WHOLE), WHOLE)(w_L, floats_M, fixed_M)

    def run_fwd(*args: Any) -> Any:
        # Of weights that are frozen no gradient is added up. A residual cannot be a bool, but may have structure: a
        # weight is marked by () where there is a gradient by it, else by None.
        marks = [() if leaf.perturbed else None for leaf in jax.tree.leaves(args[0], is_leaf=_is_primal)]
        w_L, floats_M, fixed_M = jax.tree.map(lambda leaf: leaf.value, args, is_leaf=_is_primal)
        saving = functools.partial(forward, save=True)
        out_M, saved = over_stages(saving, (STAGES, WHOLE, WHOLE), (WHOLE, STAGES))(w_L, floats_M, fixed_M)
        return out_M, (w_L, fixed_M, saved, marks)

    def run_bwd(residuals: Any, d_out_M: Any) -> Any:
        w_L, fixed_M, saved, marks = residuals
        derived = [mark is not None for mark in marks]
        d_out_M = jax.tree.map(_instantiated, d_out_M)
        back = over_stages(
            functools.partial(backward, derived=derived), (STAGES, WHOLE, STAGES, WHOLE), (STAGES, WHOLE)
        )
        d_w_L, d_in_M = back(w_L, fixed_M, saved, d_out_M)
        left = iter(d_w_L)
        d_w_L = jax.tree.unflatten(jax.tree.structure(w_L), [next(left) if yes else None for yes in derived])
        return d_w_L, d_in_M, None

    run.defvjp(run_fwd, run_bwd, symbolic_zeros=True)
    return run


def _is_primal(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.CustomVJPPrimal)


def _instantiated(d: Any) -> Any:
    return jnp.zeros(d.shape, d.dtype) if isinstance(d, jax.custom_derivatives.SymbolicZero) else d


def _run(plan: Schedule, item_at: Any, item: Any, start: Any, s: jax.Array, *, shift: int) -> Any:
    """Runs the ticks. Where there is work it calls `item(u, arrived, ...) -> (leaves, ...)`, and `leaves` goes to stage
    s + shift."""
    ring = [(i, (i + shift) % plan.stages) for i in range(plan.stages)]

    def tick(carry: Any, t: jax.Array) -> Any:
        u = item_at(t, s)
        work = (u >= 0) & (u < plan.items)
        leaves, *rest = jax.lax.cond(work, lambda carry: item(u, *carry), lambda carry: carry, carry)
        return (jax.tree.map(lambda a: jax.lax.ppermute(a, AXIS, ring), leaves), *rest), None

    return jax.lax.scan(tick, start, jnp.arange(plan.ticks))[0]


def _with_residuals(chunk: Any, w_item: Any, x: Any, fixed: Any) -> tuple[Any, list[jax.Array]]:
    """(output of `chunk`, what its backward pass saves beside the weights)."""
    traced: Any = jax.vjp(lambda w_item, x: chunk(w_item, x, fixed), w_item, x)
    y, pullback = traced
    return y, jax.tree.leaves((_without_weights(pullback, w_item), pullback.opaque_residuals))


def _pull_back(chunk: Any, w_item: Any, x: Any, fixed: Any, saved: list[jax.Array], d_y: Any) -> tuple[Any, Any]:
    """(d_w_item, d_x) from what `_with_residuals` saved. Of `x` only the shape is used."""
    # Tracing the same function again gives the same residuals in the same order. They are computed from a false x, so
    # they are replaced by the saved ones. Then nothing reads this forward pass, and XLA drops it.
    traced: Any = jax.vjp(lambda w_item, x: chunk(w_item, x, fixed), w_item, x)
    pullback = traced[1]
    own = (_without_weights(pullback, w_item), pullback.opaque_residuals)
    saved_args, pullback.opaque_residuals = jax.tree.unflatten(jax.tree.structure(own), saved)
    pullback.args_res = [*pullback.args_res[: len(jax.tree.leaves(w_item))], *saved_args]
    return pullback(d_y)


def _without_weights(pullback: Any, w_item: Any) -> Any:
    return pullback.args_res[len(jax.tree.leaves(w_item)) :]


def _by_round(w_L: Any, plan: Schedule) -> Any:
    return jax.tree.map(lambda a: a.reshape(plan.rounds, -1, *a.shape[1:]), w_L)


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False), tree)


def _set(tree: Any, index: Any, values: Any) -> Any:
    return jax.tree.map(lambda a, b: jax.lax.dynamic_update_index_in_dim(a, b, index, 0), tree, values)


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _cut(tree: Any, *axes: Any) -> Any:
    """`tree` with the first dimensions of its leaves sharded over `axes`. XLA chooses for the others."""

    def one(a: jax.Array) -> jax.Array:
        spec = PartitionSpec(*axes, *[PartitionSpec.UNCONSTRAINED] * (a.ndim - len(axes)))
        return jax.lax.with_sharding_constraint(a, spec)

    return jax.tree.map(one, tree)


def _from_stage(tree_M: Any, here: jax.Array) -> Any:
    """At every stage, the tree of the stage where `here` is true."""
    # Done as a sum with zeros. While the other axes are automatic, XLA can cut rows out of an all-reduce, but for a
    # reduce-scatter or all-gather it gathers all rows first (libtpu 0.0.42.1 and the CPU).
    zeroed = _cut(jax.tree.map(lambda a: jnp.where(here, a, jnp.zeros_like(a)), tree_M), None, ROWS)
    return _cut(jax.tree.map(lambda a: jax.lax.psum(a, AXIS), zeroed), None, ROWS)
