"""config.json of a Hugging Face Llama, both ways."""

from pathlib import Path
from typing import Any

from tigerjax.config import ModelConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.model.hf_config import BOS, EOS, OURS, HfConfig, TokenizerIds

KIND, REWARD_KIND = "llama", "reward"
HF_MODEL_TYPE, HF_LANGUAGE, HF_REWARD = "llama", "LlamaForCausalLM", "LlamaForSequenceClassification"
# What transformers takes for a key that an old config.json leaves out (Llama-2-7b-hf has no rope_theta).
OMITTED = {"rope_theta": 10_000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def to_hf_config(
    config: ModelConfig, *, reward: bool, rows: int, dtype: str, ids: TokenizerIds, extra: dict[str, Any]
) -> dict[str, Any]:
    """The content of config.json of a language or a reward model whose tensors have `rows` rows of vocabulary."""
    out: dict[str, Any] = {
        "architectures": [HF_REWARD if reward else HF_LANGUAGE],
        "model_type": HF_MODEL_TYPE,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.model_dim,
        "intermediate_size": config.mlp_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": rows,
        "rope_theta": config.rope_base,
        "rope_scaling": None,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": ids.pad,
        "torch_dtype": dtype,
        OURS: {"vocab_size": config.vocab_size, "padded_vocab_size": config.padded_vocab_size, "extra": extra},
    }
    if reward:
        out |= {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    return out


def from_hf_config(read: dict[str, Any], path: Path, *, reward: bool) -> HfConfig:
    """What a config.json says, of which `read` is the content and `path` the place. Refuses by name what our model does
    not compute: biases, scaled rope, another activation."""
    missing = [key for key in SIZES if key not in read]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}; the file is not a whole Llama config")
    rope = _rope(read)
    refused = [
        f"{key}={read[key]!r}"
        for key, plain in {"attention_bias": False, "mlp_bias": False}.items()
        if read.get(key, plain) != plain
    ]
    if read.get("hidden_act", OMITTED["hidden_act"]) != "silu":
        refused.append(f"hidden_act={read['hidden_act']!r}")
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        refused.append(
            f"rope_scaling {rope} (without that key the model is itself up to the length that it was trained at)"
        )
    if reward and len(read.get("id2label", {0: "", 1: ""})) != 1:
        refused.append("more labels than one")
    if refused:
        raise ConfigError(f"{path}: {'; '.join(refused)} is not computed by this model; convert another checkpoint")
    heads, vocab = read["num_attention_heads"], read.get(OURS, {})
    config = ModelConfig(
        num_layers=read["num_hidden_layers"],
        model_dim=read["hidden_size"],
        mlp_dim=read["intermediate_size"],
        num_heads=heads,
        num_kv_heads=read.get("num_key_value_heads") or heads,
        head_dim=read.get("head_dim") or read["hidden_size"] // heads,
        vocab_size=vocab.get("vocab_size", read["vocab_size"]),
        padded_vocab_size=vocab.get("padded_vocab_size", read["vocab_size"]),
        rope_base=float(rope["rope_theta"]),
        norm_eps=read.get("rms_norm_eps", OMITTED["rms_norm_eps"]),
    )
    return HfConfig(
        REWARD_KIND if reward else KIND,
        config,
        read["vocab_size"],
        bool(read.get("tie_word_embeddings", False)),
        vocab.get("extra", {}),
    )


def _rope(read: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 writes rope_parameters; 4 writes rope_theta and rope_scaling beside each other."""
    theta = {"rope_theta": read.get("rope_theta", OMITTED["rope_theta"])}
    return theta | (read.get("rope_scaling") or {}) | (read.get("rope_parameters") or {})
