"""The reward model: the trunk of a Llama with one scalar head instead of the vocabulary's."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.model import stack
from tigerjax.model.llama import model as llama


def score_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """N(0, 1/(D + 1)) in variance: the start of the score head (Stiennon et al. 2020, appendix B)."""
    return jax.random.normal(key, shape, dtype) * (shape[0] + 1) ** -0.5


class Reward(nn.Module):
    """Tokens to a score at every position; the caller picks the last token of each answer."""

    config: ModelConfig
    compute: ComputeConfig
    run: stack.Runner = stack.scan_layers

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
        """scores_BT in float32."""
        c = self.config
        x_BTD = llama.trunk(self, c, self.compute, self.run, tokens_BT, positions_BT, segment_ids_BT)
        score_D = llama.weight(self, "score", (c.model_dim,), ("norm",), score_init)
        # float32 head: rank differences are small beside the score itself.
        return jnp.einsum("BTD,D->BT", x_BTD.astype(jnp.float32), score_D)


def from_llama(weights: llama.Weights, key: jax.Array) -> llama.Weights:
    """Reward weights: those of a Llama without its head, with a fresh score head."""
    trunk = {name: w for name, w in weights.items() if name != "head"}
    return trunk | {"score": score_init(key, (weights["final_norm"]["scale"].shape[0],))}
