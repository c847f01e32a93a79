"""The arithmetic of a Llama: how many parameters it has, what a token costs, what its backward pass needs saved."""

from tigerjax.config import ModelConfig
from tigerjax.model import stack


def matrices(config: ModelConfig) -> dict[str, int]:
    """Weights of each matrix of one layer, by the last part of its path in a checkpoint."""
    c = config
    q, kv = c.model_dim * c.num_heads * c.head_dim, c.model_dim * c.num_kv_heads * c.head_dim
    mlp = c.model_dim * c.mlp_dim
    return {"q": q, "k": kv, "v": kv, "o": q, "gate": mlp, "up": mlp, "down": mlp}


def layer_weights(config: ModelConfig) -> int:
    """Weights of the matrices of one layer; the norms are left out."""
    return sum(matrices(config).values())


def end_weights(config: ModelConfig) -> int:
    """Weights of the embedding and of the head together, the padding of the vocabulary included."""
    return 2 * config.padded_vocab_size * config.model_dim


def parameter_count(config: ModelConfig) -> int:
    """All parameters of a language model, norms and the padding of the vocabulary included."""
    layer = layer_weights(config) + 2 * config.model_dim
    return config.num_layers * layer + end_weights(config) + config.model_dim


def model_flops(config: ModelConfig, *, tokens: float, seq_len: int) -> float:
    """Floating-point operations of a forward and backward pass over `tokens`, in rows of `seq_len`.

    6 for each token and weight of a matrix (the head counts, the lookup of the embedding does not), and causal
    attention: 6 x L x N x H x seq_len for each token, half of the full square. Recomputation does not count.
    """
    c = config
    matmul_weights = c.num_layers * layer_weights(c) + c.model_dim * c.padded_vocab_size
    return 6.0 * tokens * (matmul_weights + c.num_layers * c.num_heads * c.head_dim * seq_len)


def saved_features(config: ModelConfig) -> dict[str, int]:
    """Numbers that a layer holds for each token under each checkpoint_name of `tigerjax.model.stack`."""
    c = config
    heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    return {
        stack.BLOCK_IN: c.model_dim,
        stack.QUERY: heads,
        stack.KEY: kv,
        stack.VALUE: kv,
        stack.ATTENTION_OUT: heads,
        stack.RESIDUAL: c.model_dim,
        stack.GATE: c.mlp_dim,
        stack.UP: c.mlp_dim,
    }


def recomputed_weights(config: ModelConfig, *, seq_len: int) -> dict[str, int]:
    """Weights whose products the backward pass computes again where the checkpoint_name is not saved.

    Attention itself has no weights. It counts as the weights that would cost as much: N x H x seq_len (causal).
    """
    of = matrices(config)
    return {
        stack.QUERY: of["q"] + of["k"] + of["v"],
        stack.ATTENTION_OUT: config.num_heads * config.head_dim * seq_len,
        stack.RESIDUAL: of["o"],
        stack.GATE: of["gate"],
        stack.UP: of["up"],
    }
