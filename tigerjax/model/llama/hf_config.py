"""config.json of a Hugging Face Llama, both ways."""

from typing import Any

from tigerjax.config import ModelConfig, ranges
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import hf_rope
from tigerjax.model.hf_config import OURS, SEQ_LEN, SOURCE, HfConfig, TokenizerIds, positions, source_fields
from tigerjax.model.hf_fields import Fields

KIND, REWARD_KIND = "llama", "reward"
HF_MODEL_TYPE, HF_LANGUAGE, HF_REWARD = "llama", "LlamaForCausalLM", "LlamaForSequenceClassification"
# What transformers takes for a key that an old config.json leaves out.
OMITTED = {"rms_norm_eps": 1e-6, "hidden_act": "silu"}
MAX_PADDING = 65_536
"""The most rows of padding that our own key may ask for: an import makes them of nothing."""


def to_hf_config(
    config: ModelConfig,
    *,
    reward: bool,
    rows: int,
    dtype: str,
    ids: TokenizerIds,
    extra: dict[str, Any],
    seq_len: int | None,
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
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.pad,
        "torch_dtype": dtype,
        OURS: {
            "vocab_size": config.vocab_size,
            "padded_vocab_size": config.padded_vocab_size,
            "extra": _ours_alone(extra),
        },
    } | hf_rope.written(config, extra, positions(extra, seq_len))
    if reward:
        out |= {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    return out


def from_hf_config(fields: Fields, *, reward: bool) -> HfConfig:
    """What a config.json says. DataError for a field that is missing or out of its range; ConfigError names what our
    model does not compute: biases, rope of an unknown kind, another activation, quantisation."""
    ours = fields.object(OURS)
    most = {name: int(allowed.range.most) for name, allowed in ranges.fields(ModelConfig).items() if allowed.range}
    heads = fields.whole("num_attention_heads", 1, most["num_heads"])
    width = fields.whole("hidden_size", 1, most["model_dim"])
    rows = fields.whole("vocab_size", 1, most["vocab_size"])
    padded = min(rows + MAX_PADDING, most["padded_vocab_size"])
    sizes: dict[str, Any] = {
        "num_layers": fields.whole("num_hidden_layers", 1, most["num_layers"]),
        "model_dim": width,
        "mlp_dim": fields.whole("intermediate_size", 1, most["mlp_dim"]),
        "num_heads": heads,
        "num_kv_heads": fields.whole("num_key_value_heads", 1, most["num_kv_heads"], default=None) or heads,
        "head_dim": fields.whole("head_dim", 1, most["head_dim"], default=None) or _even_share(fields, width, heads),
        "vocab_size": ours.whole("vocab_size", 1, most["vocab_size"], default=rows),
        "padded_vocab_size": ours.whole("padded_vocab_size", 1, padded, default=rows),
        "rope_base": hf_rope.theta(fields),
        "norm_eps": fields.real("rms_norm_eps", 0, 1, default=OMITTED["rms_norm_eps"]),
    }
    refused = _refused(fields, reward=reward)
    if refused:
        raise ConfigError(
            f"{fields.path}: {'; '.join(refused)} is not computed by this model; convert another checkpoint"
        )
    try:
        config = ModelConfig(**sizes, rope=hf_rope.scaling(fields))
    except ConfigError as error:  # of fields that contradict each other
        raise DataError(f"{fields.path}: {error}") from error
    return HfConfig(
        kind=REWARD_KIND if reward else KIND,
        config=config,
        rows=rows,
        tied=fields.flag("tie_word_embeddings"),
        extra=_ours_alone(ours.object("extra").content) | {SOURCE: source_fields(fields)},
        sized="vocab_size" in ours.content,
    )


def _ours_alone(extra: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's `extra` without what stands in Hugging Face's own fields."""
    return {name: value for name, value in extra.items() if name not in (SOURCE, SEQ_LEN)}


def _even_share(fields: Fields, width: int, heads: int) -> int:
    if width % heads:
        raise DataError(
            f"{fields.path}: hidden_size={width} is no multiple of num_attention_heads={heads}, and head_dim is not"
            " there; one of them is wrong"
        )
    return width // heads


def _refused(fields: Fields, *, reward: bool) -> list[str]:
    """What our model does not compute, each with its value."""
    refused = [f"{name}=True" for name in ("attention_bias", "mlp_bias") if fields.flag(name)]
    if (activation := fields.text("hidden_act", OMITTED["hidden_act"])) != "silu":
        refused.append(f"hidden_act={activation!r}")
    refused += hf_rope.refused(fields)
    if (method := fields.object("quantization_config")).content:
        refused.append(
            f"quantization_config ({method.text('quant_method', None) or 'no quant_method'}; its scales are not read."
            " Where the tensors are plain and not quantised, remove that key)"
        )
    if reward and len(fields.object("id2label").content or {"0": "", "1": ""}) != 1:
        refused.append("more labels than one")
    return refused
