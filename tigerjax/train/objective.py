"""What is trained: how weights are initialised, and the loss of a batch. Here is the token loss; the loss of reward
models is in `tigerjax.align.reward`.

A new objective is a subclass of `ObjectiveConfig` with its settings, a function here that makes the Objective, and a
line in OBJECTIVES.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig, ObjectiveConfig, PipelineConfig, RunConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import RULES, balanced, row_ways
from tigerjax.model import families, stack
from tigerjax.model.layers import head, init
from tigerjax.model.loss import TokenLoss, loss_by_row, token_loss
from tigerjax.model.pipeline import LayerOrder, Pipeline

Sums = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A model and its loss, as functions. A batch is any pytree of arrays whose leading axis is rows."""

    init: Callable[[jax.Array], Any]
    """key -> weights, leaves boxed by flax.linen.LogicallyPartitioned."""
    loss: Callable[[Any, Any], tuple[jax.Array, jax.Array, Sums]]
    """(weights, batch) -> (sum, weight, {metric: its sum}); the step divides all sums by the weight, once."""
    by_row: Callable[[Any, Any], TokenLoss] | None = None
    """(weights, batch) -> the sums of the loss row by row, for validation; None: it has no validation."""
    kind: str
    """Of the checkpoint: see `families.of_kind`."""
    tokens: Callable[[Any], int] | None = None
    """Tokens of a batch of numpy arrays, for the throughput; None counts global_batch_size * seq_len."""
    order: LayerOrder | None = None
    """Set when `init` and `loss` have the layers in stage order (an interleaved pipeline); None: layer order."""


class Trained(Protocol):
    """The part of a RunConfig that the token objective reads."""

    @property
    def model(self) -> ModelConfig: ...
    @property
    def compute(self) -> ComputeConfig: ...
    @property
    def mesh(self) -> MeshConfig: ...
    @property
    def pipeline(self) -> PipelineConfig: ...


def token_objective(config: Trained, mesh: Mesh) -> Objective:
    """Next-token cross-entropy of the config's model over `tigerjax.data.rows.Batch`; aux: accuracy."""
    stages, rounds, run = config.mesh.stage, config.pipeline.rounds, stack.scan_layers
    if stages > 1:
        run = Pipeline(mesh=mesh, microbatches=config.pipeline.microbatches, rounds=rounds)
    order = LayerOrder(stages=stages, rounds=rounds) if rounds > 1 else None
    family = families.of(config.model)
    model = family.language_model(config.model, config.compute, run)
    batch_shards, length_shards = row_ways(mesh), mesh.shape[RULES["length"]]

    def sums(weights: Any, batch: Any, of: Callable[..., TokenLoss]) -> TokenLoss:
        # Each device keeps whole rows of these small integers, and cuts out what it needs.
        batch = jax.tree.map(lambda a: nn.with_logical_constraint(balanced(a), ("batch", None)), batch)
        hidden_BTD: Any = model.apply(
            {"params": weights}, batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT, method="hidden"
        )
        return of(
            hidden_BTD,
            head(weights, config.model),
            batch.targets_BT,
            batch.weights_BT,
            vocab_size=config.model.vocab_size,
            chunk_tokens=config.compute.loss_chunk_tokens,
            batch_shards=batch_shards,
            length_shards=length_shards,
        )

    def loss(weights: Any, batch: Any) -> tuple[jax.Array, jax.Array, Sums]:
        total = sums(weights, batch, token_loss)
        return total.nll_sum, total.weight, {"accuracy": total.correct}

    return Objective(
        init=lambda key: in_stage_order(init(model, key), order),
        loss=loss,
        by_row=lambda weights, batch: sums(weights, batch, loss_by_row),
        kind=family.KIND,
        tokens=lambda batch: int(np.count_nonzero(batch.segment_ids_BT)),
        order=order,
    )


OBJECTIVES: dict[type[ObjectiveConfig], Callable[[RunConfig, Mesh], Objective]] = {ObjectiveConfig: token_objective}
"""What makes the objective that a config names, by the class of `RunConfig.objective`."""


def of(config: RunConfig, mesh: Mesh) -> Objective:
    """The objective of the config.

    Raises ConfigError for settings that no objective has.
    """
    kind = type(config.objective)
    if kind not in OBJECTIVES:
        raise ConfigError(f"no objective has settings of type {kind.__name__}; add it to OBJECTIVES")
    return OBJECTIVES[kind](config, mesh)


def in_stage_order(tree: Any, order: LayerOrder | None) -> Any:
    """`tree` with every leaf under a key "layers" (weights, moments) moved from layer order to stage order."""
    return tree if order is None else _move_layers(tree, order.to_stages)


def in_layer_order(tree: Any, order: LayerOrder | None) -> Any:
    """The inverse of `in_stage_order`."""
    return tree if order is None else _move_layers(tree, order.to_layers)


def _move_layers(tree: Any, move: Callable[[Any], Any]) -> Any:
    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        if all(getattr(key, "key", None) != "layers" for key in path):
            return leaf
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            # Leaf by leaf, each in its own sharding: at most one leaf is whole along 'stage' at a time.
            return jax.jit(move, out_shardings=leaf.sharding)(leaf)
        return move(leaf)

    return jax.tree_util.tree_map_with_path(one, tree)
