"""The weights of a decoder and their tensors in a Hugging Face folder.

Both sides pair rotary dimensions (i, i + H/2), so q and k need no permutation.
"""

import numpy as np

from tigerjax.config import ModelConfig
from tigerjax.model import rope
from tigerjax.model.weights import TensorRow

Array = np.ndarray
INVERSE_FREQUENCY = ".self_attn.rotary_emb.inv_freq"


def hf_rows(config: ModelConfig, *, rows: int, reward: bool = False) -> list[TensorRow]:
    """One row for each weight of a language model, or of a reward model. `rows` is the length of the vocabulary in
    their tensors: vocab_size where it is trimmed, else padded_vocab_size.

    The embedding comes first, the head or the score last. A tied head has no row."""
    c = config
    D, F, N, K, H, V = c.model_dim, c.mlp_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.padded_vocab_size
    hf = "model.layers.{}."

    def same(a: Array) -> Array:
        return a

    def flip(a: Array) -> Array:
        return a.T

    def vector(ours: str, theirs: str, width: int) -> TensorRow:
        return TensorRow(ours, theirs, (width,), (width,), 0, 1, same, same)

    def linear(ours: str, theirs: str, out: int, into: int, split_axis: int | None) -> TensorRow:
        return TensorRow(ours, theirs, (out, into), (into, out), 1, 1, flip, flip, split_axis)

    def heads(ours: str, theirs: str, n: int) -> TensorRow:
        to_ours, to_theirs = (lambda a: a.T.reshape(D, -1, H)), (lambda a: a.reshape(D, -1).T)
        return TensorRow(ours, hf + theirs, (n * H, D), (D, n, H), 1, H, to_ours, to_theirs, 0)

    def head_bias(ours: str, theirs: str, n: int) -> TensorRow:
        return TensorRow(ours, hf + theirs, (n * H,), (n, H), 0, H, lambda a: a.reshape(-1, H), lambda a: a.reshape(-1))

    more: list[TensorRow] = []
    if c.extras.qkv_bias:
        more += [
            head_bias("layers/attn/q_bias", "self_attn.q_proj.bias", N),
            head_bias("layers/attn/k_bias", "self_attn.k_proj.bias", K),
            head_bias("layers/attn/v_bias", "self_attn.v_proj.bias", K),
        ]
    if c.extras.o_bias:
        more.append(vector("layers/attn/o_bias", hf + "self_attn.o_proj.bias", D))
    if c.extras.qk_norm:
        more.append(vector("layers/attn/q_norm/scale", hf + "self_attn.q_norm.weight", H))
        more.append(vector("layers/attn/k_norm/scale", hf + "self_attn.k_norm.weight", H))

    out = [
        TensorRow("embed", "model.embed_tokens.weight", (rows, D), (V, D), 0, 1, same, same, 1),
        vector("layers/attn_norm/scale", hf + "input_layernorm.weight", D),
        heads("layers/attn/q", "self_attn.q_proj.weight", N),
        heads("layers/attn/k", "self_attn.k_proj.weight", K),
        heads("layers/attn/v", "self_attn.v_proj.weight", K),
        TensorRow(
            "layers/attn/o",
            hf + "self_attn.o_proj.weight",
            (D, N * H),
            (N, H, D),
            2,
            1,
            lambda a: a.T.reshape(N, H, -1),
            lambda a: a.reshape(N * H, -1).T,
        ),
        *more,
        vector("layers/mlp_norm/scale", hf + "post_attention_layernorm.weight", D),
        linear("layers/mlp/gate", hf + "mlp.gate_proj.weight", F, D, 0),
        linear("layers/mlp/up", hf + "mlp.up_proj.weight", F, D, 0),
        linear("layers/mlp/down", hf + "mlp.down_proj.weight", D, F, None),
        vector("final_norm/scale", "model.norm.weight", D),
    ]
    if reward:
        return [*out, TensorRow("score", "score.weight", (1, D), (D,), 0, 1, lambda a: a[0], lambda a: a[None])]
    if c.tied:
        return out
    return [*out, TensorRow("head", "lm_head.weight", (rows, D), (D, V), 1, 1, flip, flip, 0)]


def hf_buffer(name: str, config: ModelConfig) -> Array | None:
    """What a tensor must hold that older exports saved beside the weights and that follows from the config; None for
    any other name. Llama had one: the rotary frequencies."""
    if not name.endswith(INVERSE_FREQUENCY):
        return None
    return rope.frequencies(config.head_dim, config.rope_base, config.rope, 1)
