"""What is trained: how weights are born, and what a batch costs. The token loss is one; the reward loss another."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import RULES
from tigerjax.train.loss import token_loss

Sums = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A model and its loss, as functions. A batch is any pytree of arrays whose leading axis is rows."""

    init: Callable[[jax.Array], Any]
    """key -> weights, leaves boxed by flax.linen.LogicallyPartitioned."""
    loss: Callable[[Any, Any], tuple[jax.Array, jax.Array, Sums]]
    """(weights, batch) -> (sum, weight, {metric: its sum}); the step divides all sums by the weight, once."""
    kind: str
    """Of the checkpoint: "llama" or "reward"."""
    tokens: Callable[[Any], int] | None = None
    """Tokens of a batch of numpy arrays, for the throughput; None counts batch_rows * seq_len."""


def token_objective(config: RunConfig, mesh: Mesh) -> Objective:
    """Next-token cross-entropy of the config's Llama over `tigerjax.data.rows.Batch`; aux: accuracy."""
    from tigerjax.model import llama

    if config.mesh.stage > 1:
        raise ConfigError(f"mesh.stage={config.mesh.stage}: layers are not run as a pipeline yet; set mesh.stage=1")
    model = llama.Llama(config.model, config.compute)
    batch_shards = int(np.prod([mesh.shape[axis] for axis in RULES["batch"]]))

    def loss(weights: Any, batch: Any) -> tuple[jax.Array, jax.Array, Sums]:
        hidden_BTD: Any = model.apply(
            {"params": weights}, batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT, method="hidden"
        )
        total = token_loss(
            hidden_BTD,
            weights["head"],
            batch.targets_BT,
            batch.weights_BT,
            vocab_size=config.model.vocab_size,
            chunk_tokens=config.compute.loss_chunk_tokens,
            batch_shards=batch_shards,
        )
        return total.nll_sum, total.weight, {"accuracy": total.correct}

    return Objective(
        init=lambda key: llama.init(model, key),
        loss=loss,
        kind="llama",
        tokens=lambda batch: int(np.count_nonzero(batch.segment_ids_BT)),
    )


def in_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, always called with the mesh and the axis table set, so that logical constraints mean something."""
    from tigerjax.mesh import logical_rules

    def call(*args: Any) -> Any:
        with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
            return function(*args)

    return call
