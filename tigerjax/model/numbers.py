"""The arithmetic of a decoder: how many parameters it has, what a token costs, what its backward pass needs saved."""

from collections.abc import Collection, Iterable

from tigerjax.config import ModelConfig
from tigerjax.model import stack
from tigerjax.model.adapters import A as LORA_A


def matrices(config: ModelConfig) -> dict[str, int]:
    """Weights of each matrix of one layer, by the last part of its path in a checkpoint."""
    c = config
    q, kv = c.model_dim * c.num_heads * c.head_dim, c.model_dim * c.num_kv_heads * c.head_dim
    mlp = c.model_dim * c.mlp_dim
    return {"q": q, "k": kv, "v": kv, "o": q, "gate": mlp, "up": mlp, "down": mlp}


def layer_weights(config: ModelConfig) -> int:
    """Weights of the matrices of one layer; norms and biases are left out."""
    return sum(matrices(config).values())


def end_weights(config: ModelConfig) -> int:
    """Weights of the embedding and of the head together, or of both in one; the padding of the vocabulary included."""
    return (1 if config.tied else 2) * config.padded_vocab_size * config.model_dim


def parameter_count(config: ModelConfig) -> int:
    """All parameters of a language model, norms, biases and the padding of the vocabulary included."""
    c = config
    layer = layer_weights(c) + 2 * c.model_dim
    layer += (c.num_heads + 2 * c.num_kv_heads) * c.head_dim * c.extras.qkv_bias
    layer += c.model_dim * c.extras.o_bias + 2 * c.head_dim * c.extras.qk_norm
    return config.num_layers * layer + end_weights(config) + config.model_dim


def adapter_weights(config: ModelConfig, targets: Iterable[str], rank: int) -> int:
    """Weights of the adapters of one layer: rank x (inputs + outputs) for each of the matrices `targets`."""
    c = config
    heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    outputs = {"q": heads, "k": kv, "v": kv, "o": heads, "gate": c.mlp_dim, "up": c.mlp_dim, "down": c.mlp_dim}
    return sum(rank * (c.model_dim + outputs[name]) for name in targets)


def model_flops(
    config: ModelConfig, *, tokens: float, seq_len: int, trained: Collection[str] | None = None, rank: int = 0
) -> float:
    """Floating-point operations of a forward and backward pass over `tokens`, in rows of `seq_len`.

    6 for each token and weight of a matrix (the head counts, the lookup of the embedding does not), and causal
    attention: 6 x L x N x H x seq_len for each token, half of the full square. A window leaves out what it does not
    see. Recomputation does not count.

    `trained` are the paths of the weights that are trained, adapters of `rank` among them; None: all. Of the 6, 2 are
    the forward pass, 2 the gradient by the input and 2 that by the weight. The last does not count for a frozen weight.
    That by the input counts where something before it is trained. An adapter counts as its own weights.
    """
    c = config
    layer, head = c.num_layers * layer_weights(c), c.model_dim * c.padded_vocab_size
    attention = c.num_layers * c.num_heads * c.head_dim * c.extras.seen(seq_len)
    if trained is None:
        return 6.0 * tokens * (layer + head + attention)
    names = {path.rpartition("/")[2] for path in trained}
    adapters = adapter_weights(c, (name for name in matrices(c) if name + LORA_A in names), rank) * c.num_layers
    in_layers = "embed" in trained or any(path.startswith("layers/") for path in trained)
    before_head = in_layers or "final_norm/scale" in trained
    of_head = bool({"embed" if c.tied else "head", "score"} & set(trained))
    of_layers = c.num_layers * sum(weights for name, weights in matrices(c).items() if name in names)
    total = 2 * (layer + head + attention + adapters)
    total += in_layers * (2 * (layer + adapters) + 4 * attention) + before_head * 2 * head
    return float(tokens * (total + 2 * (of_layers + adapters + of_head * head)))


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

    Attention itself has no weights. It counts as the weights that would cost as much: N x H x seq_len (causal), or less
    with a window.
    """
    of = matrices(config)
    return {
        stack.QUERY: of["q"] + of["k"] + of["v"],
        stack.ATTENTION_OUT: round(config.num_heads * config.head_dim * config.extras.seen(seq_len)),
        stack.RESIDUAL: of["o"],
        stack.GATE: of["gate"],
        stack.UP: of["up"],
    }
