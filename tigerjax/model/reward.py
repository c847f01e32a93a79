"""The reward model: the trunk of a language model with a head of one score instead of the vocabulary's."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tigerjax.config import ComputeConfig, LoraConfig, ModelConfig
from tigerjax.model import stack
from tigerjax.model.decoder import trunk
from tigerjax.model.layers import Weights, weight

VALUE = "value"
"""The name of PPO's value head among the weights. Only training reads it: whatever opens a checkpoint leaves it out."""


def score_init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Initial weights of the score head: normal, with variance 1 / (D + 1) (Stiennon et al. 2020, appendix B)."""
    return jax.random.normal(key, shape, dtype) * (shape[0] + 1) ** -0.5


class RewardModel(nn.Module):
    """Tokens to a score at every position; the caller picks the last token of each answer."""

    config: ModelConfig
    compute: ComputeConfig
    run: stack.StackRunner = stack.scan_layers
    lora: LoraConfig = LoraConfig()

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
        """scores_BT in float32."""
        c = self.config
        x_BTD, _ = trunk(self, tokens_BT, positions_BT, segment_ids_BT)
        score_D = weight(self, "score", (c.model_dim,), ("norm",), score_init)
        return score(x_BTD, score_D)


def score(x_BTD: jax.Array, score_D: jax.Array) -> jax.Array:
    """scores_BT in float32: the head of one score on the trunk's output."""
    # float32 head: rank differences are small beside the score itself.
    return jnp.einsum("BTD,D->BT", x_BTD.astype(jnp.float32), score_D)


def new_value_head(config: ModelConfig) -> Any:
    """The value head of PPO, boxed: a score of 0 everywhere, so that training starts from no wrong belief."""
    return nn.LogicallyPartitioned(jnp.zeros(config.model_dim, jnp.float32), ("norm",))


def from_language(weights: Weights, key: jax.Array) -> Weights:
    """Weights of a reward model: those of a language model without its head, and a new score head drawn from `key`."""
    without_head = {name: w for name, w in weights.items() if name != "head"}
    return without_head | {"score": score_init(key, (weights["final_norm"]["scale"].shape[0],))}
