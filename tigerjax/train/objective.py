"""What is trained: how weights are initialised, and the loss of a batch. Here are the token loss and the losses over
preferences and over answers that the model drew; the loss of reward models is in `tigerjax.align.reward`.

A new objective is a subclass of `ObjectiveConfig` with its settings, a function here that makes the Objective, and a
line in OBJECTIVES.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax.config import (
    ComputeConfig,
    GrpoConfig,
    KtoConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    ObjectiveConfig,
    PipelineConfig,
    PpoConfig,
    PreferenceConfig,
    ReferencedConfig,
    RlConfig,
    RunConfig,
    WeightsConfig,
)
from tigerjax.data.rows import Batch
from tigerjax.errors import ConfigError
from tigerjax.mesh import RULES, balanced, in_row_order, row_ways
from tigerjax.model import adapters, families, stack
from tigerjax.model.layers import head, init
from tigerjax.model.loss import RowLoss, loss_by_row, token_loss, token_nll
from tigerjax.model.pipeline import LayerOrder, Pipeline
from tigerjax.model.reward import VALUE, new_value_head, score
from tigerjax.model.selection import Selection, selected
from tigerjax.train.feed import Fed
from tigerjax.train.policy_loss import PolicyBatch, policy_loss
from tigerjax.train.preference_loss import LOSSES, PreferenceBatch, Sums, answer_sums, preference_loss


class Prepare(Protocol):
    """What is done to a batch that has been fed, before its step."""

    def __call__(self, weights: Any, fed: Fed, interrupted: Callable[[], bool]) -> Fed | None:
        """`fed` with another batch on the devices, from the weights before the step. None when `interrupted()`, which
        is asked where this takes long. All hosts call it together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A model and its loss, as functions. A batch is any pytree of arrays whose leading axis is rows."""

    init: Callable[[jax.Array], Any]
    """key -> weights, leaves boxed by flax.linen.LogicallyPartitioned."""
    loss: Callable[[Any, Any], tuple[jax.Array, jax.Array, Sums]]
    """(weights, batch) -> (sum, weight, {metric: its sum}); the step divides all sums by the weight, once."""
    by_row: Callable[[Any, Any], RowLoss] | None = None
    """(weights, batch) -> the sums of the loss row by row, for validation; None: it has no validation."""
    kind: str
    """Of the checkpoint: see `families.of_kind`."""
    tokens: Callable[[Any], int] | None = None
    """Tokens of a batch of numpy arrays, for the throughput; None counts global_batch_size * seq_len."""
    prepare: Prepare | None = None
    """What is done to each batch before its step; what it adds is a constant for the gradient."""
    order: LayerOrder | None = None
    """Set when `init` and `loss` have the layers in stage order (an interleaved pipeline); None: layer order."""
    copies: int = 1
    """Of the model, which add their gradients once a step (`mesh.data_once`); 1: the compiler splits the work. Then the
    loss may run the layers once only, as `model.copies.added` asks."""
    trained: Selection | None = None
    """Which weights are trained; None: all. `init`, `loss` and `by_row` have all weights in any case."""

    def whole(self, trained: Any, frozen: Any) -> Any:
        """All weights, of the two parts that a training state has."""
        return trained if self.trained is None else self.trained.join(trained, frozen)

    def plain(self, weights: Any) -> Any:
        """All weights as arrays without adapters, which the sampler reads: the adapters are in their matrices."""
        return weights if self.trained is None else self.trained.plain(weights)


class Trained(Protocol):
    """The part of a RunConfig that the token objective reads."""

    @property
    def objective(self) -> ObjectiveConfig: ...
    @property
    def model(self) -> ModelConfig: ...
    @property
    def compute(self) -> ComputeConfig: ...
    @property
    def mesh(self) -> MeshConfig: ...
    @property
    def pipeline(self) -> PipelineConfig: ...
    @property
    def weights(self) -> WeightsConfig: ...
    @property
    def lora(self) -> LoraConfig: ...


class Decoder(NamedTuple):
    """A config's language model on a mesh, as objectives use it."""

    family: families.Family
    init: Callable[[jax.Array], Any]
    """key -> weights, boxed, with the layers in `order`."""
    hidden: Callable[[Any, Batch], jax.Array]
    """(weights, rows) -> hidden_BTD after the last norm."""
    cut: dict[str, int]
    """How the loss is cut into chunks: arguments of `token_loss` and `token_nll`."""
    by_row: Callable[[Any, Batch], RowLoss]
    """(weights, rows) -> the sums of the token loss row by row, for validation."""
    order: LayerOrder | None


def decoder(config: Trained, mesh: Mesh) -> Decoder:
    """The config's model, run as its mesh asks: in a scan over layers, or in a pipeline over stages."""
    stages, rounds, run = config.mesh.stage, config.pipeline.rounds, stack.scan_layers
    if stages > 1:
        run = Pipeline(mesh=mesh, microbatches=config.pipeline.microbatches, rounds=rounds)
    order = LayerOrder(stages=stages, rounds=rounds) if rounds > 1 else None
    family = families.of(config.model)
    model = family.language_model(config.model, config.compute, run, config.lora)

    def hidden(weights: Any, rows: Batch) -> jax.Array:
        inputs = rows.tokens_BT, rows.positions_BT, rows.segment_ids_BT
        hidden_BTD: Any = model.apply({"params": weights}, *inputs, method="hidden")
        return hidden_BTD

    cut = {
        "vocab_size": config.model.vocab_size,
        "chunk_tokens": config.compute.loss_chunk_tokens,
        "batch_shards": row_ways(mesh),
        "length_shards": mesh.shape[RULES["length"]],
    }

    def by_row(weights: Any, batch: Batch) -> RowLoss:
        rows: Any = _placed(batch)
        return loss_by_row(hidden(weights, rows), head(weights, config.model), rows.targets_BT, rows.weights_BT, **cut)

    return Decoder(family, lambda key: in_stage_order(init(model, key), order), hidden, cut, by_row, order)


def token_objective(config: Trained, mesh: Mesh) -> Objective:
    """Next-token cross-entropy of the config's model over `tigerjax.data.rows.Batch`; aux: accuracy, and with
    `objective.z_loss` both parts of the loss."""
    model, z_loss = decoder(config, mesh), config.objective.z_loss

    def loss(weights: Any, batch: Any) -> tuple[jax.Array, jax.Array, Sums]:
        rows: Any = _placed(batch)
        hidden_BTD, head_DV = model.hidden(weights, rows), head(weights, config.model)
        total = token_loss(hidden_BTD, head_DV, rows.targets_BT, rows.weights_BT, z_loss=z_loss, **model.cut)
        parts = {"nll_nats": total.loss_sum - total.z_sum, "z_loss_nats": total.z_sum} if z_loss else {}
        return total.loss_sum, total.weight, {"accuracy": total.correct, **parts}

    return Objective(
        init=model.init,
        loss=loss,
        by_row=model.by_row,
        kind=model.family.KIND,
        tokens=lambda batch: int(np.count_nonzero(batch.segment_ids_BT)),
        order=model.order,
        trained=selection_of(config),
    )


def answer_log_probs(config: Trained, mesh: Mesh) -> Callable[[Any, PreferenceBatch], jax.Array]:
    """(weights, batch) -> logp_BC: log pi of every answer of the batch in nats, the sum over its tokens."""
    model = decoder(config, mesh)

    def log_probs(weights: Any, batch: PreferenceBatch) -> jax.Array:
        batch = batch._replace(rows=_placed(batch.rows))
        hidden_BTD, head_DV = model.hidden(weights, batch.rows), head(weights, config.model)
        nll_BT = token_nll(hidden_BTD, head_DV, jnp.asarray(batch.rows.targets_BT), **model.cut)
        return -answer_sums(nll_BT * batch.rows.weights_BT, batch)

    return log_probs


def preference_objective(config: RunConfig, mesh: Mesh) -> Objective:
    """The loss over preferences that `config.objective` names, over `PreferenceBatch`.

    A loss with a reference reads its log-probabilities from the batch, unless the run `holds_reference`."""
    settings = config.objective
    assert isinstance(settings, PreferenceConfig)
    model, log_probs = decoder(config, mesh), answer_log_probs(config, mesh)
    of_reference = answer_log_probs(dataclasses.replace(config, lora=LoraConfig()), mesh)

    def loss(weights: Any, batch: Any) -> tuple[jax.Array, jax.Array, Sums]:
        if holds_reference(config):
            reference_BC = of_reference(adapters.without(weights, config.lora), batch)
            batch = batch._replace(reference_BC=jax.lax.stop_gradient(reference_BC))
        return preference_loss(settings, log_probs(weights, batch), batch)

    return Objective(
        init=model.init,
        loss=loss,
        by_row=model.by_row,
        kind=model.family.KIND,
        tokens=lambda batch: int(np.count_nonzero(batch.rows.segment_ids_BT)),
        order=model.order,
        trained=selection_of(config),
    )


def holds_reference(config: RunConfig) -> bool:
    """Whether the reference is computed with the run's own weights: without the adapters they are the reference, as
    long as only adapters are trained, and then no second model is in memory."""
    settings = config.objective
    each_step = isinstance(settings, ReferencedConfig) and settings.reference == "each_step"
    return (each_step or isinstance(settings, RlConfig)) and config.lora.rank > 0 and not config.weights.trained


def token_log_probs(config: Trained, mesh: Mesh) -> Callable[[Any, Any], tuple[jax.Array, jax.Array | None]]:
    """(weights, rows) -> (log pi of every target in nats, the value there where the weights have a value head), in the
    order of the row."""
    model = decoder(config, mesh)

    def log_probs(weights: Any, rows: Any) -> tuple[jax.Array, jax.Array | None]:
        rows = _placed(rows)
        hidden_BTD, head_DV = model.hidden(weights, rows), head(weights, config.model)
        nll_BT = token_nll(hidden_BTD, head_DV, jnp.asarray(rows.targets_BT), **model.cut)
        values_BT = score(hidden_BTD, weights[VALUE]) if VALUE in weights else None
        return jax.tree.map(_in_row_order, (-nll_BT, values_BT))

    return log_probs


def policy_objective(config: RunConfig, mesh: Mesh) -> Objective:
    """The policy gradient that `config.objective` names, over `PolicyBatch`. PPO's weights have a value head, which is
    0 at first.

    Raises ConfigError for a pipeline in rounds.
    """
    settings = config.objective
    assert isinstance(settings, RlConfig)
    selection = selection_of(config)
    model, log_probs = decoder(config, mesh), token_log_probs(config, mesh)

    def init(key: jax.Array) -> Any:
        weights = model.init(key)
        return weights | {VALUE: new_value_head(config.model)} if isinstance(settings, PpoConfig) else weights

    def loss(weights: Any, batch: PolicyBatch) -> tuple[jax.Array, jax.Array, Sums]:
        return policy_loss(settings, *log_probs(weights, batch.rows), batch)

    return Objective(
        init=init, loss=loss, by_row=model.by_row, kind=model.family.KIND, tokens=lambda _: 0, trained=selection
    )


def selection_of(config: Trained) -> Selection | None:
    """Which weights a run of a language model trains, the value head of PPO among them; None: all.

    Raises ConfigError as `selected` does, and for settings that reinforcement learning does not have.
    """
    selection = selected(config.weights, config.lora, config.model)
    if not isinstance(config.objective, RlConfig):
        return selection
    if config.pipeline.rounds > 1:
        raise ConfigError(
            f"pipeline.rounds={config.pipeline.rounds}: the layers lie in another order than the sampler reads; set"
            " pipeline.rounds=1"
        )
    if selection is not None and isinstance(config.objective, PpoConfig):
        return dataclasses.replace(selection, first={**selection.first, VALUE: 0})
    return selection


def _placed(rows: Batch) -> Batch:
    """The rows as the model reads them. Each device keeps whole rows of these small integers, and cuts out what it
    needs."""
    return jax.tree.map(lambda a: nn.with_logical_constraint(balanced(a), ("batch", None)), rows)


def _in_row_order(array_BT: jax.Array) -> jax.Array:
    return in_row_order(nn.with_logical_constraint(array_BT, ("batch", None)))


OBJECTIVES: dict[type[ObjectiveConfig], Callable[[RunConfig, Mesh], Objective]] = {
    ObjectiveConfig: token_objective,
    **dict.fromkeys(LOSSES, preference_objective),
    **dict.fromkeys((GrpoConfig, PpoConfig), policy_objective),
}
"""What makes the objective that a config names, by the class of `RunConfig.objective`."""


def of(config: RunConfig, mesh: Mesh) -> Objective:
    """The objective of the config.

    Raises ConfigError for settings that no objective has.
    """
    kind = type(config.objective)
    if kind not in OBJECTIVES:
        raise ConfigError(f"no objective has settings of type {kind.__name__}; add it to OBJECTIVES")
    if copies_alone(config.mesh) > 1 and isinstance(config.objective, KtoConfig):
        raise ConfigError(
            "objective is KtoConfig, whose estimate of the divergence is a mean over the answers of all copies of the"
            " model, and mesh.data_once=True lets each copy compute alone; set mesh.data_once=False"
        )
    return dataclasses.replace(OBJECTIVES[kind](config, mesh), copies=copies_alone(config.mesh))


def copies_alone(config: MeshConfig) -> int:
    """`Objective.copies` of a mesh."""
    return config.data if config.data_once else 1


def refuse_rewards(config: RunConfig) -> None:
    """ConfigError for a config of reinforcement learning, whose roll-outs only `tigerjax rl` draws."""
    if isinstance(config.objective, RlConfig):
        raise ConfigError(
            f"objective is {type(config.objective).__name__}, which learns from rewards; run `tigerjax rl`, or choose"
            " another objective"
        )


def in_stage_order(tree: Any, order: LayerOrder | None) -> Any:
    """`tree` with every leaf under a key "layers" (weights, moments) moved from layer order to stage order."""
    return tree if order is None else _move_layers(tree, order.to_stages)


def in_layer_order(tree: Any, order: LayerOrder | None) -> Any:
    """The inverse of `in_stage_order`."""
    return tree if order is None else _move_layers(tree, order.to_layers)


def _move_layers(tree: Any, move: Callable[[Any], Any]) -> Any:
    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        if all(getattr(key, "key", None) != "layers" for key in path) or leaf.shape == (1,):
            return leaf  # (1,): where Adafactor keeps no mean of this kind
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            # Leaf by leaf, each in its own sharding: at most one leaf is whole along 'stage' at a time.
            return jax.jit(move, out_shardings=leaf.sharding)(leaf)
        return move(leaf)

    return jax.tree_util.tree_map_with_path(one, tree)
